"""What a plugin provides.

Plugins inherit from nothing; these protocols say what is called, and with what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from git_theta.core.layout import Checksum, Extent, Layout
from git_theta.core.names import display
from git_theta.core.source import Source
from git_theta.core.tensors import Buffer, Contents, Encoded, Spec, Tensor
from git_theta.errors import PluginError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

__all__ = [
    "BuildsFiles",
    "BuildsPieces",
    "Change",
    "CheckpointFormat",
    "Combination",
    "Contents",
    "CutsBytes",
    "CutsMembers",
    "Encoded",
    "ExactUpdate",
    "FoundInside",
    "FromParts",
    "KeepsState",
    "Level",
    "MeantFor",
    "MergeCase",
    "MergeStrategy",
    "NotesTies",
    "Option",
    "Read",
    "ReadsContents",
    "ReadsSibling",
    "ReadsSlices",
    "SavesObjects",
    "SaysNumbers",
    "SaysOrderFree",
    "SaysReproducible",
    "ScansInside",
    "ShowsViews",
    "StoredView",
    "SurveysModel",
    "TakesVersion",
    "UnitKind",
    "Update",
    "UsesStatistics",
    "WholeModel",
    "WritesFiles",
]

Level = Literal["fast", "default", "best"]
"""How much time an update may spend to become smaller: ``theta.compression``."""

Change = Literal["text", "small", "few", "rule"]
"""The kinds of change that an update can be meant for: see :class:`MeantFor`."""

Combination = Literal["sum", "weighted", "mean"]
"""How a statistic combines when its models are merged: see :class:`UsesStatistics`."""

Read = Callable[[int, int], "np.ndarray"]
"""``read(start, stop)``: integers ``start`` to before ``stop`` of a tensor's bytes, seen as
unsigned ones of its type's width. The array is valid until the next call, and not to be written to.
"""


@runtime_checkable
class CheckpointFormat(Protocol):
    """One file format that holds tensors.

    ``name`` is stored in manifests; ``suffixes`` are lower-case with the dot.
    """

    name: str
    suffixes: tuple[str, ...]

    def sniff(self, head: bytes) -> bool:
        """Whether a file that starts with ``head`` (up to 4096 bytes) is of this format.

        Cheap, never raises.
        """

    def scan(self, source: Source) -> Layout:
        """Find the tensors. :class:`~git_theta.errors.FormatError` when the file is broken; nothing
        is ever executed.
        """


@runtime_checkable
class BuildsFiles(Protocol):
    """A checkpoint format that can also write a file from tensors (needed when a merge changes
    names or shapes).
    """

    def build(self, tensors: Mapping[str, Tensor], like: Source | None) -> Buffer:
        """A file of this format with exactly ``tensors``; other content is taken from ``like``.

        The same tensors give the same bytes, in their order or in the format's own.
        """


@runtime_checkable
class BuildsPieces(Protocol):
    """A checkpoint format that can give a new file in pieces, so that it is never put together."""

    def pieces(self, tensors: Mapping[str, Tensor], like: Source | None) -> Sequence[Buffer]:
        """As :meth:`BuildsFiles.build`, in pieces that make the file one after the other."""


@runtime_checkable
class WritesFiles(Protocol):
    """A checkpoint format whose own library can write a new file."""

    def write(self, tensors: Mapping[str, Tensor], like: Source | None, path: Path) -> bool:
        """Write the file that :meth:`BuildsFiles.build` would give to ``path``, which may exist;
        False, with nothing written, if the library cannot.

        :class:`~git_theta.errors.StoreError` if the disk refuses.
        """


@runtime_checkable
class SavesObjects(Protocol):
    """A checkpoint format whose framework writes its own objects, more than named tensors.

    ``git_theta.save`` asks it before :class:`BuildsFiles`. Such a file takes nothing from an
    earlier version.
    """

    def saves(self, state_dict: Mapping[str, object]) -> bool:
        """Whether ``state_dict`` holds objects that only the framework can write.

        Called for every state dict of this format's suffixes; imports no framework.
        """

    def save(self, state_dict: Mapping[str, object]) -> Sequence[Buffer]:
        """The file that the framework writes, in pieces that make it one after the other."""


class CutsMembers(Protocol):
    """What a container is given to cut its members with: it knows all formats, and the depth."""

    def cut(
        self, source: Source, offset: int, length: int, name: str
    ) -> tuple[list[Extent], list[Checksum]]:
        """The extents and checksums of the member called ``name``: ``length`` bytes at ``offset``.

        A sound checkpoint gives its own tensors, called ``name/TENSOR``; everything else is one
        extent of plain bytes.
        """


@runtime_checkable
class ScansInside(Protocol):
    """A checkpoint format whose members can be checkpoints themselves, such as an archive."""

    def scan_inside(self, source: Source, members: CutsMembers) -> Layout:
        """As :meth:`CheckpointFormat.scan`; ``members`` cuts each member."""


@runtime_checkable
class FoundInside(Protocol):
    """A checkpoint format that is also looked for in containers.

    A member is cut by it if the member's name ends with ``inside`` (lower-case; empty: any name),
    ``sniff`` recognises its content, and no built-in format does.
    """

    inside: str


@runtime_checkable
class CutsBytes(Protocol):
    """A checkpoint format that may know no tensors: with ``cuts_bytes`` its extents are mere runs
    of bytes, so that merging, converting and reading by name mean nothing.
    """

    cuts_bytes: bool


@runtime_checkable
class ReadsSibling(Protocol):
    """A checkpoint format some of whose files need a companion file in the same folder to be
    understood.

    A plugin's format must recognise the file itself, by content or suffix.
    """

    def sibling(self, name: str) -> str:
        """The companion's name for a file called ``name``; empty for a file that needs none."""

    def scan_beside(self, source: Source, name: str, sibling: Source) -> Layout:
        """As :meth:`CheckpointFormat.scan`; :class:`~git_theta.errors.FormatError` also when
        ``sibling`` is broken, or another file's.
        """


@runtime_checkable
class ReadsContents(Protocol):
    """A checkpoint format whose files can be converted into others.

    Extents do not say all: there are transposed views or chunks.
    """

    def contents(self, source: Source) -> Contents:
        """All of a file; :class:`~git_theta.errors.FormatError` when it is broken, or its tensors
        cannot be told.
        """


@dataclass(frozen=True, slots=True)
class StoredView:
    """A tensor of type and shape ``spec`` that is computed from ``length`` bytes at ``offset``.

    ``read`` gets these bytes and returns the array (a view of them, if possible);
    :class:`~git_theta.errors.FormatError` if they do not fit.
    """

    spec: Spec
    offset: int
    length: int
    read: Callable[[memoryview], np.ndarray]


@runtime_checkable
class ShowsViews(Protocol):
    """A checkpoint format with tensors whose bytes do not lie in the file one after the other:
    transposed tensors, slices.

    Loading single tensors of a stored file then needs its skeleton too.
    """

    def views(self, source: Source, known: Mapping[str, Spec]) -> Mapping[str, StoredView]:
        """The tensors by name that are to be read as views.

        ``known`` are the specs by name that the file's layout has; a name of it is read as the
        layout says unless it is returned. What the views hold together is bounded by the file's
        size.
        """


@runtime_checkable
class NotesTies(Protocol):
    """A checkpoint format that cannot hold one tensor under two names, but can note which names
    were tied (``safetensors`` in its metadata).
    """

    def noting(self, tied: Mapping[str, str], framework: str) -> Source | None:
        """A file to build from (``like`` of :meth:`BuildsFiles.build`) that notes each tied name
        with the name that is kept; None if nothing is to be noted.

        ``framework`` is :attr:`Contents.framework` of the file that is converted.
        """


@runtime_checkable
class Update(Protocol):
    """One way to store a tensor, exactly.

    ``needs_base``: it is stored as a difference from an earlier value.
    """

    name: str
    needs_base: bool

    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        """The payload, or None when this update cannot be exact or is pointless here.

        The same arguments give the same bytes, whatever the thread count. ``base`` may differ in
        shape and dtype.
        """

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        """The tensor's bytes.

        :class:`~git_theta.errors.PayloadError` for a payload that does not fit ``spec``.

        Sizes the payload declares are checked against ``spec`` before anything is allocated.
        """


@runtime_checkable
class ExactUpdate(Protocol):
    """An update that says whether decoding gives the tensor back by construction.

    If ``exact_by_construction`` is true (differences of integers), a new payload is not decoded
    once more before it is accepted. An update without this attribute is always checked.
    """

    exact_by_construction: bool


@runtime_checkable
class ReadsSlices(Protocol):
    """An update that can decode some of a tensor's elements without the others."""

    def reader(
        self, payload: memoryview, spec: Spec, base: Spec | None, read: Read | None
    ) -> Read | None:
        """How to read stretches of the tensor, given how to ``read`` those of the ``base``; None
        where this payload has to be decoded whole.

        It and what it returns raise :class:`~git_theta.errors.PayloadError` as
        :meth:`Update.decode` does.
        """


@runtime_checkable
class MeantFor(Protocol):
    """An update that says for which kind of change it is meant, so that it is not encoded for
    others. Samples show the kind; an update without ``meant_for`` is always encoded.

    ``text``: bytes that are not numbers. ``few``: few elements changed. ``small``: elements moved
    a little. ``rule``: nearly all elements changed, but fewer numbers than elements say how.
    """

    meant_for: Change


@runtime_checkable
class FromParts(Protocol):
    """An update that can be built from parts that a user has, such as the factors of an adapter.

    ``git theta add --update-type NAME --update-data FILE`` takes its parts from a file with one
    array for each, called ``TENSOR/PART``.
    """

    parts: tuple[str, ...]

    def from_parts(
        self, base: Tensor, parts: Mapping[str, np.ndarray]
    ) -> tuple[Tensor, Encoded | None]:
        """The new value of ``base``, of its type and shape, and its payload if this update can
        store that; ``parts`` has an array for each name in :attr:`parts`.

        The same value on every machine. :class:`~git_theta.errors.UsageError` for parts that do
        not fit ``base`` or are not finite.
        """


@dataclass(frozen=True, slots=True)
class Option:
    """A merge strategy's option: its type, default and allowed range."""

    name: str
    kind: Literal["float", "int", "bool", "str", "floats"]
    default: object
    summary: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MergeCase:
    """One tensor to merge: its ``name``, the ``base`` (None where there is none) and each side's
    value.

    All arrays have one shape and one dtype (the tensor's own). ``siblings`` holds, per statistic
    (``fisher``, ``gram``, ``velocity``), one array a side or None where that side has none.
    """

    name: str
    base: np.ndarray | None
    sides: tuple[np.ndarray, ...]
    siblings: Mapping[str, tuple[np.ndarray | None, ...]] = field(default_factory=dict)


@runtime_checkable
class MergeStrategy(Protocol):
    """One way to combine the values of a tensor that changed on several sides."""

    name: str
    summary: str
    options: tuple[Option, ...]
    needs_base: bool
    min_sides: int
    max_sides: int | None

    def merge(self, case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
        """The merged value, of the sides' shape and dtype.

        Deterministic; :class:`~git_theta.errors.MergeError` if impossible.
        """


@runtime_checkable
class UnitKind(Protocol):
    """One kind of unit: tensors whose values mean something only together, such as quantised codes
    and their scales.

    No strategy merges the parts of a unit one by one; a merge takes all of them from one side.
    """

    @property
    def name(self) -> str:
        """A word that messages show."""

    @property
    def summary(self) -> str:
        """What the unit is and what its parts are called, in one line."""

    def find(self, tensors: Mapping[str, Spec]) -> Iterable[Sequence[str]]:
        """The units of one model: the names of each one's parts, two or more, all of them keys of
        ``tensors``.

        Decided by names, element types and shapes together, without values. Called for every
        version that is merged; never raises.
        """


@runtime_checkable
class UsesStatistics(Protocol):
    """A strategy that reads companion files of the model.

    ``statistics`` maps their names to how a merge combines what several sides changed. ``sum``: the
    values are added up, as evidence of several trainings is. ``weighted``: likewise, each side's
    times its weight if a rule gives this strategy an option ``weights``. ``mean``: they are
    averaged, as moving averages are. ``model.NAME.safetensors`` holds the statistic NAME of
    ``model.safetensors``. Each side's arrays stand in :attr:`MergeCase.siblings` under that name.
    """

    statistics: Mapping[str, Combination]


@runtime_checkable
class KeepsState(Protocol):
    """A strategy that leaves a statistic behind, to be stored in its companion file and given back
    at the next merge.
    """

    def after(self, case: MergeCase, options: Mapping[str, object]) -> Mapping[str, np.ndarray]:
        """The new value of each statistic by its name in ``case.siblings``; arguments as for
        ``merge``, and called after it.
        """


@runtime_checkable
class SurveysModel(Protocol):
    """A strategy that can set options from a whole model before it merges tensors one by one
    (``ties`` with ``scope=model``).
    """

    def survey(
        self, cases: Callable[[], Iterable[MergeCase]], options: Mapping[str, object]
    ) -> dict[str, object]:
        """The options to merge with, and to record.

        ``cases`` is called several times; every call must go over the same tensors.
        """


@runtime_checkable
class WholeModel(Protocol):
    """A strategy that must see whole models before it merges tensor by tensor.

    All tensors of every side are loaded (the unchanged ones too, since reordering one side touches
    tensors on which nothing else happened), :meth:`prepare` is called once, and then each tensor
    whose prepared values differ between the sides is merged as usual, without a base. What a plan
    decided by digest does not hold for the prepared sides. Statistics reach ``merge`` as they are
    stored.
    """

    def prepare(
        self, models: Sequence[Mapping[str, np.ndarray]], options: Mapping[str, object]
    ) -> tuple[Mapping[str, np.ndarray], ...]:
        """The sides, in the same order and with the same names, shapes and types; arrays may be the
        ones passed in.
        """


@runtime_checkable
class TakesVersion(Protocol):
    """A strategy that takes tensors from one version as they are: other content, ties and units of
    that version included.

    ``takes`` is the number of the side, from 0 (ours), or -1 for the common ancestor. Such a
    strategy is not asked to merge. Without ``takes``, or if it is None, it is.
    """

    takes: int | None


@runtime_checkable
class SaysReproducible(Protocol):
    """A strategy that says whether it gives the same bytes on every machine.

    Without ``reproducible`` it is taken to. If it does not (LAPACK, BLAS), a repetition is compared
    to a tolerance.
    """

    reproducible: bool


@runtime_checkable
class SaysOrderFree(Protocol):
    """A strategy that says whether the order of the sides matters.

    Without ``order_free`` it is taken to matter.
    """

    order_free: bool


@runtime_checkable
class SaysNumbers(Protocol):
    """A strategy that says whether it computes, so that only floats and complex numbers will do;
    without ``numbers`` it is taken to.
    """

    numbers: bool


def is_reproducible(strategy: MergeStrategy) -> bool:
    """Whether ``strategy`` gives the same bytes on every machine."""
    return strategy.reproducible if isinstance(strategy, SaysReproducible) else True


def is_order_free(strategy: MergeStrategy) -> bool:
    """Whether the order of the sides does not matter to ``strategy``."""
    return strategy.order_free if isinstance(strategy, SaysOrderFree) else False


def computes(strategy: MergeStrategy) -> bool:
    """Whether ``strategy`` computes with numbers, rather than picking a side."""
    return strategy.numbers if isinstance(strategy, SaysNumbers) else True


def statistics_of(strategy: MergeStrategy) -> Mapping[str, Combination]:
    """The statistics that ``strategy`` reads from companion files, with how they combine."""
    return strategy.statistics if isinstance(strategy, UsesStatistics) else {}


def taken_version(strategy: MergeStrategy) -> int | None:
    """The number of the version that ``strategy`` takes tensors from; None if it merges them."""
    return strategy.takes if isinstance(strategy, TakesVersion) else None


def cuts_bytes(form: CheckpointFormat) -> bool:
    """Whether files of ``form`` are cut into runs of bytes, without tensors."""
    return form.cuts_bytes if isinstance(form, CutsBytes) else False


def failed(kind: str, name: str, error: Exception) -> PluginError:
    """The error to raise if what a plugin provides raises an error that its contract does not
    name; ``kind`` is a word for it, such as ``update``.
    """
    return PluginError(
        f"{kind} {name!r}, which a plugin provides, failed:"
        f" {type(error).__name__}: {display(str(error), 200)}"
    )
