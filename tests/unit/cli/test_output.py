"""What a person reads: tables, tensors, names that cannot do harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.cli import output
from git_theta.cli.commands.inspect.cmd_show import text
from git_theta.cli.models import manifest_data, tensor_data
from git_theta.core.digest import digest, object_id
from git_theta.core.manifest import Entry, Link, Manifest, ObjectRef

DATA = bytes(400)


def link(update: str, size: int = 100, note: str = "") -> Link:
    return Link(update, (ObjectRef(object_id(f"{update}{size}".encode()), size).whole,), note)


def entry(*links: Link, name: str = "w", aliases: tuple[str, ...] = ()) -> Entry:
    return Entry(name, "f32", (10, 10), digest(DATA), links, None, aliases)


SKELETON = Entry.of_inline("skeleton", "u8", (8,), bytes(8))


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ((link("dense"),), "dense"),
        ((link("delta", note="changed=12"), link("dense")), "delta(changed=12) on dense"),
        (
            (
                link("delta", 1),
                link("delta", 2),
                link("delta", 3),
                link("sparse", 4),
                link("dense"),
            ),
            "delta on 2 delta on sparse on dense",
        ),
    ],
)
def test_how_a_tensor_is_stored(links: tuple[Link, ...], said: str) -> None:
    assert output.chain(entry(*links)) == said


def test_a_tensors_row() -> None:
    shown = output.detail(
        entry(link("delta", 1500), link("dense", 2_000_000), name="a b", aliases=("c\n",))
    )
    assert shown == ("a b = c\\x0a", "f32[10,10]", "2.0 MB", "delta on dense")
    assert output.detail(Entry.of_inline("step", "i64", (), bytes(8))) == (
        "step",
        "i64[]",
        "-",
        "inline",
    )


def test_tables_are_aligned() -> None:
    assert output.table([("a", "1", ""), ("bbb", "22", "x")], ("n", "count", ""), right=(1,)) == [
        "n    count",
        "a        1",
        "bbb     22  x",
    ]
    assert output.table([]) == []
    assert output.table([("a", "b")], indent="  ") == ["  a  b"]


@given(st.text(max_size=30))
def test_a_path_cannot_move_the_cursor(name: str) -> None:
    shown = output.path(name)
    assert shown.isascii()
    assert shown == "" or shown.isprintable()
    if name.isascii() and name.isprintable():
        assert shown == name


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 files"), (1, "1 file"), (12000, "12,000 files")]
)
def test_numbers_of_things(count: int, said: str) -> None:
    assert output.plural(count, "file") == said


def manifest(*entries: Entry) -> Manifest:
    return Manifest(
        "safetensors",
        8 + 400 * len(entries),
        SKELETON,
        entries,
        {"merge": {"strategy": "ties\x1b"}},
    )


def test_a_model_described() -> None:
    shown = list(
        text(
            manifest(
                entry(link("dense")), entry(link("sparse", 50), link("dense"), name="x\x1b[2J")
            ),
            "HEAD:m",
            1,
        )
    )
    assert shown == [
        "HEAD:m",
        "format    safetensors",
        "size      808 B (808 bytes)",
        "stored    150 B in 2 objects (18.6 %)",
        "missing   1 object not in the local store",
        "tensors   2 with 200 f32 elements",
        "updates   1 dense, 1 sparse",
        "skeleton  8 B, inline",
        'merge     {"strategy": "ties\\u001b"}',
        "",
        "tensor    type and shape  stored  as",
        "w         f32[10,10]       100 B  dense",
        "x\\x1b[2J  f32[10,10]       150 B  sparse on dense",
    ]


def test_bytes_that_the_version_before_has_are_told_apart() -> None:
    delta, dense = link("sparse", 50), link("dense")
    shown = list(
        text(
            manifest(entry(dense), entry(delta, dense, name="x")),
            "HEAD:m",
            0,
            {ref.oid for ref in dense.objects},
        )
    )
    assert shown[3:5] == [
        "new       50 B in 1 object (6.2 %)",
        "shared    100 B in 1 object, with the version before",
    ]
    every = {ref.oid for one in (delta, dense) for ref in one.objects}
    shown = list(text(manifest(entry(dense), entry(delta, dense, name="x")), "HEAD:m", 0, every))
    assert shown[3:5] == [
        "new       0 B in 0 objects",
        "shared    150 B in 2 objects, with the version before",
    ]


def test_a_model_without_tensors() -> None:
    assert list(
        text(Manifest("opaque", 0, Entry.of_inline("skeleton", "u8", (0,), b""), (), {}), "x", 0)
    )[1:5] == [
        "format    opaque",
        "size      0 B (0 bytes)",
        "stored    0 B in 0 objects",
        "tensors   0",
    ]


def test_as_json() -> None:
    data = manifest_data(manifest(entry(link("delta", note="rank=4"), link("dense"))), ["b", "a"])
    assert data["stored"] == 200
    assert data["missing"] == ["a", "b"]
    assert data["headers"] == {"merge": {"strategy": "ties\x1b"}}
    assert [step["update"] for step in data["entries"][0]["chain"]] == ["delta", "dense"]
    assert tensor_data(SKELETON)["inline"] is True
