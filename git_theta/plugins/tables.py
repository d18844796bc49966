"""What comes with Git-Theta, by name, without importing it.

The registry's hot path imports the one that is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from git_theta.core.contracts import CheckpointFormat, MergeStrategy, UnitKind, Update


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
    sniffed: bool = True


FORMATS = {
    "safetensors": FormatRow(
        "git_theta.checkpoints.safetensors:SafetensorsFormat", (".safetensors",)
    ),
    "torch-zip": FormatRow(
        "git_theta.checkpoints.torch.zip_format:TorchZipFormat",
        (".pt", ".pth", ".ckpt", ".bin"),
        b"PK\x03\x04",
        starts=(b"PK\x03\x04",),
        beside=".distcp",
    ),
    "torch-legacy": FormatRow(
        "git_theta.checkpoints.torch.legacy_archive:TorchLegacyFormat", starts=(b"\x80",)
    ),
    "gguf": FormatRow(
        "git_theta.checkpoints.gguf:GgufFormat", (".gguf",), b"GGUF", starts=(b"GGUF",)
    ),
    "npy": FormatRow(
        "git_theta.checkpoints.numpy_files:NpyFormat",
        (".npy",),
        b"\x93NUMPY",
        starts=(b"\x93NUMPY",),
    ),
    "npz": FormatRow(
        "git_theta.checkpoints.numpy_files:NpzFormat",
        (".npz",),
        b"PK\x03\x04",
        starts=(b"PK\x03\x04",),
    ),
    "hdf5": FormatRow(
        "git_theta.checkpoints.hdf5:Hdf5Format", (".h5", ".hdf5"), b"\x89HDF", starts=(b"\x89HDF",)
    ),
    "onnx": FormatRow("git_theta.checkpoints.onnx:OnnxFormat", (".onnx",), starts=(b"\x08",)),
    "flax-msgpack": FormatRow(
        "git_theta.checkpoints.flax_msgpack:FlaxMsgpackFormat",
        (".msgpack",),
        starts=tuple(bytes([first]) for first in (*range(0x81, 0x90), 0xDE, 0xDF)),
    ),
    "tf-checkpoint": FormatRow(
        "git_theta.checkpoints.tf_checkpoint:TfCheckpointFormat", beside=".data-", sniffed=False
    ),
    "tar": FormatRow(
        "git_theta.checkpoints.containers.tar_container:TarFormat", (".nemo", ".tar"), generic=True
    ),
    "stored-zip": FormatRow(
        "git_theta.checkpoints.containers.stored_zip:StoredZipFormat", generic=True
    ),
    "opaque": FormatRow("git_theta.checkpoints.opaque:OpaqueFormat", generic=True),
}

UPDATES = {
    "dense": "git_theta.updates.dense:Dense",
    "delta": "git_theta.updates.delta:Delta",
    "sparse": "git_theta.updates.sparse:Sparse",
    "low-rank": "git_theta.updates.low_rank:LowRank",
    "ia3": "git_theta.updates.ia3:IA3",
    "patch": "git_theta.updates.patch:Patch",
}

STATISTICS = ("fisher", "gram", "velocity")  # that built-in merge strategies use


def beside(name: str) -> list[str]:
    """The built-in formats by which a file called ``name`` may be understood with another one
    beside it.
    """
    return [form for form, row in FORMATS.items() if row.beside and row.beside in name]


def explains(name: str) -> bool:
    """Whether a file called ``name`` may be one by which others are understood, which needs no
    format of its own.
    """
    return name == ".metadata" or name.endswith(".index")


def make(target: str) -> object:
    """An instance of the class that ``module:Class`` names."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)()


def checkpoint_format(name: str) -> CheckpointFormat:
    """The built-in format called ``name``; :class:`KeyError` if there is none."""
    return cast("CheckpointFormat", make(FORMATS[name].target))


def update(name: str) -> Update:
    """The built-in update called ``name``; :class:`KeyError` if there is none."""
    return cast("Update", make(UPDATES[name]))


def merge_strategies() -> tuple[MergeStrategy, ...]:
    """All built-in merge strategies."""
    from git_theta.merges import builtin_strategies

    return tuple(builtin_strategies.strategies())


def unit_kinds() -> tuple[UnitKind, ...]:
    """All built-in kinds of units."""
    from git_theta.merges import units

    return units.KINDS
