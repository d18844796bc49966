"""Building torch files without torch; ``tests/compat/test_torch_files.py`` lets torch load what is
built.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.checkpoints.containers.zip_container import read_archives
from git_theta.checkpoints.containers.zip_writer import write_archive
from git_theta.checkpoints.torch.pickle_reader import Call, Pairs, read
from git_theta.checkpoints.torch.writer import _CLASSES, _DTYPES
from git_theta.checkpoints.torch.zip_format import TorchZipFormat
from git_theta.core import dtypes
from git_theta.core.contracts import BuildsFiles
from git_theta.core.source import BytesSource
from git_theta.core.tensors import Tensor
from git_theta.errors import FormatError

FORMAT = TorchZipFormat()
DATA = Path(__file__).parents[3] / "data" / "torch"
FILES = sorted(set(DATA.glob("*.pt")) - {DATA / "legacy.pt"})


def load(stem: str) -> bytes:
    return (DATA / f"{stem}.pt").read_bytes()


def tensors(data: bytes, aliases: bool = False) -> dict[str, Tensor]:
    found = {}
    for extent in FORMAT.scan(BytesSource(data)).extents:
        for name in (extent.name, *(extent.aliases if aliases else ())):
            found[name] = Tensor(extent.dtype, extent.shape, data[extent.offset : extent.end])
    return found


def built(wanted: dict[str, Tensor], like: bytes | None) -> bytes:
    return bytes(FORMAT.build(wanted, None if like is None else BytesSource(like)))


def f32(*shape: int, fill: int = 7) -> Tensor:
    return Tensor("f32", shape, bytes([fill]) * dtypes.nbytes("f32", shape))


def keys(data: bytes, *path: str) -> list[Any]:
    """The keys of the mapping at ``path`` in the file's pickle."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        tree = read(file.read(next(name for name in file.namelist() if name.endswith("/data.pkl"))))
    for step in path:
        flat = flat_of(tree)
        tree = flat[flat.index(step) + 1]
    return flat_of(tree)[::2]


def flat_of(tree: Any) -> list[Any]:
    return list(tree.flat if isinstance(tree, Pairs) else tree.pairs)


def sound(data: bytes) -> None:
    """All CRCs are right, and Python reads the archive too."""
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
    for check in FORMAT.scan(BytesSource(data)).checksums:
        assert int.from_bytes(data[check.offset : check.offset + 4], "little") == zlib.crc32(
            data[check.start : check.start + check.length]
        )


# -- zip -------------------------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="\0/\\", exclude_categories=["Cs"]), min_size=1),
        st.lists(st.binary()),
    )
)
def test_archives_are_read_back(content: dict[str, list[bytes]]) -> None:
    data = write_archive(content.items())
    joined = {name: b"".join(pieces) for name, pieces in content.items()}
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert {name: file.read(name) for name in file.namelist()} == joined
    (archive,) = read_archives(BytesSource(data))
    assert {entry.name: data[entry.offset : entry.end] for entry in archive.entries} == joined
    assert all(
        entry.offset % 64 == 0 and len(entry.sums) == (2 if entry.length else 1)
        for entry in archive.entries
    )


# -- new files -------------------------------------------------------------------------------------

_types = st.sampled_from(sorted({*_CLASSES, *_DTYPES}))


@st.composite
def _tensor(draw: st.DrawFn) -> Tensor:
    dtype, shape = draw(_types), tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    size = dtypes.nbytes(dtype, shape)
    return Tensor(dtype, shape, draw(st.binary(min_size=size, max_size=size)))


@given(st.dictionaries(st.text(max_size=20).filter(bool), _tensor(), max_size=6))
def test_a_new_file_is_read_back_in_order(wanted: dict[str, Tensor]) -> None:
    data = built(wanted, None)
    assert list(tensors(data).items()) == list(wanted.items())
    sound(data)


def test_types_torch_does_not_have_are_refused() -> None:
    with pytest.raises(FormatError, match="q4_0"):
        built({"a": Tensor("q4_0", (32,), bytes(18))}, None)


def test_every_torch_type_can_be_written() -> None:
    assert {*_CLASSES, *_DTYPES} == {
        name for name in dtypes.names() if dtypes.get(name).kind != "q"
    }


def test_it_is_a_format_that_builds() -> None:
    assert isinstance(FORMAT, BuildsFiles)


# -- in place of another file ----------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_same_tensors_give_the_same_file(path: Path) -> None:
    data = path.read_bytes()
    assert built(tensors(data), data) == data
    assert built(tensors(data, aliases=True), data) == data


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_other_bytes_change_only_bytes_and_sums(path: Path) -> None:
    data = path.read_bytes()
    wanted = {
        name: Tensor(old.dtype, old.shape, bytes(byte ^ 1 for byte in bytes(old.data)))
        for name, old in tensors(data).items()
    }
    changed = built(wanted, data)
    assert tensors(changed) == wanted
    assert len(changed) == len(data)
    sound(changed)


def test_sums_in_front_of_the_data_are_kept_right_and_zeros_zero() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(load("list"))) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), old.read(name))
    rewritten = target.getvalue()
    wanted = tensors(rewritten) | {"0": f32(2)}
    sound(built(wanted, rewritten))
    zeroed = bytearray(load("list"))
    for check in FORMAT.scan(BytesSource(zeroed)).checksums:
        zeroed[check.offset : check.offset + 4] = bytes(4)
    changed = built(wanted, bytes(zeroed))
    assert all(
        changed[check.offset : check.offset + 4] == bytes(4)
        for check in FORMAT.scan(BytesSource(changed)).checksums
    )


def test_tensors_are_reshaped_retyped_added_and_removed() -> None:
    data = load("training")
    old = tensors(data)
    wanted = {
        name: tensor
        for name, tensor in old.items()
        if not name.startswith(("model.norm", "optimizer.state.1"))
    }
    wanted["model.embed.weight"] = f32(6, 4)
    wanted["optimizer.state.0.exp_avg"] = Tensor("bf16", (6, 4), bytes(48))
    wanted["model.extra.weight"] = Tensor("f8_e5m2", (2,), b"ab")
    changed = built(wanted, data)
    assert list(tensors(changed).items()) == list(wanted.items())
    extent = next(
        e for e in FORMAT.scan(BytesSource(changed)).extents if e.name == "model.embed.weight"
    )
    assert extent.aliases == ("model.head.weight",)
    assert keys(changed) == keys(data)
    assert keys(changed, "model") == ["embed.weight", "head.weight", "extra.weight"]
    assert keys(changed, "optimizer", "state") == [0, 1, 2]
    assert keys(changed, "schedule") == keys(data, "schedule")
    sound(changed)


def test_the_order_is_that_of_the_tensors() -> None:
    data = load("types")
    wanted = dict(reversed(tensors(data).items())) | {"new": f32(1)}
    assert list(tensors(built(wanted, data))) == list(wanted)


def test_a_tie_is_cut_where_the_values_differ() -> None:
    data = load("training")
    wanted = tensors(data, aliases=True) | {"model.head.weight": f32(5, 4)}
    assert tensors(built(wanted, data), aliases=True) == wanted
    views = load("views")  # here one object stands under two names
    both = tensors(views) | {"same": f32(4, 3)}
    with pytest.raises(FormatError, match="transposed shares its bytes"):
        built(both, views)


def test_one_object_under_two_names_becomes_two() -> None:
    shared = built({"a": f32(2), "b": f32(2)}, None)
    tied = tied_file(shared)
    assert [(e.name, e.aliases) for e in FORMAT.scan(BytesSource(tied)).extents] == [("a", ("b",))]
    wanted = {"a": f32(2, fill=1), "b": f32(2, fill=2)}
    assert tensors(built(wanted, tied)) == wanted
    assert tensors(built({"a": f32(3), "b": f32(3)}, tied), aliases=True) == {
        "a": f32(3),
        "b": f32(3),
    }
    assert tensors(built({"b": f32(2)}, tied)) == {"b": f32(2)}
    assert tensors(built({"a": f32(2), "b": f32(2), "c": f32(1)}, tied), aliases=True) == {
        "a": f32(2),
        "b": f32(2),
        "c": f32(1),
    }


def tied_file(data: bytes) -> bytes:
    """The same file with ``b`` being the very object that ``a`` is."""
    from git_theta.checkpoints.torch.pickle_writer import write

    with zipfile.ZipFile(io.BytesIO(data)) as file:
        tree = read(file.read("archive/data.pkl"))
        tree.flat[3] = tree.flat[1]
        entries = [
            (name, [write(tree) if name.endswith("data.pkl") else file.read(name)])
            for name in file.namelist()
        ]
    return write_archive(entry for entry in entries if not entry[0].endswith("data/1"))


def test_tiles_become_storages_of_their_own() -> None:
    data = load("views")
    wanted = tensors(data)
    del wanted["tile_b"]
    changed = built(wanted, data)
    assert tensors(changed) == wanted
    assert "tile_c_again" in tensors(changed, aliases=True)


def test_views_of_unchanged_storages_stay() -> None:
    data = load("views")
    wanted = tensors(data) | {"new": f32(2)}
    changed = built(wanted, data)
    assert tensors(changed) == wanted
    assert keys(changed) == [*keys(data), "new"]


@pytest.mark.parametrize("name", ["part", "lone_transposed", "channels_last", "expanded", "base"])
def test_storages_seen_in_other_ways_cannot_change(name: str) -> None:
    data = load("views")
    with pytest.raises(FormatError, match="cannot be written into a file like this"):
        built(tensors(data) | {name: f32(5)}, data)


def test_items_of_lists() -> None:
    data = load("list")
    wanted = tensors(data) | {"0": f32(9), "1.b": f32(1)}
    assert tensors(built(wanted, data)) == wanted
    with pytest.raises(FormatError, match="beside what"):
        # 1.a would become 0.a
        built({name: tensor for name, tensor in tensors(data).items() if name != "0"}, data)
    with pytest.raises(FormatError, match="no mapping"):
        built(tensors(data) | {"3": f32(1)}, data)


def test_a_lone_tensor() -> None:
    data = load("tensor")
    assert tensors(built({"tensor": f32(3)}, data)) == {"tensor": f32(3)}
    with pytest.raises(FormatError):
        built({}, data)


def test_parts_of_a_sparse_tensor_go_together() -> None:
    data = load("sparse")
    wanted = tensors(data)
    assert set(
        tensors(built({name: wanted[name] for name in wanted if name.startswith("coo")}, data))
    ) == {"coo.indices", "coo.values"}
    with pytest.raises(FormatError, match="part of a larger value"):
        built({name: wanted[name] for name in wanted if name != "coo.values"}, data)


def test_numbers_stay_numbers_as_keys() -> None:
    data = built({"a": f32(1)}, None)
    state = tensors(load("training"))
    wanted = state | {"optimizer.state.3": f32(2)}
    assert tensors(built(wanted, load("training"))) == wanted
    with pytest.raises(FormatError, match="numbers as keys"):
        built(state | {"optimizer.state.x": f32(2)}, load("training"))
    assert keys(built({"a": f32(1), "0": f32(1)}, data)) == ["a", "0"]


def test_files_of_another_kind_only_take_other_bytes() -> None:
    def archive(more: dict[str, bytes], pickled: bytes | None = None) -> bytes:
        with zipfile.ZipFile(io.BytesIO(built({"a": f32(2)}, None))) as file:
            content = {name: file.read(name) for name in file.namelist()} | more
        if pickled is not None:
            content["archive/data.pkl"] = pickled
        return write_archive((name, [data]) for name, data in content.items())

    script = archive({"archive/code/x.py": b"x"})
    big = archive({"archive/byteorder": b"big"})
    unknown = archive({}, b"garbage")
    unnamed = archive({"archive/data/9": b"123"})
    for data in (script, big, unknown, script + script):
        old = tensors(data)
        other = {
            name: Tensor(tensor.dtype, tensor.shape, bytes(len(bytes(tensor.data))))
            for name, tensor in old.items()
        }
        assert tensors(built(other, data)) == other
        with pytest.raises(FormatError, match="kind"):
            built(old | {"new": f32(1)}, data)
    wanted = tensors(unnamed)
    assert tensors(built(wanted | {"new": f32(1)}, unnamed)) == wanted | {"new": f32(1)}
    with pytest.raises(FormatError, match="does not say where"):
        built({"a": f32(2)}, unnamed)


def test_names_that_would_read_otherwise_are_refused() -> None:
    wanted = tensors(load("names"))
    assert tensors(built(wanted | {"a.b#3": f32(1)}, load("names"))) == wanted | {"a.b#3": f32(1)}
    for name in ("", "x" * 2000):
        with pytest.raises(FormatError, match=r"read back|beside"):
            built(wanted | {name: f32(1)}, load("names"))
        with pytest.raises(FormatError, match=r"read back|beside"):
            built({name: f32(1)}, None)


def test_unknown_objects_are_written_again_untouched() -> None:
    class Odd:
        pass

    tree = read(b"\x80\x02}X\1\0\0\0oc__main__\nOdd\n)\x81}X\1\0\0\0aK\1sbs.")
    assert isinstance(tree.flat[1], Call)
    from git_theta.checkpoints.torch.pickle_writer import write

    data = write_archive([("m/data.pkl", [write(tree)]), ("m/version", [b"3\n"])])
    changed = built({"w": f32(2)}, data)
    assert keys(changed) == ["o", "w"]
    with zipfile.ZipFile(io.BytesIO(changed)) as file:
        assert b"c__main__\nOdd\n" in file.read("m/data.pkl")


def test_many_tensors_are_written_in_linear_time() -> None:
    wanted = {f"n{number}": f32(1) for number in range(1500)}
    data = built(wanted, None)
    more = {name: f32(2) for name in wanted} | {f"x{number}": f32(1) for number in range(1500)}
    assert tensors(built(more, data)) == more
