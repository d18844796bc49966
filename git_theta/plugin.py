"""What plugin authors import: all names that a format, update, merge strategy, kind of unit or
command needs.

A plugin's module implements hooks, marked with :func:`hookimpl`; each returns objects that satisfy
one of the protocols here. Everything else in the package may move with any release; these names,
:mod:`git_theta.errors` and :mod:`git_theta.testing` are kept as ``docs/stability.md`` promises. The
guide is ``docs/plugins.md``.
"""

from __future__ import annotations

from git_theta.checkpoints.containers.nested import Members
from git_theta.core import dtypes
from git_theta.core.contracts import (
    BuildsFiles,
    BuildsPieces,
    Change,
    CheckpointFormat,
    CutsBytes,
    CutsMembers,
    ExactUpdate,
    FoundInside,
    FromParts,
    KeepsState,
    Level,
    MeantFor,
    MergeCase,
    MergeStrategy,
    NotesTies,
    Option,
    ReadsContents,
    ReadsSibling,
    SavesObjects,
    SaysNumbers,
    SaysOrderFree,
    SaysReproducible,
    ScansInside,
    ShowsViews,
    StoredView,
    SurveysModel,
    UnitKind,
    Update,
    UsesStatistics,
    WholeModel,
)
from git_theta.core.layout import Checksum, Extent, Layout, PartlyBrokenError, unique_names
from git_theta.core.source import BytesSource, Source
from git_theta.core.tensors import Buffer, Contents, Encoded, Spec, Tensor
from git_theta.errors import FormatError, MergeError, PayloadError, UsageError
from git_theta.plugins.hookspecs import (
    hookimpl,
    register_checkpoint_formats,
    register_commands,
    register_merge_strategies,
    register_unit_kinds,
    register_updates,
)

__all__ = [
    "Buffer",
    "BuildsFiles",
    "BuildsPieces",
    "BytesSource",
    "Change",
    "CheckpointFormat",
    "Checksum",
    "Contents",
    "CutsBytes",
    "CutsMembers",
    "Encoded",
    "ExactUpdate",
    "Extent",
    "FormatError",
    "FoundInside",
    "FromParts",
    "KeepsState",
    "Layout",
    "Level",
    "MeantFor",
    "Members",
    "MergeCase",
    "MergeError",
    "MergeStrategy",
    "NotesTies",
    "Option",
    "PartlyBrokenError",
    "PayloadError",
    "ReadsContents",
    "ReadsSibling",
    "SavesObjects",
    "SaysNumbers",
    "SaysOrderFree",
    "SaysReproducible",
    "ScansInside",
    "ShowsViews",
    "Source",
    "Spec",
    "StoredView",
    "SurveysModel",
    "Tensor",
    "UnitKind",
    "Update",
    "UsageError",
    "UsesStatistics",
    "WholeModel",
    "dtypes",
    "hookimpl",
    "register_checkpoint_formats",
    "register_commands",
    "register_merge_strategies",
    "register_unit_kinds",
    "register_updates",
    "unique_names",
]
