"""Fuzzes the parsers with damaged copies of real files.

``python tests/helpers/fuzz.py FORMAT|all [COUNT [SEED]]``

Each mutant must be refused with the project's own error or give itself back, in bounded time and
memory. What does not is written to the current folder as ``fuzz-FORMAT-NUMBER``, to be kept as a
test.
"""

from __future__ import annotations

import io
import resource
import signal
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from cutting import mutants, rebuilt, survives

from git_theta.checkpoints.torch import pickle_reader
from git_theta.core.contracts import ReadsContents, ReadsSibling
from git_theta.core.layout import Layout
from git_theta.core.source import BytesSource, Source
from git_theta.errors import FormatError
from git_theta.plugins import tables

DATA = Path(__file__).resolve().parents[1] / "data"
TIME_LIMIT = 5  # seconds that the scan of one mutant may take
MEMORY_LIMIT = 1 << 30  # bytes that all of them may add to the process


class TooSlow(Exception):
    """One mutant took longer than :data:`TIME_LIMIT`."""


def _files(folder: str, *patterns: str) -> list[bytes]:
    return [
        path.read_bytes() for pattern in patterns for path in sorted((DATA / folder).glob(pattern))
    ]


def _safetensors() -> list[bytes]:
    import numpy as np
    from safetensors.numpy import save

    first: dict[str, np.ndarray] = {
        "w": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b": np.zeros(3, np.float16),
        "n": np.array(3),
    }
    return [
        save(first, {"format": "pt", "a": "ü\n"}),
        save({"ü/x.weight": np.ones((2, 0), np.uint8), "é": np.ones(5, np.bool_)}),
        save({}),
    ]


def _members() -> dict[str, bytes]:
    return {
        "metadata.json": b"{}",
        "model.weights.h5": (DATA / "formats" / "latest.h5").read_bytes(),
        "inner/w.npz": (DATA / "formats" / "small.npz").read_bytes(),
        "m.gguf": (DATA / "formats" / "small.gguf").read_bytes(),
    }


def _zips() -> list[bytes]:
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", method) as file:
            for name, data in _members().items():
                file.writestr(zipfile.ZipInfo(name), data, method)
        found.append(target.getvalue())
    return found


def _tars() -> list[bytes]:
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w", format=form) as file:
            for name, data in {**_members(), "f" * 90 + "/" + "ü" * 40: b"x" * 100}.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
        found.append(target.getvalue())
    return found


class _Beside:
    """Reads damaged copies of the file that lies beside a sound checkpoint."""

    def __init__(self, form: str, path: Path) -> None:
        self._format = tables.checkpoint_format(form)
        self._name, self._data = path.name, path.read_bytes()

    def sniff(self, head: bytes) -> bool:
        return bool(head)

    def scan(self, source: Source) -> Layout:
        assert isinstance(self._format, ReadsSibling)
        layout = self._format.scan_beside(BytesSource(self._data), self._name, source)
        assert rebuilt(layout, self._data) == self._data
        return Layout("opaque", source.size, ())


class _LargePickle:
    """Reads pickles as those too large to be held."""

    def sniff(self, head: bytes) -> bool:
        return bool(head)

    def scan(self, source: Source) -> Layout:
        try:
            _, length = pickle_reader.read_large(source.read, 0, source.size)
        except pickle_reader.PickleError as error:
            raise FormatError(str(error)) from None
        assert 0 < length <= source.size
        return Layout("opaque", source.size, ())


def _pickles() -> list[bytes]:
    import pickle

    long = {
        "text": "ü" * 3000,
        "bytes": bytes(5000),
        "number": 7**5000,
        "array": bytearray(2000),
        "end": [1, "x"],
    }
    found = [pickle.dumps(long, protocol) for protocol in (1, 2, 4, 5)]
    for path in sorted((DATA / "torch").glob("*.pt")):
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as file:
            found += [file.read(name) for name in file.namelist() if name.endswith("data.pkl")]
    return found


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "safetensors": _safetensors,
    "torch-zip": lambda: [*_files("torch", "*.pt"), *_files("formats", "*.distcp")],
    "torch-legacy": lambda: [*_files("formats", "*-legacy.pt"), *_files("torch", "legacy.pt")],
    "large-pickle": _pickles,
    "gguf": lambda: _files("formats", "*.gguf"),
    "npy": lambda: _files("formats", "*.npy"),
    "npz": lambda: _files("formats", "*.npz"),
    "hdf5": lambda: _files("formats", "*.h5"),
    "onnx": lambda: _files("formats", "*.onnx"),
    "flax-msgpack": lambda: _files("formats", "*.msgpack"),
    "tf-checkpoint": lambda: _files("tensorflow", "*.index"),
    "torch-distributed": lambda: [*_files("dcp", ".metadata"), *_files("dcp-sharded", ".metadata")],
    "tar": _tars,
    "stored-zip": _zips,
}
BESIDE = {
    "tf-checkpoint": ("tf-checkpoint", DATA / "tensorflow" / "small.data-00000-of-00001"),
    "torch-distributed": ("torch-zip", DATA / "dcp" / "__0_0.distcp"),
}


def fuzz(
    name: str, count: int, seed: int = 0, keep: Callable[[bytes, Exception], None] | None = None
) -> tuple[int, int, int, float]:
    """Scan ``count`` mutants: how many were refused, accepted and bad, and the seconds of the
    slowest.

    Bad ones are handed to ``keep``; without it the first is raised.
    """
    parser: Any = (
        _Beside(*BESIDE[name])
        if name in BESIDE
        else _LargePickle()
        if name == "large-pickle"
        else tables.checkpoint_format(name)
    )
    refused, accepted, bad, slowest = 0, 0, 0, 0.0
    for data in mutants(SEEDS[name](), count, seed):
        start = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
        try:
            no, yes = survives(parser, [data])
            if yes and isinstance(parser, ReadsContents):
                with suppress(FormatError):
                    parser.contents(BytesSource(data))
        except Exception as error:  # whatever it is, it is a finding
            if keep is None:
                raise
            keep(data, error)
            bad += 1
        else:
            refused, accepted = refused + no, accepted + yes
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.process_time() - start)
    return refused, accepted, bad, slowest


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow(
        f"longer than {TIME_LIMIT} s (signal {number}, {frame.f_code.co_qualname if frame else ''})"
    )


def bounded() -> None:
    """Have this process refuse memory and time beyond the limits."""
    signal.signal(signal.SIGALRM, _too_slow)
    used = (
        int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        * resource.getpagesize()
    )
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LIMIT, resource.RLIM_INFINITY))


def _kept(name: str) -> Callable[[bytes, Exception], None]:
    numbers: Iterator[int] = iter(range(1_000_000))

    def keep(data: bytes, error: Exception) -> None:
        path = Path(f"fuzz-{name}-{next(numbers)}")
        path.write_bytes(data)
        print(f"{path}: {type(error).__name__}: {str(error)[:200]!r}", flush=True)

    return keep


def main(arguments: Sequence[str]) -> int:
    """Fuzz what the command line names; 1 when something was found."""
    wanted, count, seed = [*arguments, *("all", "1000", "0")[len(arguments) :]]
    names, found = list(SEEDS) if wanted == "all" else [wanted], 0
    bounded()
    for name in names:
        start = time.perf_counter()
        refused, accepted, bad, slowest = fuzz(name, int(count), int(seed), _kept(name))
        found += bad
        rest = f"slowest {slowest * 1000:.0f} ms, {time.perf_counter() - start:.0f} s in all"
        print(
            f"{name}: {refused:,} refused, {accepted:,} accepted, {bad:,} bad; {rest}", flush=True
        )
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
