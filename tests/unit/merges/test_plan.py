from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_examples import item, manifest, of, tensor

from git_theta.core import dtypes
from git_theta.core.digest import digest
from git_theta.core.manifest import Entry, Manifest
from git_theta.errors import MergeError
from git_theta.merges.finish import choose_file, finish
from git_theta.merges.items import CONFLICTS, ByteFormats, MergePlan, reason
from git_theta.merges.plan import plan


def names(entries: Sequence[Entry]) -> list[str]:
    return [entry.name for entry in entries]


BASE = of(a="0", b="0", c="0")


def test_every_case_of_two_sides() -> None:
    """All ways in which a tensor can be, with one letter a value and - for none: base, ours,
    theirs.
    """
    expected = {
        "000": "unchanged", "010": "one-side", "001": "one-side", "011": "equal", "012": "changed",
        "00-": "removed", "0-0": "removed", "0--": "removed", "01-": "removed-changed",
        "0-1": "removed-changed",
        "-11": "added", "-1-": "added", "--1": "added", "-12": "added-apart",
    }  # fmt: skip
    for values, kind in expected.items():
        b, o, t = tuple(values)
        base, ours, theirs = (of(k="0", **({} if v == "-" else {"x": v})) for v in (b, o, t))
        decided = plan(base, [ours, theirs])
        found = item(decided, "x")
        assert (found.kind, found.conflict) == (kind, kind in CONFLICTS), (b, o, t)
        assert decided.clean == (kind not in CONFLICTS)
        assert found.active == tuple(i for i, v in enumerate((o, t)) if v != b)
        if kind in ("unchanged", "one-side", "equal", "added"):
            taken = next((v for v in (o, t) if v != b), b)
            assert found.result is not None
            assert found.result.digest == tensor("x", taken).digest
        else:
            assert found.result is None


@pytest.mark.parametrize("count", [2, 3, 4])
def test_many_sides_by_brute_force(count: int) -> None:
    """Each tensor by itself: at most one new value among the sides that differ from the base is no
    conflict.
    """
    cases = [
        "".join(values) for values in product("012-", repeat=count + 1) if set(values) != {"-"}
    ]
    tables = [
        {f"t{number}": values[at] for number, values in enumerate(cases)} for at in range(count + 1)
    ]
    base, *sides = (
        of(**{name: value for name, value in table.items() if value != "-"}) for table in tables
    )
    decided = plan(base, sides)
    assert len(decided.items) == len(cases)
    for number, values in enumerate(cases):
        found = item(decided, f"t{number}")
        before, after = values[0], values[1:]
        new = {value for value in after if value != before}
        assert found.conflict == (len(new) > 1), values
        assert found.active == tuple(i for i, value in enumerate(after) if value != before)
        if len(new) <= 1:
            value = new.pop() if new else before
            assert (found.result is None) == (value == "-")
            assert value == "-" or found.result == tensor(f"t{number}", value)


@given(st.permutations(range(4)))
def test_which_side_comes_first_changes_no_decision(order: list[int]) -> None:
    sides = [
        of(a="1", b="0", c="0"),
        of(a="1", b="2", c="0"),
        of(a="0", b="3", c="0", d="4"),
        of(a="0", b="0", e="5"),
    ]
    plain, turned = (
        {(i.name, i.kind, i.result and i.result.digest) for i in plan(BASE, some).items}
        for some in (sides, [sides[i] for i in order])
    )
    assert plain == turned


def test_a_decided_tensor_is_taken_with_its_storage_as_it_is() -> None:
    ours, theirs = of(a="1", b="0", c="0"), of(a="0", b="2", c="0")
    entries = finish(plan(BASE, [ours, theirs]), {})
    assert entries == (ours.by_name["a"], theirs.by_name["b"], ours.by_name["c"])


def test_a_merge_with_no_base_compares_the_sides() -> None:
    decided = plan(None, [of(a="1", b="1", c="1"), of(a="1", b="2", d="3")])
    assert {i.name: i.kind for i in decided.items} == {
        "a": "added",
        "b": "added-apart",
        "c": "unrelated",
        "d": "unrelated",
    }
    assert not item(decided, "b").base_fits
    assert item(decided, "b").numeric
    # Nothing tells whether one side added 'c' or the other removed it.
    assert (
        reason(item(decided, "c")) == "the sides' models have no common ancestor: f32[16,16], none"
    )
    assert not item(decided, "c").numeric
    assert names(finish(decided, {i.name: i.sides[0] for i in decided.conflicts})) == [
        "a",
        "b",
        "c",
    ]


def test_two_new_models_in_place_of_the_old_one_are_not_put_together() -> None:
    decided = plan(BASE, [of(x="1", y="1"), of(z="1")])
    assert {i.name: i.kind for i in decided.conflicts} == dict.fromkeys("xyz", "unrelated")
    assert names(finish(decided, {i.name: i.sides[1] for i in decided.conflicts})) == ["z"]
    # A model that was replaced on one side is; so are additions to what both still have.
    assert plan(BASE, [of(x="1", y="1"), BASE]).clean
    assert plan(BASE, [of(a="1", x="1"), of(a="1", y="1")]).clean
    assert plan(BASE, [of(x="1"), of(x="1")]).clean


BYTES = ByteFormats(frozenset({"opaque", "stored-zip"}), frozenset({"opaque"}))


def test_pieces_of_a_file_nobody_understood_are_not_mixed() -> None:
    def decide(base: Manifest, sides: list[Manifest]) -> MergePlan:
        return plan(base, sides, formats=BYTES)

    def file(*values: str) -> Manifest:
        return manifest(
            *(tensor(f"bytes.{i}", value, "u8", (300,)) for i, value in enumerate(values)),
            form="opaque",
        )

    decided = decide(file("0", "0", "0"), [file("1", "0", "0"), file("0", "0", "2", "3")])
    assert {i.name: i.kind for i in decided.items} == {
        "bytes.0": "changed", "bytes.1": "unchanged", "bytes.2": "changed",
        "bytes.3": "removed-changed"
    }  # fmt: skip
    for side, count in ((0, 3), (1, 4)):
        chosen = {i.name: i.sides[side] for i in decided.conflicts}
        assert len(finish(decided, chosen)) == count
    assert decide(file("0", "0"), [file("1", "0"), file("0", "0")]).clean
    assert decide(file("0", "0"), [file("1", "2"), file("1", "2")]).clean


def test_a_merge_of_one_side_is_none() -> None:
    with pytest.raises(MergeError, match="at least two sides, not 1"):
        plan(BASE, [BASE])


# What a conflict says


def test_shapes_and_types_that_differ() -> None:
    base = manifest(tensor("x", "0"), tensor("y", "0"), tensor("z", "0"))
    ours = manifest(
        tensor("x", "1", shape=(20, 16)),
        tensor("y", "1", dtype="bf16"),
        tensor("z", "1", shape=(9, 9)),
    )
    theirs = manifest(tensor("x", "2"), tensor("y", "2"), tensor("z", "0"))
    decided = plan(base, [ours, theirs])
    x, y, z = (item(decided, name) for name in "xyz")
    assert (x.kind, x.numeric, x.fits, x.base_fits) == ("reshaped", True, False, False)
    assert reason(x) == "reshaped: f32[20,16], f32[16,16]"
    assert (y.kind, y.fits) == ("dtype", False)
    assert reason(y) == "element types differ: bf16[16,16], f32[16,16]"
    assert (z.kind, z.result) == ("one-side", ours.by_name["z"])
    both = manifest(tensor("x", "3", shape=(20, 16)), *theirs.entries[1:])
    grown = item(plan(base, [ours, both]), "x")
    assert (grown.kind, grown.fits, grown.base_fits) == ("changed", True, False)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("changed", "changed on 2 sides: f32[16,16]"),
        ("removed-changed", "removed on one side, changed on another: removed, f32[16,16]"),
        ("added-apart", "added on 2 sides: f32[16,16]"),
    ],
)
def test_reasons(kind: str, words: str) -> None:
    sides = {
        "changed": (of(a="0"), of(a="1"), of(a="2")),
        "removed-changed": (of(a="0", k="0"), of(k="0"), of(a="1", k="0")),
        "added-apart": (of(k="0"), of(a="1", k="0"), of(a="2", k="0")),
    }[kind]
    assert reason(item(plan(sides[0], sides[1:]), "a")) == words


def test_types_no_strategy_computes_with() -> None:
    def one(value: str, dtype: str, shape: tuple[int, ...] = (256, 32)) -> Manifest:
        return manifest(tensor("x", value, dtype, shape))

    for dtype in ("bf16", "f8_e4m3fn", "c64", "q4_0", "f8_e8m0fnu", "f4_e2m1", "c32"):
        found = item(plan(one("0", dtype), [one("1", dtype), one("2", dtype)]), "x")
        assert (found.kind, found.numeric) == (
            "changed",
            dtype in ("bf16", "f8_e4m3fn", "c64"),
        ), dtype


# Counters and training state


def scalar(name: str, value: str, dtype: str = "i64", shape: tuple[int, ...] = ()) -> Manifest:
    return manifest(tensor("w", "0"), tensor(name, value, dtype, shape))


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("bn.num_batches_tracked", "i64", ()),
        ("opt_state/0/count", "i32", ()),
        ("lr_scheduler.warm", "bool", ()),
        ("optimizer.state.0.step", "f32", ()),
        ("optimizer/param_groups/0/initial", "f64", (1,)),
        ("model.epoch", "f32", ()),
    ],
)
def test_counters_follow_the_first_side_with_a_notice(
    name: str, dtype: str, shape: tuple[int, ...]
) -> None:
    ours, theirs = scalar(name, "1", dtype, shape), scalar(name, "2", dtype, shape)
    decided = plan(scalar(name, "0", dtype, shape), [ours, theirs])
    assert decided.clean
    assert item(decided, name).kind == "counter"
    assert finish(decided, {}) == ours.entries
    assert decided.notices() == (
        f"changed on several sides; a counter is not merged, the first side's is kept: {name}",
    )
    # Equal ones and those of one side are no news.
    assert plan(scalar(name, "0", dtype, shape), [ours, ours]).notices() == ()
    assert (
        finish(plan(scalar(name, "0", dtype, shape), [scalar(name, "0", dtype, shape), theirs]), {})
        == theirs.entries
    )
    # A side that left it alone has no say among three.
    three = plan(scalar(name, "0", dtype, shape), [scalar(name, "0", dtype, shape), theirs, ours])
    assert finish(three, {}) == theirs.entries


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("logit_scale", "f32", ()),
        ("step_size", "f32", (1,)),
        ("q.weight", "i8", (512, 512)),
        ("q.zero_point", "i32", ()),
        ("qzeros", "i32", (4, 8)),
        ("mask", "bool", (128, 4)),
        ("rng_state", "u8", (5056,)),
        ("optimizer.step", "i64", (3,)),
        ("optimizer.exp_avg", "f32", (4, 4)),
        ("optimizer.state.0.exp_avg_sq", "f32", ()),
    ],
)
def test_weights_are_no_counters(name: str, dtype: str, shape: tuple[int, ...]) -> None:
    found = item(
        plan(
            scalar(name, "0", dtype, shape),
            [scalar(name, "1", dtype, shape), scalar(name, "2", dtype, shape)],
        ),
        name,
    )
    assert (found.kind, found.numeric) == ("changed", dtype == "f32")


@pytest.mark.parametrize("form", ["opaque", "stored-zip"])
def test_bytes_of_files_nobody_understood_are_content(form: str) -> None:
    base, ours, theirs = (
        manifest(tensor("bytes", value, "u8", (300,)), form=form) for value in "012"
    )
    decided = plan(base, [ours, theirs], formats=BYTES)
    assert [(i.kind, i.numeric) for i in decided.conflicts] == [("changed", False)]
    assert decided.notices() == ()


def test_many_counters_are_one_notice() -> None:
    sides = [
        manifest(*(tensor(f"n{i}/step", str(value), "i64", ()) for i in range(8)))
        for value in range(3)
    ]
    shown = "n0/step, n1/step, n2/step, n3/step, n4/step and 3 more"
    assert plan(sides[0], sides[1:]).notices() == (
        f"changed on several sides; a counter is not merged, the first side's is kept: {shown}",
    )


# Tied weights


def tied(value: str, *more: Entry, also: tuple[str, ...] = ("head",)) -> Manifest:
    return manifest(tensor("embed", value, also=also), *more)


def test_tied_weights_are_one_conflict() -> None:
    decided = plan(tied("0"), [tied("1"), tied("2")])
    (conflict,) = decided.conflicts
    assert (conflict.name, conflict.aliases, conflict.kind) == ("embed", ("head",), "changed")
    merged = tensor("anything", "3")
    assert [(e.name, e.aliases, e.digest) for e in finish(decided, {"embed": merged})] == [
        ("embed", ("head",), merged.digest)
    ]


def test_tied_weights_change_on_one_side() -> None:
    assert finish(plan(tied("0"), [tied("0"), tied("1")]), {}) == tied("1").entries


def test_equal_copies_are_merged_once() -> None:
    """What a format without aliases stores twice: one random mask must not make two of it."""
    base, ours, theirs = (
        manifest(tensor("embed", v), tensor("mid", "0"), tensor("head", v)) for v in "012"
    )
    decided = plan(base, [ours, theirs])
    assert [c.name for c in decided.conflicts] == ["embed"]
    assert item(decided, "head").twin == "embed"
    merged = tensor("embed", "3")
    done = finish(decided, {"embed": merged})
    assert [(e.name, e.digest) for e in done] == [
        ("embed", merged.digest),
        ("mid", tensor("mid", "0").digest),
        ("head", merged.digest),
    ]
    # A copy can still be resolved by itself.
    assert (
        finish(decided, {"embed": merged, "head": tensor("head", "4")})[2].digest
        == tensor("head", "4").digest
    )
    # Equal on two of three manifests only: no twins.
    apart = manifest(tensor("embed", "2"), tensor("mid", "0"), tensor("head", "5"))
    assert [c.name for c in plan(base, [ours, apart]).conflicts] == ["embed", "head"]


def test_untied_on_one_side_stays_untied() -> None:
    ours = manifest(tensor("embed", "1"), tensor("head", "2"))
    decided = plan(tied("0"), [ours, tied("0")])
    assert finish(decided, {}) == ours.entries
    both = plan(tied("0"), [ours, tied("3")])
    assert [(c.name, c.kind) for c in both.conflicts] == [("embed", "changed"), ("head", "changed")]
    assert [c.entries[1].digest for c in both.conflicts] == [tied("3").entries[0].digest] * 2


def test_tied_on_one_side_becomes_tied() -> None:
    base = manifest(tensor("embed", "0"), tensor("head", "1"))
    decided = plan(base, [tied("2"), base])
    assert finish(decided, {}) == tied("2").entries
    apart = manifest(tensor("embed", "0"), tensor("head", "5"))
    (conflict,) = plan(base, [tied("2"), apart]).conflicts
    assert (conflict.kind, conflict.numeric, conflict.aliases) == ("tied-apart", False, ("head",))
    assert reason(conflict).startswith("tied on one side, changed separately on another")


def test_another_name_added_or_dropped() -> None:
    wider = tied("0", also=("head", "decoder"))
    assert finish(plan(tied("0"), [tied("1"), wider]), {})[0].aliases == ("head", "decoder")
    assert finish(plan(wider, [replace_digest(wider, "1"), tied("0")]), {})[0].aliases == ("head",)
    assert [
        (e.name, e.aliases)
        for e in finish(plan(tied("0"), [manifest(tensor("embed", "0")), tied("1")]), {})
    ] == [("embed", ())]


def replace_digest(one: Manifest, value: str) -> Manifest:
    return manifest(
        *(entry._replace(digest=tensor(entry.name, value).digest) for entry in one.entries)
    )


def test_sides_that_tie_differently_part_the_names() -> None:
    base = manifest(tensor("a", "0"), tensor("b", "0"), tensor("c", "0"))
    ours = manifest(tensor("a", "0", also=("b",)), tensor("c", "0"))
    theirs = manifest(tensor("a", "0", also=("c",)), tensor("b", "0"))
    decided = plan(base, [ours, theirs])
    assert decided.clean
    assert sorted(names(finish(decided, {}))) == ["a", "b", "c"]
    assert decided.notices() == ("tied differently on the sides, so stored separately: a, b, c",)


def test_the_name_that_leads_may_differ() -> None:
    turned = manifest(tensor("head", "1", also=("embed",)))
    decided = plan(tied("0"), [tied("0"), turned])
    (entry,) = finish(decided, {})
    assert {entry.name, *entry.aliases} == {"embed", "head"}
    assert entry.digest == turned.entries[0].digest


def test_thousands_of_names_on_one_extent() -> None:
    also = tuple(f"view{i}" for i in range(5000))
    sides = [tied(v, also=also[: 5000 - i]) for i, v in enumerate("012")]
    assert [c.kind for c in plan(sides[0], sides[1:]).conflicts] == ["changed"]
    parted = manifest(tensor("embed", "3"), *(tensor(name, str(i)) for i, name in enumerate(also)))
    assert len(plan(sides[0], [sides[1], parted]).items) >= 5000


# Renames


def test_a_rename_follows_the_other_sides_change() -> None:
    base, ours, theirs = of(old_w="0", k="0"), of(new_w="0", k="0"), of(old_w="1", k="0")
    for sides in ([ours, theirs], [theirs, ours]):
        decided = plan(base, sides)
        assert decided.clean
        found = item(decided, "new.w")
        assert (found.renamed_from, found.kind) == ("old.w", "one-side")
        assert found.result is not None
        assert (found.result.name, found.result.digest) == ("new.w", tensor("", "1").digest)
        assert names(finish(decided, {})) == ["new.w", "k"]


def test_both_rename_alike() -> None:
    base = of(old_w="0", k="0")
    decided = plan(base, [of(new_w="0", k="0"), of(new_w="0", k="1")])
    assert names(finish(decided, {})) == ["new.w", "k"]


def test_renames_that_conflict() -> None:
    base = of(old_w="0", k="0")
    (apart,) = plan(base, [of(one_w="0", k="0"), of(two_w="0", k="0")]).conflicts
    assert (apart.kind, apart.name, apart.active) == ("renamed-apart", "one.w", (0, 1))
    (gone,) = plan(base, [of(one_w="0", k="0"), of(k="0")]).conflicts
    assert (gone.kind, gone.active) == ("removed-changed", (0, 1))
    taken = plan(base, [of(new_w="0", k="0"), of(old_w="0", new_w="7", k="0")])
    assert {(i.name, i.kind) for i in taken.items} == {
        ("old.w", "renamed-apart"),
        ("new.w", "added"),
        ("k", "unchanged"),
    }
    assert len({i.name for i in taken.items}) == 3
    assert "renamed differently" in reason(apart)
    crossed = plan(
        of(a_w="1", b_w="2", k="0"), [of(n_w="1", b_w="2", k="0"), of(a_w="1", n_w="2", k="0")]
    )
    assert sorted((i.name, i.kind) for i in crossed.conflicts) == [
        ("a.w", "renamed-apart"),
        ("b.w", "renamed-apart"),
    ]


def zeros(name: str, shape: tuple[int, ...] = (16, 16)) -> Entry:
    return tensor(name, "zero", shape=shape)._replace(
        digest=digest(bytes(dtypes.nbytes("f32", shape)))
    )


def test_a_prefix_explains_what_digests_alone_cannot() -> None:
    """Biases of zeros share one digest, and tiny values prove nothing; their neighbours do."""

    def model(prefix: str, change: Mapping[str, str] = {}) -> Manifest:
        entries = []
        for layer in "12":
            bias = f"{layer}.bias"
            entries.append(
                tensor(f"{prefix}{layer}.weight", change.get(f"{layer}.weight", f"w{layer}"))
            )
            entries.append(
                tensor(prefix + bias, change[bias]) if bias in change else zeros(prefix + bias)
            )
            entries.append(
                tensor(f"{prefix}{layer}.scale", change.get(f"{layer}.scale", "s"), shape=(4,))
            )
        return manifest(*entries)

    base, ours, theirs = (
        model("model."),
        model("net.body."),
        model("model.", {"2.bias": "new", "2.scale": "t", "1.weight": "x"}),
    )
    decided = plan(base, [ours, theirs])
    assert decided.clean
    entries = finish(decided, {})
    assert names(entries) == names(ours.entries)
    assert [e.digest for e in entries] == [e.digest for e in theirs.entries]


def test_equal_constants_are_no_proof_of_a_rename() -> None:
    k = tensor("k", "0")
    decided = plan(
        manifest(zeros("a.bias"), k),
        [manifest(zeros("b.bias"), k), manifest(tensor("a.bias", "1"), k)],
    )
    assert [(c.name, c.kind) for c in decided.conflicts] == [("a.bias", "removed-changed")]


def test_tied_weights_can_be_renamed() -> None:
    base = manifest(tensor("m.embed", "0", also=("m.head",)))
    ours = manifest(tensor("embed", "0", also=("head",)))
    theirs = manifest(tensor("m.embed", "1", also=("m.head",)))
    (entry,) = finish(plan(base, [ours, theirs]), {})
    assert (entry.name, entry.aliases, entry.digest) == (
        "embed",
        ("head",),
        theirs.entries[0].digest,
    )


# The file


def test_order_is_that_of_the_file_whose_skeleton_is_taken() -> None:
    base = of(a="0", b="0", c="0")
    ours = of(a="0", x="1", b="0", c="0")
    theirs = of(a="0", b="0", y="1", c="0", z="1")
    assert names(finish(plan(base, [ours, theirs]), {})) == ["a", "x", "b", "y", "c", "z"]
    lead = manifest(*(tensor(n, "0") for n in "cba"), skeleton="reordered")
    assert names(finish(plan(base, [base, lead]), {})) == ["c", "b", "a"]
    first = of(n="1", a="0", b="0", c="0")
    assert names(finish(plan(base, [base, first]), {})) == ["n", "a", "b", "c"]


def test_skeletons() -> None:
    def file(skeleton: str, **values: str) -> Manifest:
        return replace(of(**values), skeleton=manifest(skeleton=skeleton).skeleton)

    base = file("0", a="0", b="0")
    value = file("0", a="1", b="0")
    metadata = file("1", a="0", b="0")
    other = file("2", a="0", b="2")
    grown = file("3", a="0", b="0", c="1")
    grew_too = file("4", a="0", b="0", d="1")

    def chosen(*sides: Manifest, root: Manifest | None = base) -> tuple[str, int, int, bool, bool]:
        decided = plan(root, sides)
        made = choose_file(
            decided, finish(decided, {c.name: c.sides[0] for c in decided.conflicts})
        )
        return (
            decided.skeleton.kind,
            decided.skeleton.source,
            made.source,
            made.build,
            bool(made.notice),
        )

    assert chosen(value, file("0", a="0", b="1")) == ("same", 0, 0, False, False)
    assert chosen(value, metadata) == ("one-side", 1, 1, False, False)
    assert chosen(metadata, value) == ("one-side", 0, 0, False, False)
    assert chosen(metadata, file("1", a="0", b="3")) == ("equal", 0, 0, False, False)
    assert chosen(metadata, other) == ("changed", 0, 0, False, True)
    assert chosen(value, grown) == ("one-side", 1, 1, False, False)
    assert chosen(grown, grew_too) == ("changed", 0, 0, True, True)
    assert chosen(metadata, grown) == ("changed", 0, 0, True, True)
    assert chosen(value, value, root=None) == ("equal", 0, 0, False, False)
    # One skeleton for different contents, as formats have whose header says nothing: the side that
    # fits is taken.
    assert chosen(value, file("0", a="0", b="0", c="1")) == ("same", 0, 1, False, False)


def test_a_file_without_tensors_conflicts_as_a_whole() -> None:
    decided = plan(manifest(skeleton="0"), [manifest(skeleton="1"), manifest(skeleton="2")])
    assert decided.skeleton.conflict
    assert not decided.clean
    assert plan(manifest(skeleton="0"), [manifest(skeleton="1"), manifest(skeleton="0")]).clean


def test_formats_that_differ_are_said_and_still_matched_by_name() -> None:
    theirs = manifest(*of(a="1", b="0", c="0").entries, form="torch-zip")
    decided = plan(BASE, [BASE, theirs])
    assert decided.format_conflict
    assert not decided.clean
    assert decided.conflicts == ()
    assert item(decided, "a").kind == "one-side"
    assert not plan(BASE, [theirs, theirs]).format_conflict


def test_unresolved_conflicts_are_named() -> None:
    decided = plan(of(a="0", b="3"), [of(a="1", b="4"), of(a="2", b="5")])
    with pytest.raises(MergeError, match="not resolved yet: b; choose"):
        finish(decided, {"a": None})
    assert names(finish(decided, {"a": None, "b": tensor("b", "9")})) == ["b"]


def test_a_decision_can_be_overruled() -> None:
    decided = plan(BASE, [of(a="1", b="0", c="0"), BASE])
    assert finish(decided, {"a": BASE.by_name["a"]})[0] == BASE.by_name["a"]


def test_counts() -> None:
    decided = plan(BASE, [of(a="1", b="1", c="0"), of(a="0", b="2", c="0")])
    assert decided.counts == {"one-side": 1, "changed": 1, "unchanged": 1}


VALUES = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d.e", "d.f"]), st.sampled_from("0123"), max_size=5
)


@given(VALUES, st.lists(VALUES, min_size=2, max_size=4))
def test_properties(base: dict[str, str], sides: list[dict[str, str]]) -> None:
    manifests = [manifest(*(tensor(n, v) for n, v in side.items())) for side in (base, *sides)]
    decided = plan(manifests[0], manifests[1:])
    assert len({i.name for i in decided.items}) == len(decided.items)
    # Merging with the base itself changes nothing.
    same = plan(manifests[0], [manifests[1], manifests[0]])
    assert same.clean
    assert {(e.name, e.digest) for e in finish(same, {})} == {
        (e.name, e.digest) for e in manifests[1].entries
    }
    # Every value a side changed alone is in the result.
    done = finish(decided, {c.name: None for c in decided.conflicts})
    values = {e.name: e.digest for e in done}
    for found in decided.items:
        if found.kind in ("one-side", "equal", "added") and not found.renamed_from:
            assert values[found.name] == found.entries[0].digest


def test_planning_needs_no_numpy() -> None:
    """Git's merge with one-sided changes only must not wait for heavy imports."""
    code = (
        "import sys, git_theta.merges.plan, git_theta.merges.options,"
        " git_theta.merges.builtin_strategies; sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_permuted_sides_give_the_same_conflicts_with_ties_and_renames() -> None:
    base = manifest(tensor("m.a", "0"), tensor("m.b", "1", also=("m.c",)), tensor("k", "0"))
    sides = [
        manifest(tensor("a", "0"), tensor("b", "1", also=("c",)), tensor("k", "0")),
        manifest(tensor("m.a", "5"), tensor("m.b", "6", also=("m.c",)), tensor("k", "1")),
        manifest(tensor("m.a", "0"), tensor("m.b", "7", also=("m.c",)), tensor("k", "0")),
    ]
    seen = {
        tuple(
            sorted(
                (i.name, i.aliases, i.kind, i.result and i.result.digest)
                for i in plan(base, order).items
            )
        )
        for order in permutations(sides)
    }
    assert len(seen) == 1
    assert ("b", ("c",), "changed", None) in seen.pop()
