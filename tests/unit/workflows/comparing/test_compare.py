"""Comparing manifests: what became of each tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from git_theta.core.manifest import Entry, Link, Manifest, ObjectRef, dump, parse
from git_theta.errors import ManifestError
from git_theta.workflows.comparing.compare import (
    Comparison,
    TensorChange,
    compare,
    compare_texts,
    matches,
    narrow,
    select,
)


def sha(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def entry(
    name: str,
    content: object = "",
    shape: tuple[int, ...] = (8, 8),
    dtype: str = "f32",
    aliases: Sequence[str] = (),
    size: int = 100,
) -> Entry:
    identity = sha(name if content == "" else content)
    return Entry(
        name,
        dtype,
        shape,
        identity,
        (Link("dense", (ObjectRef(sha("object" + identity), size).whole,)),),
        None,
        tuple(aliases),
    )


def manifest(*entries: Entry, skeleton: str = "s") -> Manifest:
    total = sum(item.nbytes for item in entries)
    head = Entry(
        "skeleton",
        "u8",
        (100,),
        sha(skeleton),
        (Link("dense", (ObjectRef(sha("o" + skeleton), 90).whole,)),),
    )
    return Manifest("safetensors", total + 100, head, entries, {})


def kinds(found: Comparison) -> list[tuple[str, str | None, str | None]]:
    return [
        (change.kind, change.old and change.old.name, change.new and change.new.name)
        for change in found.changes
    ]


def test_each_kind() -> None:
    old = manifest(
        entry("gone"),
        entry("kept"),
        entry("edited", 1),
        entry("before", "x"),
        entry("grown", shape=(8, 8)),
        entry("cast", "y"),
        entry("last"),
    )
    new = manifest(
        entry("kept"),
        entry("edited", 2),
        entry("after", "x"),
        entry("grown", shape=(9, 8)),
        entry("cast", "z", dtype="bf16"),
        entry("new"),
    )
    found = compare(old, new)
    assert kinds(found) == [
        ("removed", "gone", None),
        ("modified", "edited", "edited"),
        ("renamed", "before", "after"),
        ("reshaped", "grown", "grown"),
        ("retyped", "cast", "cast"),
        ("added", None, "new"),
        ("removed", "last", None),
    ]
    assert found.unchanged == 1
    assert found.tensors == 6
    assert found.counts == {
        "added": 1,
        "removed": 2,
        "modified": 1,
        "renamed": 1,
        "reshaped": 1,
        "retyped": 1,
    }
    assert not found.same
    assert found.stored == 3 * 100


def test_no_model_on_a_side() -> None:
    one = manifest(entry("a"), entry("b"))
    assert kinds(compare(None, one)) == [("added", None, "a"), ("added", None, "b")]
    assert kinds(compare(one, None)) == [("removed", "a", None), ("removed", "b", None)]
    assert compare(None, one).stored == 290
    assert compare(one, None).stored == 0
    assert compare(one, None).tensors == 2
    assert compare(None, None).same


def test_the_same_is_the_same_in_any_order() -> None:
    one, two = entry("a"), entry("b")
    found = compare(manifest(one, two), manifest(two, one))
    assert (found.changes, found.unchanged, found.same) == ((), 2, True)
    other = compare(manifest(one), manifest(one, skeleton="t"))
    assert other.other_content
    assert not other.same
    assert other.stored == 90


def test_renamed_equals_go_by_their_last_component() -> None:
    old = manifest(entry("x.bias", 0), entry("x.weight", 0), entry("y.bias", 0))
    new = manifest(entry("z.weight", 0), entry("z.bias", 0), entry("w.bias", 0), entry("v.bias", 0))
    assert kinds(compare(old, new)) == [
        ("renamed", "x.weight", "z.weight"),
        ("renamed", "x.bias", "z.bias"),
        ("renamed", "y.bias", "w.bias"),
        ("added", None, "v.bias"),
    ]


def test_a_prefix_put_in_front_is_seen_through_changed_values() -> None:
    old = manifest(entry("h.0.w", 1), entry("h.1.w", 2), entry("lone", 3))
    new = manifest(entry("model.h.0.w", 4), entry("model.h.1.w", 5), entry("other", 6))
    wanted = [
        ("modified", "h.0.w", "model.h.0.w"),
        ("modified", "h.1.w", "model.h.1.w"),
        ("removed", "lone", None),
        ("added", None, "other"),
    ]
    assert sorted(kinds(compare(old, new)), key=str) == sorted(wanted, key=str)
    back = [("modified", b, a) for _, a, b in wanted[:2]] + [
        ("added", None, "lone"),
        ("removed", "other", None),
    ]
    assert sorted(kinds(compare(new, old)), key=str) == sorted(back, key=str)
    ambiguous = compare(manifest(entry("a.w", 1), entry("b.w", 2)), manifest(entry("w", 3)))
    assert ambiguous.counts["modified"] == 0


def test_tied_and_untied() -> None:
    tied = manifest(entry("wte", 1, aliases=["head"]))
    apart = manifest(entry("wte", 1), entry("head", 1))
    assert kinds(compare(tied, apart)) == [("renamed", "wte", "wte"), ("renamed", "wte", "head")]
    assert kinds(compare(apart, tied)) == [("renamed", "wte", "wte"), ("renamed", "head", "wte")]
    trained = manifest(entry("wte", 1), entry("head", 2))
    assert kinds(compare(tied, trained)) == [("renamed", "wte", "wte"), ("modified", "wte", "head")]
    assert kinds(compare(tied, manifest(entry("head", 1, aliases=["wte"])))) == [
        ("renamed", "wte", "head")
    ]


def test_narrowing_keeps_the_result() -> None:
    old = manifest(*(entry(f"t{i}", i) for i in range(50)))
    new = manifest(*(entry(f"t{i}", i if i % 7 else -i - 1) for i in range(50)))
    whole, lines = compare(old, new), compare_texts(dump(old), dump(new))
    assert (whole.changes, whole.unchanged) == (lines.changes, lines.unchanged)
    first, second, same = narrow(dump(old), dump(new))
    assert same == whole.unchanged
    assert len(parse(first).entries) == len(parse(second).entries) == 8
    assert compare_texts(None, dump(new)).counts["added"] == 50


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 3), st.booleans()),
        unique_by=lambda item: item[0],
    ),
    # Fmt: skip
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 3), st.booleans()),
        unique_by=lambda item: item[0],
    ),
)
@example([("a", 0, False), ("b", 1, False)], [("b", 1, False), ("c", 1, False)])
def test_every_tensor_is_accounted_for(
    first: list[tuple[str, int, bool]], second: list[tuple[str, int, bool]]
) -> None:
    old, new = (
        manifest(*(entry(f"m.{n}", c, (8, 8) if wide else (4, 16)) for n, c, wide in side))
        for side in (first, second)
    )
    found = compare(old, new)
    assert found.unchanged + sum(change.old is not None for change in found.changes) == len(
        old.entries
    )
    assert found.unchanged + sum(change.new is not None for change in found.changes) == len(
        new.entries
    )
    assert len({change.new.name for change in found.changes if change.new}) == sum(
        change.new is not None for change in found.changes
    )
    for change in found.changes:
        match change:
            case TensorChange("renamed", Entry() as a, Entry() as b):
                assert (a.digest, a.spec) == (b.digest, b.spec)
            case TensorChange("modified", Entry() as a, Entry() as b):
                assert a.digest != b.digest
                assert a.spec == b.spec
            case TensorChange("reshaped", Entry() as a, Entry() as b):
                assert a.shape != b.shape
            case TensorChange("added", None, Entry()) | TensorChange("removed", Entry(), None):
                pass
            case _:
                pytest.fail(str(change))
    assert compare_texts(dump(old), dump(new)).changes == found.changes


def test_damaged_manifests_are_errors() -> None:
    good = dump(manifest(entry("a"), entry("b")))
    lines = good.split(b"\n")
    for bad in (good[:-5], good + b"x", good + lines[-2] + b"\n", b"git-theta manifest 1\n", b""):
        with pytest.raises(ManifestError):
            compare_texts(good, bad)
        with pytest.raises(ManifestError):
            compare_texts(bad, good)


def test_patterns() -> None:
    assert matches("h.0.attn.weight", ["*.attn.*"])
    assert matches("h.0.attn.weight", ["h.0"])
    assert not matches("h.00.attn.weight", ["h.0"])
    assert matches("x", ["x"])
    assert not matches("X", ["x"])
    found = compare(
        manifest(entry("a", 1), entry("b", 1)),
        manifest(entry("a", 2), entry("c", 1), entry("d", 5, aliases=["tied"])),
    )
    assert [change.name for change in select(found.changes, ["b", "tied"])] == ["c", "d"]
    assert select(found.changes, []) == list(found.changes)
