"""Bad files, missing and damaged objects, full disks, sudden death: one clear line, and nothing
that was there is harmed.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gitrepo import PATIENCE, Repo
from small_models import Tensors, safetensors_file, torch_file, trained, weights

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals, modes or limits")


def small(seed: int) -> Tensors:
    """A model of 1.3 MB in a few tensors, all of them another seed's own."""
    source = np.random.default_rng(seed)
    shapes = {"embed": (512, 256), "up": (256, 512), "down": (512, 128), "norm": (256,)}
    return {
        name: (source.standard_normal(shape) * 0.05).astype(np.float32)
        for name, shape in shapes.items()
    }


def lines_of_ours(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("git-theta: ")]


# Files that are not what they claim


def broken_files() -> dict[str, bytes]:
    plain, zipped = safetensors_file(small(1)), torch_file(small(1))
    header = struct.unpack("<Q", plain[:8])[0]
    text = plain[8 : 8 + header]
    directory = zipped.index(b"PK\1\2")
    # Where the second entry says that it lies
    pointer = zipped.index(b"PK\1\2", directory + 4) + 42

    def with_header(new: bytes) -> bytes:
        return struct.pack("<Q", len(new)) + new + plain[8 + header :]

    def with_offset(value: int) -> bytes:
        return zipped[:pointer] + struct.pack("<I", value) + zipped[pointer + 4 :]

    return {
        "cut-header.safetensors": plain[: header // 2],
        "cut.safetensors": plain[:-1],
        "half.safetensors": plain[: len(plain) // 2],
        "too-short.safetensors": plain[:7],
        "longer.safetensors": plain + b"\0",
        "huge-header.safetensors": struct.pack("<Q", 1 << 40) + plain[8:],
        "largest-header.safetensors": b"\xff" * 8 + plain[8:],
        "overlap.safetensors": with_header(
            b'{"a":%s,"b":%s}' % ((b'{"dtype":"U8","shape":[9],"data_offsets":[0,9]}',) * 2)
        ),
        "lying-shape.safetensors": with_header(text.replace(b"[512,256]", b"[512,255]")),
        "overflow.safetensors": with_header(text.replace(b"[512,256]", b"[4294967296,4294967296]")),
        "negative.safetensors": with_header(text.replace(b"[512,256]", b"[-512,-256]")),
        "unknown-type.safetensors": with_header(text.replace(b'"F32"', b'"F33"', 1)),
        "deep.safetensors": with_header(b'{"a":' * 100_000),
        "cut.pt": zipped[:-30],
        "half.pt": zipped[: len(zipped) // 2],
        "overlap.pt": with_offset(0),
        "outside.pt": with_offset(0x7FFFFFFF),
    }


@pytest.mark.parametrize("name", broken_files())
def test_broken_file_is_refused(repo: Repo, name: str) -> None:
    before = repo.status()
    repo.write(name, broken_files()[name])
    said = repo.git_fails("add", name)
    ours = lines_of_ours(said)
    assert len(ours) == 1, said
    assert ours[0].startswith(f"git-theta: {name}: ")
    assert len(ours[0]) < 500
    assert repo.status() == f"{before}?? {name}\n"
    assert repo.git("ls-files", "--stage", "--", name) == b""
    assert not repo.object_ids()
    assert not repo.leftovers()


def test_broken_file_does_not_replace_what_is_staged(repo: Repo) -> None:
    good = safetensors_file(small(1))
    repo.commit("good", model__safetensors=good)
    staged, objects = repo.git("ls-files", "--stage"), repo.object_ids()
    repo.write("model.safetensors", good[:-100])
    repo.write("other.safetensors", safetensors_file(small(2)))
    repo.git_fails("commit", "-am", "bad")
    repo.git_fails("add", ".")
    assert repo.git("ls-files", "--stage") == staged
    assert repo.read("model.safetensors") == good[:-100]
    repo.git("checkout", "-q", "--", "model.safetensors")
    assert repo.read("model.safetensors") == good
    assert objects <= repo.objects().keys()
    assert not repo.leftovers()


def test_broken_files_are_stored_whole_on_request(repo: Repo) -> None:
    repo.git("config", "theta.onInvalid", "store")
    files = broken_files()
    for name, data in files.items():
        repo.write(name, data)
    done = repo.run(["git", "add", "."])
    assert done.returncode == 0
    assert len(lines_of_ours(done.stderr.decode())) >= len(files)
    repo.git("commit", "-qm", "all broken")
    for name in files:
        (repo.path / name).unlink()
    repo.git("checkout", "-q", "--", ".")
    assert {name: repo.read(name) == data for name, data in files.items()} == dict.fromkeys(
        files, True
    )
    repo.assert_clean()


def test_what_one_stored_on_request_stays_as_it_is_for_others(repo: Repo) -> None:
    files = broken_files()
    for name, data in files.items():
        repo.write(name, data)
    repo.git("-c", "theta.onInvalid=store", "add", ".")
    repo.git("commit", "-qm", "all broken")
    tree = repo.git("rev-parse", "HEAD^{tree}")
    for name in files:
        os.utime(repo.path / name, (0, 0))
    repo.assert_clean()
    repo.git("add", "--renormalize", ".")
    assert repo.git("write-tree") == tree
    name = next(iter(files))
    repo.write(name, files[name][:-1] + b"?")
    assert "is broken" in repo.git_fails("add", name)
    repo.git("checkout", "-q", "--", name)
    repo.assert_clean()


def test_nothing_in_a_pickle_is_executed(repo: Repo) -> None:
    """Torch files whose pickle would create a file if it ran, or fill the memory."""
    marker = repo.path / "executed"
    call = (
        b"\x80\x02cbuiltins\nopen\n(X"
        + struct.pack("<I", len(os.fsencode(marker)))
        + os.fsencode(marker)
        + b"X\x01\0\0\0wtR."
    )
    laughs = b"\x80\x02]q\0" + b"(h\0h\0h\0h\0h\0h\0h\0h\0lq\0" * 200 + b"."
    benign = torch_file({"w": np.arange(100_000, dtype=np.float32)})
    pickles = (
        call,
        laughs,
        b"\x80\x02" + b"(" * 200_000 + b".",
        b"\x80\x04\x96" + b"\xff" * 7 + b"\x7f.",
    )
    files = {f"{number}.pt": _with_pickle(benign, pickle) for number, pickle in enumerate(pickles)}
    for name, data in files.items():
        repo.write(name, data)
    repo.git("add", ".")
    repo.git("commit", "-qm", "hostile")
    for name in files:
        (repo.path / name).unlink()
    repo.git("checkout", "-q", "--", ".")
    assert {name: repo.read(name) for name in files} == files
    repo.assert_clean()
    assert not marker.exists()


def _with_pickle(data: bytes, pickle: bytes) -> bytes:
    import io
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle if name.endswith("data.pkl") else old.read(name))
    return out.getvalue()


def test_manifests_of_others_cannot_ask_for_much(repo: Repo) -> None:
    """A manifest may come from anybody: sizes beyond all measure, objects that are none, and names
    of terminal escapes.
    """
    data = safetensors_file(small(1))
    repo.commit("good", model__safetensors=data)
    text = repo.blob("HEAD:model.safetensors").decode()
    lying = {
        "bigger file": text.replace(f"size {len(data)}", f"size {1 << 60}"),
        "bigger tensor": (
            text.replace("f32[512,256]", "f32[65536,65536]").replace(
                f"size {len(data)}", f"size {1 << 60}"
            )
        ),
        "other type": text.replace("f32[512,256]", "i32[512,256]"),
        "other shape": text.replace("f32[512,256]", "f32[256,512]"),
        "other digest": text.replace(
            repo.manifest("HEAD:model.safetensors").by_name["embed"].digest, "0" * 64
        ),
        "other update": text.replace(" dense:", " nothing-known:", 1),
        "own skeleton": text.replace(" dense:", " delta:", 1),
    }
    for what, manifest in lying.items():
        assert manifest != text, what
        repo.write("raw", manifest.encode())
        blob = repo.git("hash-object", "-w", "--no-filters", "raw").decode().strip()
        repo.git("update-index", "--cacheinfo", f"100644,{blob},model.safetensors")
        for said in (
            repo.git_fails("checkout", "--force", "--", "model.safetensors"),
            repo.theta_run("checkout", "model.safetensors").stderr.decode(),
        ):
            assert any("model.safetensors: " in line for line in lines_of_ours(said)), (what, said)
    assert not repo.leftovers()


# Objects that are missing or damaged


def damages() -> dict[str, Callable[[Path], None]]:
    def flip(where: float) -> Callable[[Path], None]:
        def change(path: Path) -> None:
            data = bytearray(path.read_bytes())
            data[min(len(data) - 1, int(where * len(data)))] ^= 0x10
            path.chmod(0o644)
            path.write_bytes(data)

        return change

    def truncate(path: Path) -> None:
        data = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(data[:-1])

    def empty(path: Path) -> None:
        path.chmod(0o644)
        path.write_bytes(b"")

    def remove(path: Path) -> None:
        path.chmod(0o644)
        path.unlink()

    flips = {"flipped first": flip(0), "flipped middle": flip(0.5), "flipped last": flip(1)}
    return {"missing": remove, **flips, "cut": truncate, "empty": empty}


@pytest.fixture(scope="module")
def two_versions_once(
    tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]
) -> tuple[Repo, dict[str, bytes]]:
    repo = Repo.create(tmp_path_factory.mktemp("two") / "repo", environment)
    files = {
        "one": safetensors_file(small(1)),
        "two": safetensors_file({**small(2), "wide": np.ones((1024, 1100), np.float32)}),
    }
    for branch, data in files.items():
        repo.git("checkout", "-qb", branch)
        repo.commit(branch, model__safetensors=data)
    repo.git("checkout", "-q", "one")
    return repo, files


@pytest.fixture
def two_versions(
    two_versions_once: tuple[Repo, dict[str, bytes]], tmp_path: Path
) -> tuple[Repo, dict[str, bytes]]:
    """Branches ``one`` and ``two`` with different contents of model.safetensors; ``one`` is checked
    out.
    """
    original, files = two_versions_once
    shutil.copytree(original.path, tmp_path / "repo")
    repo = original.at(tmp_path / "repo")
    assert repo.status() == ""
    return repo, files


@pytest.mark.parametrize("damage", damages())
def test_bad_object_at_checkout(two_versions: tuple[Repo, dict[str, bytes]], damage: str) -> None:
    repo, files = two_versions
    one, two = (repo.manifest(f"{branch}:model.safetensors") for branch in ("one", "two"))
    entries = [entry for entry in two.entries if entry.chain]
    for entry in (entries[0], entries[-1]) if damage == "flipped middle" else entries[-1:]:
        oid = entry.objects[0].oid
        assert oid not in one.objects()
        path = repo.objects()[oid]
        kept = path.read_bytes()
        damages()[damage](path)
        said = repo.git_fails("checkout", "two")
        (line,) = lines_of_ours(said)
        assert "model.safetensors: " in line
        inside = [each.name for each in two.entries if oid in [ref.oid for ref in each.objects]]
        assert any(name in line for name in inside)
        assert oid in line
        assert repo.git("rev-parse", "--abbrev-ref", "HEAD") == b"one\n"
        assert repo.read("model.safetensors") == files["one"]
        assert repo.status() == ""

        repo.git("symbolic-ref", "HEAD", "refs/heads/two")
        repo.git("reset", "-q", "--mixed")
        repo.write("model.safetensors", b"precious")
        done = repo.theta_run("checkout", "model.safetensors")
        assert done.returncode == 1
        (line,) = lines_of_ours(done.stderr.decode())
        assert "model.safetensors: " in line
        assert any(name in line for name in inside)
        assert oid in line
        assert repo.read("model.safetensors") == b"precious"
        repo.write("model.safetensors", files["one"])
        repo.git("symbolic-ref", "HEAD", "refs/heads/one")
        repo.git("reset", "-q", "--mixed")

        path.unlink(missing_ok=True)
        path.write_bytes(kept)
        path.chmod(0o444)
    repo.git("checkout", "-q", "two")
    assert repo.read("model.safetensors") == files["two"]
    repo.assert_clean()


def test_every_object_is_checked(two_versions: tuple[Repo, dict[str, bytes]]) -> None:
    """Also the skeleton's, in whichever bit: an error that names the object, or (a bit that no
    decoder reads) the right bytes.
    """
    repo, files = two_versions
    manifest = repo.manifest("two:model.safetensors")
    source = random.Random(4)
    for entry in (manifest.skeleton, *manifest.entries):
        for ref in entry.objects:
            path = repo.store / ref.oid[:2] / ref.oid[2:4] / ref.oid
            kept = path.read_bytes()
            path.chmod(0o644)
            data = bytearray(kept)
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
            path.write_bytes(data)
            done = repo.run(["git", "checkout", "two"])
            assert repo.read("model.safetensors") == files["one" if done.returncode else "two"]
            assert not done.returncode or ref.oid in done.stderr.decode()
            path.write_bytes(kept)
            path.chmod(0o444)
            repo.git("checkout", "-q", "one")
    repo.git("checkout", "-q", "two")
    assert repo.read("model.safetensors") == files["two"]


def test_a_restored_path_is_whole_or_absent(two_versions: tuple[Repo, dict[str, bytes]]) -> None:
    """``git checkout -- PATH`` gives up the file before it asks for the new content; what it cannot
    have must not appear in part.
    """
    repo, files = two_versions
    (entry,) = (
        entry for entry in repo.manifest("two:model.safetensors").entries if entry.name == "wide"
    )
    repo.git("checkout", "-q", "two")
    damages()["flipped last"](repo.objects()[entry.objects[0].oid])
    repo.write("model.safetensors", b"to be given up")
    assert entry.objects[0].oid in repo.git_fails("checkout", "--", "model.safetensors")
    assert not (repo.path / "model.safetensors").exists()
    repo.git("checkout", "-q", "one", "--", "model.safetensors")
    assert repo.read("model.safetensors") == files["one"]


def test_other_files_of_the_same_checkout(two_versions: tuple[Repo, dict[str, bytes]]) -> None:
    """A filter that is required stops git at the first file that cannot be had; 'git theta
    checkout' then writes all the others.
    """
    repo, files = two_versions
    there = repo.at(repo.path.parent / "there")
    repo.git("checkout", "-q", "two")
    other = safetensors_file(small(9))
    repo.commit("more", other__safetensors=other)
    (entry,) = (
        entry for entry in repo.manifest("two:model.safetensors").entries if entry.name == "up"
    )
    damages()["missing"](repo.objects()[entry.objects[0].oid])
    done = repo.run(["git", "clone", "-q", str(repo.path), str(there.path)])
    assert done.returncode != 0
    lost = rf"tensor \S+: object {entry.objects[0].oid}"
    assert re.search(lost, done.stderr.decode())
    there.git("reset", "-q")
    done = there.theta_run("checkout")
    assert done.returncode == 1
    assert re.search(f"model.safetensors: {lost}", done.stderr.decode())
    assert there.read("other.safetensors") == other
    assert not (there.path / "model.safetensors").exists()
    there.git("checkout", "-q", "--force", "origin/one")
    assert there.read("model.safetensors") == files["one"]


@pytest.mark.parametrize("step", [1, 2])
def test_adding_again_brings_back_missing_objects(repo: Repo, step: int) -> None:
    """Whoever still has the file can make a store whole again: what is missing is written anew, the
    manifest stays the same.
    """
    data = safetensors_file(weights())
    repo.commit("one", model__safetensors=data)
    text, objects = repo.blob("HEAD:model.safetensors"), repo.objects()
    for path in list(objects.values())[::step]:
        path.chmod(0o644)
        path.unlink()
    os.utime(repo.path / "model.safetensors", (1, 1))
    repo.git("add", "model.safetensors")
    assert repo.blob(":model.safetensors") == text
    assert repo.objects().keys() == objects.keys()
    (repo.path / "model.safetensors").unlink()
    repo.git("checkout", "-q", "--", ".")
    assert repo.read("model.safetensors") == data
    repo.assert_clean()


def test_a_damaged_object_is_replaced_when_it_is_written_again(repo: Repo) -> None:
    data = safetensors_file(small(1))
    repo.commit("one", model__safetensors=data)
    objects = repo.objects()
    for path in objects.values():
        damages()["flipped middle"](path)
    repo.git("rm", "-q", "--cached", "model.safetensors")
    repo.git("commit", "-qm", "without")
    shutil.rmtree(repo.common / "theta" / "cache")
    repo.git("add", "model.safetensors")
    assert repo.objects().keys() == objects.keys()
    repo.git("commit", "-qm", "again")
    (repo.path / "model.safetensors").unlink()
    repo.git("checkout", "-q", "--", ".")
    assert repo.read("model.safetensors") == data


def test_a_missing_base_does_not_hinder_the_next_version(repo: Repo) -> None:
    """The next version is stored without the lost one, and says so."""
    base = weights()
    repo.commit("one", model__safetensors=safetensors_file(base))
    for path in repo.objects().values():
        path.chmod(0o644)
        path.unlink()
    data = safetensors_file(trained(base, 2))
    repo.commit("two", model__safetensors=data)
    (repo.path / "model.safetensors").unlink()
    repo.git("checkout", "-q", "--", ".")
    assert repo.read("model.safetensors") == data
    repo.assert_clean()


# What stands where a model should be


@posix
def test_nothing_is_written_through_a_symbolic_link(repo: Repo, tmp_path: Path) -> None:
    """As git has it: a repository could hold a link that leads anywhere."""
    repo.write("sub/model.safetensors", safetensors_file(small(1)))
    repo.git("add", ".")
    repo.git("commit", "-qm", "one")
    shutil.rmtree(repo.path / "sub")
    outside = tmp_path / "outside"
    outside.mkdir()
    (repo.path / "sub").symlink_to(outside)
    for arguments in (["checkout"], ["checkout", "sub/model.safetensors"], ["checkout", "."]):
        done = repo.theta_run(*arguments)
        assert done.returncode == 1
        assert (
            "symbolic link" in done.stderr.decode()
            or "beyond a symbolic link" in done.stderr.decode()
        )
        assert list(outside.iterdir()) == []


@posix
def test_a_link_in_a_models_place_is_replaced_not_followed(repo: Repo, tmp_path: Path) -> None:
    data = safetensors_file(small(1))
    repo.commit("one", model__safetensors=data)
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    (repo.path / "model.safetensors").unlink()
    (repo.path / "model.safetensors").symlink_to(outside)
    repo.theta("checkout", "model.safetensors")
    assert outside.read_bytes() == b"precious"
    assert not (repo.path / "model.safetensors").is_symlink()
    assert repo.read("model.safetensors") == data
    repo.assert_clean()


def test_a_folder_in_a_models_place_is_left(repo: Repo) -> None:
    repo.commit("one", model__safetensors=safetensors_file(small(1)))
    (repo.path / "model.safetensors").unlink()
    repo.write("model.safetensors/inside", b"precious")
    done = repo.theta_run("checkout", "model.safetensors")
    assert done.returncode == 1
    (line,) = lines_of_ours(done.stderr.decode())
    assert "model.safetensors" in line
    assert repo.read("model.safetensors/inside") == b"precious"
    assert not repo.leftovers()


def test_a_link_to_a_model_is_a_link(repo: Repo) -> None:
    """Git stores where it leads, whatever the attributes say."""
    if os.name == "nt":
        pytest.skip("links need a right there")
    repo.commit("one", model__safetensors=safetensors_file(small(1)))
    (repo.path / "link.safetensors").symlink_to("model.safetensors")
    repo.git("add", "link.safetensors")
    assert repo.git("ls-files", "--stage", "link.safetensors").startswith(b"120000 ")
    assert repo.blob(":link.safetensors") == b"model.safetensors"
    (repo.path / "link.safetensors").unlink()
    repo.theta("checkout")
    repo.git("checkout", "-q", "--", "link.safetensors")
    assert repo.read("link.safetensors") == repo.read("model.safetensors")


# Disks that are full, folders that cannot be written


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, where the system lets us make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if (
        sys.platform != "linux"
        or os.geteuid()
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_at_add(repo: Repo, tiny_disk: Path) -> None:
    (repo.common / "theta").symlink_to(tiny_disk)
    (tiny_disk / "ballast").write_bytes(bytes(1 << 20))
    for name, data in {
        "small.safetensors": safetensors_file(small(1)),
        "large.safetensors": safetensors_file(weights()),
    }.items():
        repo.write(name, data)
        (line,) = lines_of_ours(repo.git_fails("add", name))
        assert line.startswith(f"git-theta: {name}: ")
        assert "No space left on device" in line
        assert repo.git("ls-files", "--stage", "--", name) == b""
        assert not repo.object_ids()
        assert not repo.leftovers()
    subprocess.run(["mount", "-o", "remount,size=64m", str(tiny_disk)], check=True)
    repo.git("add", ".")
    repo.git("commit", "-qm", "with more room")
    repo.assert_clean()


def test_full_disk_at_spooling(repo: Repo, tiny_disk: Path) -> None:
    (repo.common / "theta").symlink_to(tiny_disk)
    data = safetensors_file(weights())
    repo.write("model.safetensors", b"something else")
    said = repo.git_fails("hash-object", "-w", "--stdin", "--path=model.safetensors", stdin=data)
    (line,) = lines_of_ours(said)
    assert "No space left on device" in line
    assert not repo.object_ids()
    assert not repo.leftovers()


def test_full_disk_at_checkout(repo: Repo, tiny_disk: Path) -> None:
    data = safetensors_file(weights())
    repo.commit("one", model__safetensors=data)
    repo.git("worktree", "add", "-q", str(tiny_disk / "tree"), "HEAD", GIT_THETA_SKIP_SMUDGE="1")
    tree = repo.at(tiny_disk / "tree")
    before = tree.read("model.safetensors")
    done = tree.theta_run("checkout")
    assert done.returncode == 1
    (line,) = lines_of_ours(done.stderr.decode())
    assert "model.safetensors" in line
    assert "No space left on device" in line
    assert tree.read("model.safetensors") == before
    assert sorted(path.name for path in tree.path.iterdir()) == [
        ".git",
        ".gitattributes",
        "model.safetensors",
    ]
    subprocess.run(["mount", "-o", "remount,size=64m", str(tiny_disk)], check=True)
    tree.theta("checkout")
    assert tree.read("model.safetensors") == data
    tree.assert_clean()


@posix
@pytest.mark.parametrize("limit", [1 << 14, 1 << 18, 1 << 20])
def test_file_size_limit(repo: Repo, limit: int) -> None:
    """The same without a file system of one's own: no file may become larger than ``limit``."""
    program = (
        f"import os, sys, resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({limit}, {limit}));"
        " os.execvp(sys.argv[1], sys.argv[1:])"
    )
    limited = [sys.executable, "-c", program, "git"]
    data = safetensors_file(
        {
            "v": np.ones(100, np.float32),
            "w": np.frombuffer(np.random.default_rng(6).bytes(5 << 20), np.uint8),
        }
    )
    repo.write("model.safetensors", data)
    for words, stdin in (
        (["add", "model.safetensors"], None),
        (["hash-object", "--path=model.safetensors", "--stdin"], data[:-1] + b"\1"),
    ):
        done = repo.run([*limited, *words], stdin)
        assert done.returncode != 0
        (line,) = lines_of_ours(done.stderr.decode())
        assert line.startswith("git-theta: model.safetensors: ")
        assert "File too large" in line
        assert repo.git("ls-files", "--stage", "--", "model.safetensors") == b""
        assert not repo.object_ids()
        assert not repo.leftovers()
    repo.git("add", "model.safetensors")
    repo.git("commit", "-qm", "now")
    repo.assert_clean()


def test_store_that_cannot_be_made(repo: Repo) -> None:
    (repo.common / "theta").write_bytes(b"in the way")
    repo.write("model.safetensors", safetensors_file(small(1)))
    (line,) = lines_of_ours(repo.git_fails("add", "model.safetensors"))
    assert line.startswith("git-theta: model.safetensors: the object store ")
    assert repo.git("ls-files", "--stage", "--", "model.safetensors") == b""


@posix
def test_read_only_store(repo: Repo) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    repo.commit("one", model__safetensors=safetensors_file(small(1)))
    folders = [path for path in (repo.common / "theta").rglob("*") if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    repo.write("model.safetensors", safetensors_file(small(2)))
    (line,) = lines_of_ours(repo.git_fails("add", "model.safetensors"))
    assert "the object store " in line
    repo.git("checkout", "-q", "--", "model.safetensors")
    for folder in folders:
        folder.chmod(0o755)
    repo.assert_clean()


def test_unreadable_configuration(repo: Repo) -> None:
    repo.git("config", "theta.threads", "many")
    repo.write("model.safetensors", safetensors_file(small(1)))
    said = repo.git_fails("add", "model.safetensors")
    assert "theta.threads" in lines_of_ours(said)[0]
    assert repo.git("ls-files", "--stage", "--", "model.safetensors") == b""


# Several things at once


class Writer(threading.Thread):
    """Rewrites a file over and over, in place, each time with another value in every byte of its
    tensor.
    """

    def __init__(self, path: Path, data: bytes, start: int) -> None:
        super().__init__(name="writer")
        self.path, self.data, self.begin = path, data, start
        self.stop = threading.Event()

    def run(self) -> None:
        value = 0
        with self.path.open("r+b", buffering=0) as file:
            while not self.stop.is_set():
                value = value % 255 + 1
                for offset in range(self.begin, len(self.data), 1 << 16):
                    file.seek(offset)
                    file.write(bytes([value]) * min(1 << 16, len(self.data) - offset))
                    if self.stop.is_set():
                        return


@posix
@pytest.mark.parametrize("megabytes", [1, 24])
def test_file_that_changes_while_it_is_added(repo: Repo, megabytes: int) -> None:
    """An error, or content that the file really had: never half of two states."""
    data = safetensors_file({"w": np.zeros(megabytes << 20, np.uint8)})
    start = len(data) - (megabytes << 20)
    path = repo.write("model.safetensors", data)
    refused = 0
    for _ in range(2):
        writer = Writer(path, data, start)
        writer.start()
        try:
            done = repo.run(["git", "add", "model.safetensors"])
        finally:  # or pytest would not end
            writer.stop.set()
            writer.join()
        if done.returncode:
            refused += 1
            (line,) = lines_of_ours(done.stderr.decode())
            assert line.startswith(
                "git-theta: model.safetensors: the file changed while it was being added"
            )
            assert repo.git("ls-files", "--stage", "--", "model.safetensors") == b""
        else:
            content = repo.git("cat-file", "--filters", ":model.safetensors")
            assert len(set(content[start:])) == 1
            repo.git("rm", "-q", "--cached", "model.safetensors")
    assert refused
    path.write_bytes(data)
    repo.git("add", "model.safetensors")
    repo.git("commit", "-qm", "at rest")
    repo.assert_clean()


SLOW = """\
import sys, time
import git_theta.drivers.filter_process as process
from git_theta.drivers import drain

def write_once(*_):
    if not done:
        done.append(True)
        time.sleep(0.3)
        with open({path!r}, "r+b") as file:
            file.seek({place})
            file.write(b"\\1")

def around(holder, name, before, after):
    original = getattr(holder, name)
    def call(*arguments):
        if before:
            write_once()
        result = original(*arguments)
        if after:
            write_once()
        return result
    setattr(holder, name, call)

done = []
around(*{where})
sys.exit(process.main([]))
"""
MOMENTS = {
    "before the filter has opened it": "(process, '_start', True, False)",
    "while its content comes in": "(drain.IncomingFile, 'collect', False, True)",
    "while it is compared": "(drain, 'compare', False, True)",
}


@posix
@pytest.mark.parametrize("megabytes", [1, 24])
@pytest.mark.parametrize("moment", MOMENTS)
def test_file_that_changes_at_a_certain_moment(
    repo: Repo, tmp_path: Path, moment: str, megabytes: int
) -> None:
    """Git begins to send a file before the filter has opened it, and the filter reads it a second
    time: no change may slip between.
    """
    data = safetensors_file({"w": np.zeros(megabytes << 20, np.uint8)})
    path = repo.write("model.safetensors", data)
    slow = tmp_path / "slow.py"
    slow.write_text(
        SLOW.format(
            path=str(path), place=len(data) - (megabytes << 20) + 10, where=MOMENTS[moment]
        ),
        encoding="utf-8",
    )
    repo.git("config", "filter.theta.process", f"'{sys.executable}' '{slow}'")
    time.sleep(0.1)  # the file is at rest when git comes
    done = repo.run(["git", "add", "model.safetensors"])
    if path.read_bytes() == data:
        assert (moment, megabytes) == ("while it is compared", 1), "a small file is not compared"
        assert done.returncode == 0
    else:
        assert done.returncode != 0
        (line,) = lines_of_ours(done.stderr.decode())
        assert line.startswith(
            "git-theta: model.safetensors: the file changed while it was being added"
        )
        assert repo.git("ls-files", "--stage", "--", "model.safetensors") == b""
    repo.git("config", "--unset", "filter.theta.process")
    repo.git("add", "model.safetensors")
    assert repo.git("cat-file", "--filters", ":model.safetensors") == path.read_bytes()


def test_a_file_that_disappears(repo: Repo) -> None:
    data = safetensors_file(small(3))
    blob = (
        repo.git("hash-object", "-w", "--stdin", "--path=not/there.safetensors", stdin=data)
        .decode()
        .strip()
    )
    repo.git("update-index", "--add", "--cacheinfo", f"100644,{blob},not/there.safetensors")
    repo.git("checkout", "-q", "--", ".")
    assert repo.read("not/there.safetensors") == data


def start(repo: Repo, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        cwd=repo.path,
        env=dict(repo.environment),
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )


def test_two_adds_at_once(repo: Repo, tmp_path: Path) -> None:
    """In several worktrees, of the same and of different content: each is right, and each object is
    there once, whole.
    """
    same = small(0)
    trees = []
    for number in range(3):
        repo.git("worktree", "add", "-q", "--detach", str(tmp_path / f"{number}"))
        trees.append(repo.at(tmp_path / f"{number}"))
    for turn in range(3):
        contents = [
            safetensors_file({**same, "own": np.full(50_000, 10 * turn + number, np.float32)})
            for number in range(len(trees))
        ]
        same = {**same, **small(turn)}
        for tree, data in zip(trees, contents, strict=True):
            tree.write("model.safetensors", data)
            tree.write("copy.safetensors", contents[0])
        running = [start(tree, "git", "add", ".") for tree in trees]
        for process in running:
            _, said = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, said
        for tree, data in zip(trees, contents, strict=True):
            tree.git("commit", "-qm", f"turn {turn}")
            (tree.path / "model.safetensors").unlink()
            tree.theta("checkout")
            assert tree.read("model.safetensors") == data
            tree.assert_clean()


def test_two_adds_in_one_working_tree(repo: Repo) -> None:
    """Git lets one wait for nobody: the later fails at the index, or both succeed.

    What is staged is right either way.
    """
    files = {f"{number}.safetensors": safetensors_file(small(number)) for number in range(2)}
    for name, data in files.items():
        repo.write(name, data)
    running = {name: start(repo, "git", "add", name) for name in files}
    ended = {
        name: (process.communicate(timeout=PATIENCE)[1], process.returncode)
        for name, process in running.items()
    }
    for name, (said, code) in ended.items():
        if code:
            assert b"index.lock" in said
            repo.git("add", name)
    repo.git("commit", "-qm", "both")
    for name in files:
        (repo.path / name).unlink()
    repo.git("checkout", "-q", "--", ".")
    assert {name: repo.read(name) for name in files} == files
    repo.assert_clean()


# Sudden death


class Victim:
    """Commands that are killed, git and filter together, at moments spread evenly over their time.

    Multiples of the golden ratio leave no gap, however many they are.
    """

    def __init__(self, repo: Repo, seed: int) -> None:
        self.repo = repo
        self.moment = random.Random(seed).random()
        self.kills = 0

    def time(self, words: Sequence[str]) -> float:
        """Seconds that a command takes when it is let alone."""
        begun = time.monotonic()
        done = self.repo.run(words)
        assert done.returncode == 0, done.stderr
        return time.monotonic() - begun

    def kill(self, words: Sequence[str], within: float) -> None:
        """Run a command and kill it within so many seconds, if it takes that long."""
        process = subprocess.Popen(
            words,
            cwd=self.repo.path,
            env=dict(self.repo.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.moment = (self.moment + (5**0.5 - 1) / 2) % 1
        time.sleep(self.moment * within)
        with_group = process.poll() is None
        if with_group:
            os.killpg(process.pid, signal.SIGKILL)
        self.kills += process.wait() == -signal.SIGKILL
        (self.repo.path / ".git" / "index.lock").unlink(missing_ok=True)  # as git tells its user to


def assert_staged_is_whole(repo: Repo, name: str) -> None:
    """What the index holds can be checked out: git got the manifest after its objects."""
    if repo.git("ls-files", "--", name):
        assert set(repo.manifest(f":{name}").objects()) <= repo.object_ids()


def kill_adds(repo: Repo, seed: int, kills: int) -> None:
    name, victim, number = "model.safetensors", Victim(repo, seed), 1000 * seed
    add = ["git", "add", name]
    checked: set[str] = set()

    def renew() -> bytes:
        nonlocal number
        number += 1
        data = safetensors_file(
            {
                **small(number),
                "wide": np.full((1024, 256 * (number % 2 * 4 + 1)), number, np.float32),
            }
        )
        repo.write(name, data)
        return data

    renew()
    duration = victim.time(add)
    while victim.kills < kills:
        data = renew()
        victim.kill(add, 1.1 * duration)
        checked |= repo.objects(checked).keys()
        assert_staged_is_whole(repo, name)
        if number % 10 == 0:
            duration = min(duration, victim.time(add))
            repo.git("commit", "-qm", f"{number}", "--allow-empty")
            (repo.path / name).unlink()
            repo.git("checkout", "-q", "--", name)
            assert repo.read(name) == data
            assert repo.status() == ""
        assert number % 1000 < 500
    repo.git("add", name)
    repo.git("commit", "-qm", "the last", "--allow-empty")
    assert repo.status() == ""
    repo.objects()
    repo.git("fsck", "--no-dangling")


@posix
def test_killed_while_adding(tmp_path: Path, environment: Mapping[str, str]) -> None:
    """Fifty times, in two repositories side by side."""
    repos = [Repo.create(tmp_path / f"{number}", environment) for number in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(kill_adds, repos, (1, 2), (25, 25)))


@pytest.fixture
def two_tags(repo: Repo) -> tuple[Repo, list[bytes]]:
    """Tags v0 and v1 with different contents of model.safetensors, the one streamed, the other
    collected in memory.
    """
    wide = [np.full((1024, width), 1, np.float32) for width in (256, 1280)]
    files = [
        safetensors_file({**small(number), "wide": array}) for number, array in enumerate(wide)
    ]
    for number, data in enumerate(files):
        repo.commit(f"{number}", model__safetensors=data)
        repo.git("tag", f"v{number}")
    return repo, files


def kill_checkouts(repo: Repo, files: list[bytes], kills: int) -> None:
    name, victim, turn = "model.safetensors", Victim(repo, 2), 0
    objects = repo.objects().keys()
    duration = victim.time(["git", "checkout", "-q", "--force", "v0"])
    while victim.kills < kills:
        turn += 1
        victim.kill(["git", "checkout", "-q", "--force", f"v{turn % 2}"], 1.1 * duration)
        if turn % 10 == 0:
            duration = min(
                duration, victim.time(["git", "checkout", "-q", "--force", f"v{turn % 2}"])
            )
            assert repo.read(name) == files[turn % 2]
            assert repo.status() == ""
        assert turn < 500
    assert repo.objects().keys() == objects
    repo.git("fsck", "--no-dangling")


def kill_theta_checkouts(repo: Repo, files: list[bytes], kills: int) -> None:
    name, victim, turn = "model.safetensors", Victim(repo, 3), 0
    objects = repo.objects().keys()
    checkout = [sys.executable, "-m", "git_theta", "checkout", name]
    duration = victim.time(checkout)
    while victim.kills < kills:
        turn += 1
        repo.git("read-tree", f"v{turn % 2}")
        victim.kill(checkout, 1.1 * duration)
        assert repo.read(name) in files, "the one or the other, never a part"
        if turn % 10 == 0:
            duration = min(duration, victim.time(checkout))
            assert repo.read(name) == files[turn % 2]
            assert repo.git("diff-files", "--name-only", "--", name) == b""
        assert turn < 500
    assert repo.objects().keys() == objects
    repo.git("fsck", "--no-dangling")


@posix
def test_killed_while_checking_out(two_tags: tuple[Repo, list[bytes]], tmp_path: Path) -> None:
    """By git, 25 times; by ``git theta checkout``, 30 times: in two copies of a repository side by
    side.
    """
    repo, files = two_tags
    shutil.copytree(repo.path, tmp_path / "copy")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(kill_checkouts, repo, files, 25)
        second = pool.submit(kill_theta_checkouts, repo.at(tmp_path / "copy"), files, 30)
        first.result()
        second.result()


@posix
def test_filter_that_dies(repo: Repo) -> None:
    """The filter alone is killed: git must not take that for a success."""
    good, name = safetensors_file(small(0)), "model.safetensors"
    repo.commit("good", model__safetensors=good)
    staged = repo.git("ls-files", "--stage", name)
    command = repo.git("config", "filter.theta.process").decode().strip()
    source, failures = random.Random(3), 0
    for number in range(1, 16):
        repo.write(
            name,
            safetensors_file({**small(number), "wide": np.full((1024, 1280), number, np.float32)}),
        )
        limit = source.uniform(0.01, 0.4)
        kill = f"(sleep {limit:.3f}; kill -KILL $$) </dev/null >/dev/null 2>&1 & exec {command}"
        repo.git("config", "filter.theta.process", kill)
        done = repo.run(["git", "add", name])
        repo.git("config", "--unset", "filter.theta.process")
        repo.objects()
        assert_staged_is_whole(repo, name)
        if done.returncode:
            failures += 1
            assert repo.git("ls-files", "--stage", name) == staged
        staged = repo.git("ls-files", "--stage", name)
    assert failures
    repo.git("add", name)
    repo.git("commit", "-qm", "last")
    assert repo.status() == ""


def test_abandoned_temporary_files_are_swept(repo: Repo) -> None:
    repo.commit("one", model__safetensors=safetensors_file(small(1)))
    old, new = (repo.common / "theta" / "tmp" / name for name in ("1-dead", "2-alive"))
    for path in (old, new):
        path.write_bytes(b"half an object")
    os.utime(old, (time.time() - 100_000, time.time() - 100_000))
    repo.commit("two", model__safetensors=safetensors_file(small(2)))
    assert repo.leftovers() == ["2-alive"]
