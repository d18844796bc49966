"""The built-in checkpoint formats, by name, without importing them: one row for each.

Whatever else must be known of a format before it is imported stands in its row, and nowhere else.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from importlib import import_module
from typing import NamedTuple


class FormatRow(NamedTuple):
    """A built-in checkpoint format.

    ``generic``: it takes what nobody else knows, so plugins come before it.

    A suffix alone claims a file only when it starts with ``magic``: ``.bin`` and ``.pt`` are used
    for much else. Files whose content is of this format begin with one of ``starts`` (if any are
    given): others need not import it to be told so. A file whose name holds ``beside`` is
    understood with another one beside it; without ``sniffed``, only so.
    """

    target: str
    suffixes: tuple[str, ...] = ()
    magic: bytes = b""
    generic: bool = False
    starts: tuple[bytes, ...] = ()
    beside: str = ""
    companion: str = ""
    sniffed: bool = True
    inside: str | None = None


# In the order in which they are tried; the last one takes any bytes
FORMATS = {
    "safetensors": FormatRow(
        "git_theta.checkpoints.safetensors:SafetensorsFormat",
        (".safetensors",),
        inside=".safetensors",
    ),
    "torch-zip": FormatRow(
        "git_theta.checkpoints.torch.zip_format:TorchZipFormat",
        (".pt", ".pth", ".ckpt", ".bin"),
        b"PK\x03\x04",
        starts=(b"PK\x03\x04",),
        beside=".distcp",
        companion=".metadata",
        inside="",
    ),
    "torch-legacy": FormatRow(
        "git_theta.checkpoints.torch.legacy_archive:TorchLegacyFormat",
        starts=(b"\x80",),
        inside="",
    ),
    "gguf": FormatRow(
        "git_theta.checkpoints.gguf:GgufFormat",
        (".gguf",),
        b"GGUF",
        starts=(b"GGUF",),
        inside="",
    ),
    "npy": FormatRow(
        "git_theta.checkpoints.numpy_files:NpyFormat",
        (".npy",),
        b"\x93NUMPY",
        starts=(b"\x93NUMPY",),
        inside="",
    ),
    "npz": FormatRow(
        "git_theta.checkpoints.numpy_files:NpzFormat",
        (".npz",),
        b"PK\x03\x04",
        starts=(b"PK\x03\x04",),
        inside="",
    ),
    "hdf5": FormatRow(
        "git_theta.checkpoints.hdf5:Hdf5Format",
        (".h5", ".hdf5"),
        b"\x89HDF",
        starts=(b"\x89HDF",),
        inside="",
    ),
    "onnx": FormatRow(
        "git_theta.checkpoints.onnx:OnnxFormat", (".onnx",), starts=(b"\x08",), inside=".onnx"
    ),
    "flax-msgpack": FormatRow(
        "git_theta.checkpoints.flax_msgpack:FlaxMsgpackFormat",
        (".msgpack",),
        starts=tuple(bytes([first]) for first in (*range(0x81, 0x90), 0xDE, 0xDF)),
        inside=".msgpack",
    ),
    "tf-checkpoint": FormatRow(
        "git_theta.checkpoints.tf_checkpoint:TfCheckpointFormat",
        beside=".data-",
        companion="*.index",
        sniffed=False,
    ),
    "tar": FormatRow(
        "git_theta.checkpoints.containers.tar_container:TarFormat",
        (".nemo", ".tar"),
        generic=True,
        inside="",
    ),
    "stored-zip": FormatRow(
        "git_theta.checkpoints.containers.stored_zip:StoredZipFormat", generic=True, inside=""
    ),
    "opaque": FormatRow("git_theta.checkpoints.opaque:OpaqueFormat", generic=True),
}

FALLBACK = next(reversed(FORMATS))


def beside(name: str) -> list[str]:
    """The built-in formats that may understand a file called ``name`` with a companion file."""
    return [form for form, row in FORMATS.items() if row.beside and row.beside in name]


def explains(name: str) -> bool:
    """Whether a file called ``name`` may be the companion of others, and so needs no format of its
    own.
    """
    return any(fnmatchcase(name, row.companion) for row in FORMATS.values() if row.companion)


def make(target: str) -> object:
    """An instance of the class that ``module:Class`` names."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)()
