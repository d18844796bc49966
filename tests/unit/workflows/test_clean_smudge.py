"""From a checkpoint to its manifest and back, in one process and without git."""

from __future__ import annotations

import io
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from git_theta.core import digest as digest_module
from git_theta.core import lfs_pointer, objects
from git_theta.core.layout import Extent
from git_theta.core.manifest import Entry, Link, Manifest, ObjectRef, dump, parse
from git_theta.core.names import escape
from git_theta.core.source import BytesSource, FileSource
from git_theta.errors import (
    FileChanged,
    FormatError,
    ManifestError,
    ObjectDamaged,
    ObjectMissing,
    PluginError,
    StoreError,
)
from git_theta.git.repository import Repository
from git_theta.settings import Settings
from git_theta.workflows import chains
from git_theta.workflows.restoring import smudge
from git_theta.workflows.session import Session
from git_theta.workflows.storing import clean, recut
from git_theta.workflows.storing.reuse import Elsewhere

Tensors = dict[str, np.ndarray]
Make = Callable[..., "Bench"]


class Bench:
    """A session over a folder that no git command ever sees, and the two verbs."""

    def __init__(self, folder: Path, **chosen: Any) -> None:
        git = folder / ".git"
        self.said: list[str] = []
        self.session = Session(
            Repository(git, git, folder, 40), Settings(**chosen), self.said.append
        )

    @property
    def store_objects(self) -> set[str]:
        return {ref.oid for ref in self.session.store}

    def clean(self, data: bytes, *known: Manifest, path: str = "model.safetensors") -> Manifest:
        text = clean.clean(self.session, path, BytesSource(data), known)
        self.session.store.flush()
        manifest = parse(text)
        assert dump(manifest) == text
        assert chains.missing(self.session.store, manifest) == []
        return manifest

    def stream(self, manifest: Manifest) -> bytes:
        return b"".join(
            map(
                bytes,
                smudge.stream(
                    self.session.store, manifest, self.session.pool(), self.session.threads
                ),
            )
        )

    def write(self, manifest: Manifest, path: Path) -> bytes:
        counted: list[int] = []
        path.unlink(missing_ok=True)
        smudge.write(self.session.store, manifest, path, self.session.pool(), counted.append)
        assert sum(counted) == manifest.size
        return path.read_bytes()

    def path_of(self, ref: ObjectRef) -> Path:
        found = self.session.store.find(ref.oid)
        assert found is not None
        return found


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(Elsewhere, "_read", lambda self: [])
    made: list[Bench] = []

    def create(name: str = "one", **chosen: object) -> Bench:
        bench = Bench(tmp_path / name, **chosen)
        made.append(bench)
        return bench

    yield create
    for bench in made:
        bench.session.__exit__(None, None, None)


@pytest.fixture
def bench(make: Make) -> Bench:
    return make()


def safetensors_file(tensors: dict[str, np.ndarray]) -> bytes:
    return safetensors.numpy.save(tensors, {"format": "pt"})


def model(
    seed: int = 0, dtype: type[np.floating] = np.float32, width: int = 64
) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embed": (20 * width,),
        "a.weight": (width, width),
        "b.weight": (width, width),
        "norm": (width,),
        "bias": (3,),
    }
    tensors = {
        name: (random.standard_normal(shape) * 0.02).astype(dtype) for name, shape in shapes.items()
    }
    return {
        **tensors,
        "mask": random.random(100) < 0.5,
        "step": np.array(seed, np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }


def zip_file(tensors: dict[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in tensors.items():
            archive.writestr(f"{name}.bin", array.tobytes() * 20)
    return out.getvalue()


FILES = {
    "model.safetensors": safetensors_file(model()),
    "bf16.safetensors": safetensors_file(model(1, ml_dtypes.bfloat16)),
    "nothing.safetensors": safetensors_file({}),
    "archive.zip": zip_file(model()),
    "text.bin": b"no checkpoint at all\n" * 1000,
    "one byte": b"x",
    "empty": b"",
}


@pytest.mark.parametrize("name", FILES)
def test_round_trip(bench: Bench, tmp_path: Path, name: str) -> None:
    data = FILES[name]
    manifest = bench.clean(data, path=name)
    assert manifest.size == len(data)
    assert bench.stream(manifest) == data
    assert bench.write(manifest, tmp_path / "out") == data
    again = bench.clean(data, manifest, path=name)
    assert again == manifest


@st.composite
def random_files(draw: st.DrawFn) -> bytes:
    kinds = [np.float32, np.float16, ml_dtypes.bfloat16, np.uint8, np.int64, np.bool_, np.float64]
    tensors = {}
    for name in draw(st.lists(st.text(max_size=4), unique=True, max_size=6)):
        dtype = np.dtype(draw(st.sampled_from(kinds)))
        shape = draw(st.lists(st.integers(0, 9), max_size=3))
        count = int(np.prod(shape)) * dtype.itemsize
        raw = draw(
            st.binary(min_size=count, max_size=count)
            if dtype != np.bool_
            else st.just(bytes(count))
        )
        if name != "__metadata__":
            tensors[name] = np.frombuffer(raw, dtype).reshape(shape)
    return safetensors_file(tensors)


@given(
    random_files() | st.binary(max_size=300), st.sampled_from(["x.safetensors", "x.bin", "x.pt"])
)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_comes_back_or_is_refused(
    bench: Bench, tmp_path: Path, data: bytes, path: str
) -> None:
    try:
        manifest = bench.clean(data, path=path)
    except (FormatError, ManifestError):
        return
    assert bench.stream(manifest) == data
    assert bench.write(manifest, tmp_path / "out") == data


LIMITS = {
    "_HELD": (clean, 100),
    "_BATCH": (clean, 500),
    "_RUN": (smudge, 300),
    "_AHEAD": (smudge, 200),
    "BLOCK": (digest_module, 700),
}


@pytest.mark.parametrize(
    "name", ["model.safetensors", "bf16.safetensors", "archive.zip", "text.bin"]
)
def test_threads_and_limits_change_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One thread or eight, large tensors held or read in blocks, many batches or one: the same
    manifest, objects and file.
    """
    data, plain = FILES[name], make("plain", threads=1)
    expected = plain.clean(data, path=name)
    for limit, (module, value) in LIMITS.items():
        monkeypatch.setattr(module, limit, value)
        for threads in (1, 8):
            bench = make(f"{limit}{threads}", threads=threads)
            manifest = bench.clean(data, path=name)
            assert manifest == expected
            assert bench.store_objects == plain.store_objects
            assert bench.stream(manifest) == data
            assert bench.write(manifest, tmp_path / "out") == data


def test_large_tensors_come_first_and_one_at_a_time_while_there_are_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clean, "_HELD", 100)
    sizes = [10, 200, 20, 300, 400]
    extents = [Extent(str(size), "u8", (size,), 0, size) for size in sizes]
    queue, begun = (
        clean._Queue([[number] for number in range(len(sizes))], extents),
        list[int](),
    )

    def work(batch: Sequence[int]) -> dict[int, clean._CutTensor]:
        begun.append(sizes[batch[0]])
        if len(begun) in (1, 2, 4):  # another thread comes while this one works
            queue.do_next(work)
        return {}

    queue.do_next(work)
    assert begun == [200, 10, 20]
    queue.do_next(work)
    assert begun == [200, 10, 20, 300, 400], "nothing else is left"


@pytest.mark.parametrize("threads", [1, 8])
def test_a_history(make: Make, tmp_path: Path, threads: int) -> None:
    """Each version stands on the ones before; all of them can be had at any time, and chains stay
    within their bound.
    """
    bench, random = make(threads=threads, max_chain=3), np.random.default_rng(5)
    tensors = model()
    versions: list[tuple[bytes, Manifest]] = []
    for number in range(8):
        versions.append(
            (
                safetensors_file(tensors),
                bench.clean(safetensors_file(tensors), *(known for _, known in versions[-1:])),
            )
        )
        change = (random.standard_normal(64 * 64) * 1e-4).astype(np.float32).reshape(64, 64)
        tensors = {
            **tensors,
            "a.weight": tensors["a.weight"] + change,
            "step": np.array(number, np.int64),
        }
    for data, manifest in versions:
        assert bench.stream(manifest) == data
        assert bench.write(manifest, tmp_path / "out") == data
        assert all(len(entry.chain) <= 3 for entry in manifest.entries)
        assert all(
            not link.update.startswith("delta")
            for entry in manifest.entries
            for link in entry.chain[-1:]
        )
    for (_, before), (_, after) in pairwise(versions):
        changed = {entry.name for entry in after.entries if entry != before.by_name[entry.name]}
        assert changed <= {"a.weight", "step"}
        added = after.objects().keys() - before.objects().keys()
        assert len(added) <= 1, "what did not change adds no object"


def test_threads_change_nothing_in_a_history(make: Make) -> None:
    texts = []
    for threads in (1, 8):
        bench = make(f"{threads}", threads=threads)
        known: list[Manifest] = []
        for seed in range(3):
            tensors = {
                name: value + np.float32(1e-4 * seed) if value.dtype == np.float32 else value
                for name, value in model().items()
            }
            known.append(bench.clean(safetensors_file(tensors), *known[-1:]))
        texts.append([dump(manifest) for manifest in known])
    assert texts[0] == texts[1]


def test_known_content_gives_the_very_manifest(make: Make) -> None:
    """However it was once stored: by another release, at another level, as a longer chain."""
    first, second = make("a", compression="best"), make("b", compression="fast")
    data = safetensors_file(model())
    best = first.clean(data)
    assert clean.clean(second.session, "x", BytesSource(data), [best]) == dump(best)
    annotated = Manifest(
        best.format, best.size, best.skeleton, best.entries, {"merge": {"strategy": "ties"}}
    )
    assert clean.clean(first.session, "x", BytesSource(data), [annotated]) == dump(annotated)


def test_tensors_known_under_other_names_are_not_stored_again(bench: Bench) -> None:
    tensors = model()
    before = bench.clean(safetensors_file(tensors))
    objects_before = bench.store_objects
    renamed = {f"model.{name}": value for name, value in tensors.items()}
    after = bench.clean(safetensors_file(renamed), before)
    assert {entry.chain for entry in after.entries} == {entry.chain for entry in before.entries}
    assert len(bench.store_objects - objects_before) <= 1, "but for the skeleton"


def test_equal_tensors_of_one_file_share_their_objects(bench: Bench) -> None:
    one = np.arange(5000, dtype=np.float32)
    manifest = bench.clean(safetensors_file({f"tied.{number}": one for number in range(40)}))
    assert len({entry.chain for entry in manifest.entries}) == 1
    assert len(bench.store_objects) == 1
    (place,) = manifest.entries[0].ranges
    assert manifest.skeleton.ranges[0].offset == place.length, "the payload is there once"


def test_small_tensors_stand_in_the_manifest(bench: Bench) -> None:
    manifest = bench.clean(
        safetensors_file(
            {"a": np.arange(16, dtype=np.float32), "b": np.arange(17, dtype=np.float32)}
        )
    )
    assert manifest.by_name["a"].inline is not None
    assert manifest.by_name["b"].inline is None


def test_large_payloads_are_stored_in_parts(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PART_SIZE", 100_000)
    data = safetensors_file(
        {
            "noise": np.frombuffer(np.random.default_rng(1).bytes(2_000_000), np.uint8),
            "small": np.arange(100, dtype=np.uint8),
        }
    )
    manifest = bench.clean(data)
    (link,) = manifest.by_name["noise"].chain
    assert len(link.objects) == 21
    assert all(ref.size <= 100_000 for ref in link.objects)
    assert bench.stream(manifest) == data
    assert bench.write(manifest, tmp_path / "out") == data
    for wrong in (link.ranges[::-1], link.ranges[:-1], (*link.ranges, link.ranges[-1])):
        entry = manifest.by_name["noise"]
        entries = [
            Entry(e.name, e.dtype, e.shape, e.digest, (Link("dense", wrong),)) if e is entry else e
            for e in manifest.entries
        ]
        with pytest.raises(ObjectDamaged, match="tensor noise"):
            bench.stream(
                Manifest(manifest.format, manifest.size, manifest.skeleton, tuple(entries), {})
            )


def test_manifests_pass_through(bench: Bench) -> None:
    text = dump(bench.clean(safetensors_file(model())))
    assert clean.clean(bench.session, "x.pt", BytesSource(text), []) == text
    for broken in (text[:-1], text.replace(b"dense:", b"dense "), text + b"x"):
        with pytest.raises(ManifestError, match="line "):
            clean.clean(bench.session, "x.pt", BytesSource(broken), [])


def test_broken_files(make: Make, tmp_path: Path) -> None:
    data = safetensors_file(model())[:20]
    with pytest.raises(
        FormatError, match=r"looks like safetensors, but is broken: .*theta\.onInvalid store"
    ):
        make("refusing").clean(data)
    bench = make("storing", on_invalid="store")
    manifest = bench.clean(data)
    assert bench.stream(manifest) == data
    assert any("stored as plain bytes" in line for line in bench.said)


@pytest.mark.parametrize("change", [16, -1, -3000])
def test_whole_tensors_of_broken_files_stay_tensors(make: Make, change: int) -> None:
    good = safetensors_file(model())
    data = good + b"\x7f" * change if change > 0 else good[:change]
    reason = (
        "its tensors are whole, but 16 bytes follow them"
        if change > 0
        else f"it ends {-change} bytes too early"
    )
    with pytest.raises(
        FormatError, match=f"{reason}.*stores it byte for byte, with its whole tensors"
    ):
        make("refusing").clean(data)
    bench = make("storing", on_invalid="store")
    whole, manifest = bench.clean(good), bench.clean(data)
    assert bench.stream(manifest) == data
    assert manifest.format == "safetensors"
    kept = [(entry.name, entry.digest) for entry in manifest.entries]
    assert kept
    assert kept == [(entry.name, entry.digest) for entry in whole.entries][: len(kept)]
    assert len(kept) == len(whole.entries) if change > 0 else len(kept) < len(whole.entries)
    assert any("stored byte for byte, with its whole tensors" in line for line in bench.said)


def test_unknown_files_are_stored_with_a_warning(bench: Bench) -> None:
    bench.clean(b"whatever" * 100, path="x.bin")
    assert bench.said == ["x.bin: no known checkpoint format; stored as plain bytes"]


class Restless:
    """A file that someone else writes: every reading finds another byte after ``place``."""

    def __init__(self, data: bytes, places: Sequence[int]) -> None:
        self.data, self.places, self.reads, self.size = bytearray(data), places, 0, len(data)

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        for place in self.places:
            self.data[place] = self.reads % 256
        return bytes(self.data[offset : offset + length])

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.read(offset, len(buffer))


def test_a_skeleton_that_changes_while_it_is_cut_is_an_error(bench: Bench) -> None:
    data = safetensors_file(model())
    inside = data.index(b'"format":"pt"') + 10
    with pytest.raises(FormatError):
        clean.clean(bench.session, "x.safetensors", Restless(data, [inside]), [])


def test_a_file_that_is_cut_while_it_is_read_is_an_error(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(safetensors_file(model()))
    with FileSource(path) as source, path.open("r+b") as file:
        file.truncate(source.size - 100)
        with pytest.raises(FileChanged):
            clean.clean(bench.session, "x.safetensors", source, [])


def test_following_and_stopping(make: Make) -> None:
    data = safetensors_file(model())
    job = clean.Job()
    bench = make(threads=4)
    clean.clean(bench.session, "x.safetensors", BytesSource(data), [], job)
    assert job.total == len(data)
    assert job.done == sum(value.nbytes for value in model().values())
    stopped = clean.Job(cancelled=True)
    with pytest.raises(clean.Cancelled):
        clean.clean(bench.session, "x.safetensors", BytesSource(data), [], stopped)


# Objects that are not what they should be


def test_missing_objects_are_named(bench: Bench, tmp_path: Path) -> None:
    manifest = bench.clean(
        safetensors_file({**model(), "odd\x1b[31m name": np.arange(100, dtype=np.float32)})
    )
    for entry in (manifest.skeleton, *manifest.entries):
        for ref in entry.objects:
            data = bench.session.store.read(ref)
            bench.session.store.remove(ref.oid)
            assert chains.missing(bench.session.store, manifest) == [ref]
            names = [each.name.replace("\x1b", "\\x1b") for each in manifest.entries]
            for attempt in (
                lambda: chains.require(bench.session.store, manifest),
                lambda: bench.stream(manifest),
                lambda: bench.write(manifest, tmp_path / "out"),
            ):
                with pytest.raises(ObjectMissing) as caught:
                    attempt()
                assert ref.oid in str(caught.value)
                assert "\x1b" not in str(caught.value)
            with pytest.raises(ObjectMissing, match="tensor") as caught:
                chains.require(bench.session.store, manifest)
            assert any(name in str(caught.value) for name in names)
            bench.session.store.put([data])
            bench.session.store.flush()
    chains.require(bench.session.store, manifest)


@pytest.mark.parametrize("threads", [1, 8])
def test_any_damage_to_an_object_is_found(make: Make, tmp_path: Path, threads: int) -> None:
    """Every bit of a small object: an error that names tensor and object, or (where no decoder
    reads it) the right bytes.
    """
    bench = make(threads=threads)
    data = safetensors_file({"a": np.arange(40, dtype=np.uint16), "b": np.zeros(3000, np.float32)})
    manifest = bench.clean(data)
    for ref in manifest.entries[0].objects:
        path = bench.path_of(ref)
        kept = path.read_bytes()
        path.chmod(0o644)
        for at in range(len(kept)):
            path.write_bytes(kept[:at] + bytes([kept[at] ^ (1 << at % 8)]) + kept[at + 1 :])
            attempts: list[Callable[[], bytes]] = [
                lambda: bench.stream(manifest),
                lambda: bench.write(manifest, tmp_path / "out"),
            ]
            for attempt in attempts:
                try:
                    result = attempt()
                except ObjectDamaged as error:
                    said = str(error)
                    assert said.startswith("tensor ")
                    assert ref.oid in said
                else:
                    assert result == data
        path.write_bytes(kept)
    assert bench.stream(manifest) == data


def lying(manifest: Manifest, **changes: object) -> Manifest:
    """The manifest with another first tensor."""
    entry = manifest.by_name["a"]
    fields = {
        name: changes.get(name, getattr(entry, name))
        for name in ("name", "dtype", "shape", "digest", "chain")
    }
    changed = Entry(**fields)  # type: ignore[arg-type]
    return Manifest(
        manifest.format,
        manifest.size,
        manifest.skeleton,
        tuple(changed if e is entry else e for e in manifest.entries),
        {},
    )


def test_manifests_that_lie(bench: Bench) -> None:
    manifest = bench.clean(
        safetensors_file(
            {"a": np.arange(100, dtype=np.float32), "b": np.arange(100, 200, dtype=np.float32)}
        )
    )
    chain, other = manifest.by_name["a"].chain, manifest.by_name["b"].chain
    (place,) = chain[0].ranges
    for wrong in (
        lying(manifest, chain=other),
        lying(manifest, digest="0" * 64),
        lying(manifest, dtype="i32"),
        lying(manifest, shape=(10, 10)),
        lying(manifest, chain=(Link("delta", chain[0].ranges),)),
        lying(manifest, chain=(Link("delta", chain[0].ranges), *chain)),
        lying(
            manifest,
            chain=(Link("dense", (place, place)),),
        ),
        lying(manifest, chain=(Link("dense", (place.object.whole,)),)),
        lying(manifest, chain=(Link("dense", (place._replace(offset=place.offset + 1),)),)),
        lying(manifest, chain=(Link("dense", (place._replace(length=place.length - 1),)),)),
        lying(manifest, shape=(1 << 30,)),
        Manifest(manifest.format, manifest.size + 1, manifest.skeleton, manifest.entries, {}),
        Manifest(manifest.format, manifest.size, manifest.skeleton, manifest.entries[:1], {}),
        Manifest(manifest.format, manifest.size, manifest.skeleton, manifest.entries * 2, {}),
        Manifest(manifest.format, 1 << 60, manifest.skeleton, manifest.entries, {}),
    ):
        with pytest.raises(ObjectDamaged) as caught:
            bench.stream(wrong)
        assert "\n" not in str(caught.value)
    with pytest.raises(PluginError, match="'unheard-of'"):
        bench.stream(lying(manifest, chain=(Link("unheard-of", chain[0].ranges),)))
    longer = lying(manifest, chain=(Link("dense", (place._replace(size=place.size + 1),)),))
    with pytest.raises(ObjectDamaged, match="bytes instead of"):
        bench.stream(longer)


def test_a_skeleton_that_is_none(bench: Bench) -> None:
    manifest = bench.clean(safetensors_file(model()))
    for data in (b"", b"\xff" * 60, struct.pack("<Q", 2**63)):
        skeleton = Entry.of_inline("skeleton", "u8", (len(data),), data)
        with pytest.raises(ObjectDamaged, match="cannot be put together"):
            bench.stream(Manifest(manifest.format, manifest.size, skeleton, manifest.entries, {}))


def test_a_lost_base_is_told_and_done_without(bench: Bench) -> None:
    tensors = model()
    first = bench.clean(safetensors_file(tensors))
    for ref in first.by_name["a.weight"].objects:
        bench.session.store.remove(ref.oid)
    changed = {**tensors, "a.weight": tensors["a.weight"] + np.float32(1e-5)}
    second = bench.clean(safetensors_file(changed), first)
    assert [link.update for link in second.by_name["a.weight"].chain] == ["dense"]
    assert any("a.weight" in line and "not here" in line for line in bench.said)
    assert bench.stream(second) == safetensors_file(changed)


def test_a_damaged_base_is_told_and_done_without(bench: Bench) -> None:
    tensors = model()
    first = bench.clean(safetensors_file(tensors))
    (ref,) = first.by_name["a.weight"].objects
    path = bench.path_of(ref)
    (place,) = first.by_name["a.weight"].ranges
    data = bytearray(path.read_bytes())
    data[place.offset + place.length // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    changed = {**tensors, "a.weight": tensors["a.weight"] + np.float32(1e-5)}
    second = bench.clean(safetensors_file(changed), first)
    assert [link.update for link in second.by_name["a.weight"].chain] == ["dense"]
    assert any("a.weight" in line and ref.oid in line for line in bench.said)


def test_many_losses_are_told_in_few_lines(bench: Bench) -> None:
    tensors = {f"t{number}": np.full(100, number, np.float32) for number in range(50)}
    first = bench.clean(safetensors_file(tensors))
    for ref in list(bench.session.store):
        bench.session.store.remove(ref.oid)
    bench.clean(
        safetensors_file({name: value + np.float32(0.5) for name, value in tensors.items()}), first
    )
    assert len(bench.said) <= 5
    assert "more tensors likewise" in bench.said[-1]


def test_writing_where_no_file_can_be(bench: Bench, tmp_path: Path) -> None:
    manifest = bench.clean(safetensors_file(model()))
    with pytest.raises(StoreError, match="cannot be written"):
        smudge.write(
            bench.session.store, manifest, tmp_path / "no" / "folder", bench.session.pool()
        )
    (tmp_path / "there").write_bytes(b"precious")
    with pytest.raises(StoreError, match="cannot be written"):
        smudge.write(bench.session.store, manifest, tmp_path / "there", bench.session.pool())
    assert (tmp_path / "there").read_bytes() == b"precious"


def test_a_stream_that_is_given_up(make: Make) -> None:
    """The reader goes away: what was decoded ahead is dropped, the pool stays usable."""
    bench = make(threads=4)
    data = safetensors_file(
        {f"t{number}": np.full(300_000, number, np.float32) for number in range(20)}
    )
    manifest = bench.clean(data)
    chunks = smudge.stream(bench.session.store, manifest, bench.session.pool(), 4)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert bench.stream(manifest) == data


def test_an_executor_of_the_callers(make: Make, tmp_path: Path) -> None:
    """Work is spread through whatever executor the caller passes, here one that runs everything at
    once.
    """
    from concurrent.futures import Executor, Future

    class Inline(Executor):
        count = 0

        def submit(
            self, function: Callable[..., object], /, *arguments: object, **named: object
        ) -> Future[Any]:
            self.count += 1
            future: Future[Any] = Future()
            try:
                future.set_result(function(*arguments, **named))
            except BaseException as error:
                future.set_exception(error)
            return future

    bench = make()
    bench.session.executor = Inline()
    data = safetensors_file(
        {f"t{number}": np.full(300_000, number, np.float32) for number in range(20)}
    )
    manifest = bench.clean(data)
    assert bench.stream(manifest) == data
    assert bench.write(manifest, tmp_path / "out") == data
    assert bench.session.executor.count > 20


def test_names_of_every_kind(bench: Bench) -> None:
    names = [
        "",
        " ",
        "a b",
        "line\nbreak",
        "\x1b[31m",
        "é",
        "漢",
        "also:x",
        "inline:00",
        "skeleton",
        "../../etc/x",
        "a" * 5000,
        "\\",
        '"',
    ]
    data = safetensors_file(
        {name: np.full(30, number, np.float32) for number, name in enumerate(names)}
    )
    manifest = bench.clean(data)
    assert [entry.name for entry in manifest.entries] == sorted(
        names, key=[entry.name for entry in manifest.entries].index
    )
    assert set(names) == {entry.name for entry in manifest.entries}
    assert all(escape(name).encode() in dump(manifest) for name in names)
    assert bench.stream(manifest) == data


# Git LFS pointers

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"


@pytest.mark.parametrize(
    "path", ["m.bin", "m.pt", "m.safetensors", "m.gguf", "m.h5", "m.onnx", "m.zip", "m"]
)
@pytest.mark.parametrize("on_invalid", ["refuse", "store"])
@pytest.mark.parametrize(
    "pointer",
    [
        POINTER,
        POINTER.replace(b"git-lfs.github.com", b"hawser.github.com"),
        POINTER.replace(b"\noid", b"\next-0-foo sha256:" + b"b" * 64 + b"\noid"),
        POINTER.replace(b"\n", b"\r\n"),
        POINTER[:-1],
    ],
    ids=["plain", "hawser", "extension", "crlf", "no newline"],
)
def test_a_git_lfs_pointer_is_refused(
    make: Make, path: str, on_invalid: str, pointer: bytes
) -> None:
    bench = make(on_invalid=on_invalid)
    with pytest.raises(
        FormatError, match="Git LFS pointer, not the model: run 'git lfs pull' first"
    ):
        bench.clean(pointer, path=path)
    assert bench.store_objects == set()


def test_a_pointer_that_is_held_gives_its_manifest_back(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    with monkeypatch.context() as patch:  # as a release could that did not know pointers
        patch.setattr(lfs_pointer, "is_pointer", lambda *_: False)
        held = bench.clean(POINTER, path="m.bin")
        other = bench.clean(POINTER.replace(b"a" * 64, b"b" * 64), path="m.bin")
    assert bench.clean(POINTER, other, held, path="m.bin") == held
    with pytest.raises(FormatError, match="Git LFS pointer"):
        bench.clean(POINTER, other, path="m.bin")


def test_what_only_starts_like_a_pointer_is_stored(make: Make) -> None:
    data = POINTER + bytes(1024)
    bench = make()
    assert bench.stream(bench.clean(data, path="m.bin")) == data


# Many small tensors


def many(seed: int, count: int = 3000, size: int = 800) -> Tensors:
    random = np.random.default_rng(seed)
    return {
        f"block.{number}.norm": random.standard_normal(size).astype(np.float32)
        for number in range(count)
    }


def moved(tensors: Tensors, names: Sequence[str], seed: int) -> Tensors:
    random = np.random.default_rng(seed)
    step = {
        name: tensors[name]
        + (random.standard_normal(tensors[name].shape) * 1e-6).astype(np.float32)
        for name in names
    }
    return {**tensors, **step}


def test_small_tensors_share_few_objects(bench: Bench) -> None:
    data = safetensors_file(many(1))
    manifest = bench.clean(data)
    assert len(bench.store_objects) == 2, "9.6 MB in groups of 8 MiB, with the skeleton"
    assert bench.stream(manifest) == data


@pytest.mark.parametrize("threads", [1, 4])
def test_bundles_are_the_same_for_all(make: Make, threads: int) -> None:
    """Whatever the threads, and whatever else is in the store."""
    texts = set()
    for name, before in (("plain", []), ("other", [many(9, size=700)])):
        bench = make(f"{name}{threads}", threads=threads)
        for tensors in before:
            bench.clean(safetensors_file(tensors), path="other.safetensors")
        first = bench.clean(safetensors_file(many(1)))
        names = [f"block.{number}.norm" for number in range(0, 3000, 7)]
        second = bench.clean(safetensors_file(moved(many(1), names, 2)), first)
        texts.add((dump(first), dump(second)))
    bench = make(f"again{threads}", threads=5 - threads)
    first = bench.clean(safetensors_file(many(1)))
    second = bench.clean(safetensors_file(moved(many(1), names, 2)), first)
    assert texts == {(dump(first), dump(second))}


def test_one_tensor_that_is_known_leaves_the_other_bundles_as_they_are(make: Make) -> None:
    alone, beside = make("alone"), make("beside")
    first = alone.clean(safetensors_file(many(1)))
    name = "block.5.norm"
    old = beside.clean(safetensors_file({**many(2), name: many(1)[name]}))
    second = beside.clean(safetensors_file(many(1)), old)
    objects = [set(each.objects()) for each in (first, second)]
    assert len(objects[0] & objects[1]) >= len(objects[0]) - 1
    assert beside.stream(second) == alone.stream(first)


def test_back_to_an_earlier_version_nothing_is_stored(make: Make) -> None:
    bench = make()
    files = [safetensors_file(many(1)), safetensors_file(moved(many(1), list(many(1)), 2))]
    a = bench.clean(files[0])
    b = bench.clean(files[1], a)
    held = bench.store_objects
    again = bench.clean(files[0], b)
    assert bench.store_objects == held
    assert {entry.chain for entry in again.entries} == {entry.chain for entry in a.entries}
    # A fresh clone has no log of what was stored: the payloads themselves say what they give
    shutil.rmtree(bench.session.repository.cache)
    once_more = bench.clean(files[0], b)
    assert bench.store_objects == held
    assert {entry.chain for entry in once_more.entries} == {entry.chain for entry in a.entries}


def test_a_payload_that_lies_about_its_value_is_not_believed(make: Make) -> None:
    bench = make()
    a, b, c = (safetensors_file({"w": many(seed)["block.0.norm"]}) for seed in (1, 1, 3))
    first = bench.clean(a)
    near = safetensors_file(moved({"w": many(1)["block.0.norm"]}, ["w"], 2))
    second = bench.clean(near, first)
    assert [link.update for link in second.by_name["w"].chain] == ["delta", "dense"]
    (place,) = second.by_name["w"].chain[1].ranges
    path = bench.path_of(place.object)
    data = bytearray(path.read_bytes())
    truth = bytes.fromhex(first.by_name["w"].digest)
    wanted = bytes.fromhex(bench.clean(c).by_name["w"].digest)
    at = data.index(truth)
    data[at : at + 32] = wanted
    path.chmod(0o644)
    path.write_bytes(data)
    shutil.rmtree(bench.session.repository.cache)
    for ref in bench.session.store:
        if ref.oid != place.oid and ref.oid not in second.objects():
            bench.session.store.remove(ref.oid)
    third = bench.clean(c, second)
    assert bench.stream(third) == c
    assert b == a


def test_a_clone_needs_little_more_than_it_fetches(make: Make) -> None:
    """Fifty versions that change a twentieth of the tensors each."""
    bench = make()
    tensors, random = many(1, 400), np.random.default_rng(4)
    known: list[Manifest] = []
    for version in range(50):
        manifest = bench.clean(safetensors_file(tensors), *known[-1:])
        known.append(manifest)
        entries = (manifest.skeleton, *manifest.entries)
        needed = sum(p.length for p in {p for entry in entries for p in entry.ranges})
        assert sum(manifest.objects().values()) <= 1.5 * needed, version
        names = random.choice(list(tensors), 20, replace=False).tolist()
        tensors = moved(tensors, names, version)
    for manifest in known[::10]:
        bench.stream(manifest)


def test_unchanged_content_is_recognised_without_parsing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    tensors = {**many(1), "empty": np.zeros((0, 4), np.float32), "one": np.array(7)}
    data = safetensors_file(tensors)
    text = dump(bench.clean(data))
    assert recut.is_unchanged(bench.session, text, BytesSource(data))
    for place in (20, len(data) // 3, len(data) - 1):
        other = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert not recut.is_unchanged(bench.session, text, BytesSource(other))
    assert not recut.is_unchanged(bench.session, text, BytesSource(data + b" "))
    assert not recut.is_unchanged(bench.session, text[:-1], BytesSource(data))
    few = dump(bench.clean(safetensors_file(model())))
    assert not recut.is_unchanged(bench.session, few, BytesSource(safetensors_file(model())))
    swapped = safetensors_file({**tensors, "block.0.norm": tensors["block.1.norm"]})
    assert not recut.is_unchanged(bench.session, text, BytesSource(swapped))
