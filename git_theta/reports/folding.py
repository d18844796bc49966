"""Many tensors on few lines: those that differ only by the numbers in their names become one row,
and alike layers one block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from git_theta.core.manifest import Entry
from git_theta.core.names import display
from git_theta.core.readable import numbers
from git_theta.reports import health
from git_theta.reports.naming import layer_order, place
from git_theta.workflows.comparing.compare import TensorChange
from git_theta.workflows.comparing.movement import Statistics, together
from git_theta.workflows.comparing.statistics import Result, Unknown

_NUMBER = re.compile(r"(?<![A-Za-z0-9_])(\d{1,9})(?![A-Za-z0-9_])|(?<=[a-z]_)(\d{1,5})(?=[./]|\Z)")
_COUNTED = re.compile(r",?changed=\d+")
_NAME_LIMIT = 400
_ALIASES = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One line: the changes it stands for, what was measured of them together, and their names
    (escaped; within their block).

    ``former`` are the whole names they had before, where these were others.
    """

    name: str
    changes: tuple[TensorChange, ...]
    results: tuple[Result, ...]
    former: str = ""

    @property
    def change(self) -> TensorChange:
        """The first change, for what they have in common: kind, types, update."""
        return self.changes[0]

    @property
    def statistics(self) -> Statistics | None:
        """All that was measured of them."""
        known = [result for result in self.results if isinstance(result, Statistics)]
        return known[0] if len(known) == 1 else together(known)

    @property
    def findings(self) -> tuple[health.Finding, ...]:
        """What was found in them."""
        return health.together(
            health.findings(change, result)
            for change, result in zip(self.changes, self.results, strict=True)
        )

    @property
    def unknown(self) -> Unknown | None:
        """Why one of them was not measured."""
        return next((result for result in self.results if isinstance(result, Unknown)), None)


@dataclass(frozen=True, slots=True)
class Block:
    """Rows under a common heading: a module's name, or those of several alike; empty where the rows
    have their whole names.
    """

    heading: str
    rows: tuple[Row, ...]

    @property
    def lines(self) -> int:
        """How many lines it takes."""
        return len(self.rows) + bool(self.heading)


@dataclass(frozen=True, slots=True)
class Folded:
    """What is shown: blocks, and the number of tensors left out at the end."""

    blocks: tuple[Block, ...]
    left_out: int = 0

    @property
    def rows(self) -> Iterable[tuple[str, Row]]:
        """Heading and row, one by one."""
        for block in self.blocks:
            for row in block.rows:
                yield block.heading, row


def whole(heading: str, row: Row) -> str:
    """The whole name of a row under ``heading``, with the sign between them that the tensor's name
    has there.
    """
    name = row.change.name
    end = len(place(name).module)
    return f"{heading}{name[end : end + 1] or '.'}{row.name}" if heading else row.name


def flat(
    changes: Sequence[TensorChange],
    results: Sequence[Result],
    limit: int | None = None,
    ellipsis: str = "…",
) -> Folded:
    """A row a tensor under its whole name, in the order given, the first ``limit`` of them."""
    rows = [
        _row([_Tensor(change, result, "", change.name)], True, ellipsis)
        for change, result in zip(changes, results, strict=True)
    ]
    kept = rows if limit is None or len(rows) <= limit else rows[: max(1, limit)]
    return Folded((Block("", tuple(kept)),) if kept else (), len(rows) - len(kept))


def fold(
    changes: Sequence[TensorChange],
    results: Sequence[Result],
    limit: int | None = None,
    ellipsis: str = "…",
) -> Folded:
    """The changes by module, layers in order of their numbers; in at most about ``limit`` lines if
    that is given.

    Where they are too many, first layers that changed alike become one block, then tensors that
    differ only by numbers become one row, and at last only the rows that moved farthest are kept.
    Numbers of what is one row read ``{0…11}``, with ``ellipsis`` between.
    """
    order = layer_order([change.name for change in changes])
    changes, results = [changes[i] for i in order], [results[i] for i in order]
    blocks = _by_module(changes, results)
    folded = [
        Block(_shown(module), tuple(_row([tensor], True, ellipsis) for tensor in tensors))
        for module, tensors in blocks
    ]
    if limit is not None and _lines(folded) > limit:
        folded = _alike_blocks(blocks, ellipsis)
    if limit is not None and _lines(folded) > limit:
        folded = _alike_rows(changes, results, ellipsis)
    folded = _headings(folded)
    return (
        Folded(tuple(folded))
        if limit is None or _lines(folded) <= limit
        else _farthest(folded, limit)
    )


def _lines(blocks: Sequence[Block]) -> int:
    return sum(block.lines for block in blocks)


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A change with its name taken apart: module, rest, and both with numbers blotted out."""

    change: TensorChange
    result: Result
    module: str
    rest: str

    @property
    def sort(self) -> tuple[object, ...]:
        """What tensors folded into one row have in common."""
        change = self.change
        update = change.new.chain[0].update if change.new and change.new.chain else ""
        former = _blot(change.former_name) if change.former_name else ""
        measured = (
            type(self.result).__name__,
            *(finding.kind for finding in health.findings(change, self.result)),
        )
        return (
            change.kind,
            _blot(self.rest),
            change.old and change.old.spec,
            change.new and change.new.spec,
            update,
            former,
            measured,
        )


def _blot(text: str) -> str:
    return _NUMBER.sub("#", text)


def _taken_apart(changes: Sequence[TensorChange], results: Sequence[Result]) -> list[_Tensor]:
    found = []
    for change, result in zip(changes, results, strict=True):
        where = place(change.name)
        found.append(
            _Tensor(change, result, where.module, where.rest if where.module else change.name)
        )
    return found


def _by_module(
    changes: Sequence[TensorChange], results: Sequence[Result]
) -> list[tuple[str, list[_Tensor]]]:
    blocks: dict[str, list[_Tensor]] = {}
    for tensor in _taken_apart(changes, results):
        blocks.setdefault(tensor.module, []).append(tensor)
    return list(blocks.items())


def _alike_blocks(blocks: Sequence[tuple[str, list[_Tensor]]], ellipsis: str) -> list[Block]:
    """Modules whose names differ by numbers and that changed in the same way, as one block each."""
    groups: dict[tuple[object, ...], list[tuple[str, list[_Tensor]]]] = {}
    for module, tensors in blocks:
        key = (_blot(module), tuple((tensor.sort, tensor.rest) for tensor in tensors))
        groups.setdefault(key, []).append((module, tensors))
    folded = []
    for same in groups.values():
        heading = _joined([module for module, _ in same], ellipsis)
        columns = zip(*(tensors for _, tensors in same), strict=True)
        folded.append(Block(heading, tuple(_row(column, True, ellipsis) for column in columns)))
    return folded


def _alike_rows(
    changes: Sequence[TensorChange], results: Sequence[Result], ellipsis: str
) -> list[Block]:
    """All tensors whose names differ by numbers only and that changed in the same way, as one row
    each.
    """
    groups: dict[tuple[object, ...], list[_Tensor]] = {}
    for tensor in _taken_apart(changes, results):
        groups.setdefault((_blot(tensor.module), *tensor.sort), []).append(tensor)
    blocks: dict[str, list[list[_Tensor]]] = {}
    for same in groups.values():
        blocks.setdefault(_blot(same[0].module), []).append(same)
    folded = []
    for rows in blocks.values():
        modules = {
            _joined(list(dict.fromkeys(tensor.module for tensor in row)), ellipsis) for row in rows
        }
        together_ = modules.pop() if len(modules) == 1 else ""
        folded.append(Block(together_, tuple(_row(row, bool(together_), ellipsis) for row in rows)))
    return folded


def _row(tensors: Sequence[_Tensor], headed: bool, ellipsis: str) -> Row:
    """One row for tensors of one sort; ``headed``: their module stands above it."""
    names = list(dict.fromkeys(tensor.rest if headed else tensor.change.name for tensor in tensors))
    name = _joined(names, ellipsis) or display("")
    aliases = tensors[0].change.entry.aliases if len(tensors) == 1 else ()
    formers = list(
        dict.fromkeys(
            tensor.change.former_name for tensor in tensors if tensor.change.former_name is not None
        )
    )
    return Row(
        name + "".join(f" = {_shown(alias)}" for alias in aliases[:_ALIASES]),
        tuple(tensor.change for tensor in tensors),
        tuple(tensor.result for tensor in tensors),
        (_joined(formers, ellipsis) or display("")) if formers else "",
    )


def _headings(blocks: Sequence[Block]) -> list[Block]:
    """Blocks of one row are put under no heading, with their whole name; neighbours without a
    heading are one block.
    """
    found: list[Block] = []
    for given in blocks:
        block = given
        if given.heading and len(given.rows) == 1:
            row = given.rows[0]
            name = whole(given.heading, row) if row.name else given.heading
            block = Block("", (replace(row, name=name),))
        if found and not found[-1].heading and not block.heading:
            found[-1] = Block("", found[-1].rows + block.rows)
        else:
            found.append(block)
    return found


def _farthest(blocks: Sequence[Block], limit: int) -> Folded:
    """The rows that moved farthest, as many as fit, still in their order."""
    every = [(row, block.heading) for block in blocks for row in block.rows]
    chosen: set[int] = set()
    headings: set[str] = set()
    used = 1
    for number in sorted(
        range(len(every)), key=lambda number: _weight(every[number][0]), reverse=True
    ):
        heading = every[number][1]
        needed = 1 + (heading not in headings and bool(heading))
        if used + needed > limit and chosen:
            break
        used += needed
        chosen.add(number)
        headings.add(heading)
    kept, number = [], 0
    for block in blocks:
        rows = [row for offset, row in enumerate(block.rows) if number + offset in chosen]
        number += len(block.rows)
        if rows:
            kept.append(Block(block.heading, tuple(rows)))
    left_out = sum(
        len(row.changes) for number, (row, _) in enumerate(every) if number not in chosen
    )
    return Folded(tuple(kept), left_out)


def _weight(row: Row) -> tuple[int, float]:
    statistics = row.statistics
    if row.findings:
        return 3, float(sum(change.entry.nbytes for change in row.changes))
    if statistics is not None and statistics.relative is not None:
        return 1, statistics.relative
    if row.change.kind in ("added", "removed", "reshaped", "retyped"):
        return 2, float(sum(change.entry.nbytes for change in row.changes))
    return 0, float(sum(change.entry.nbytes for change in row.changes))


def _joined(names: Sequence[str], ellipsis: str) -> str:
    """Names that differ by numbers only as one: ``h.{0…11}.attn``."""
    if len(names) == 1:
        return _shown(names[0])
    values = [[match[0] for match in _NUMBER.finditer(name)] for name in names]
    pieces = _NUMBER.split(names[0])[::3]
    out = [_shown(pieces[0])]
    for column, piece in zip(zip(*values, strict=True), pieces[1:], strict=True):
        every = sorted({int(value) for value in column})
        out += [
            column[0] if len(every) == 1 else "{" + ranges(every, ellipsis) + "}",
            _shown(piece),
        ]
    return "".join(out)


def ranges(values: Sequence[int], ellipsis: str = "…") -> str:
    """Sorted numbers in short: ``0…5,7,9…11``; of many pieces the first few."""
    runs: list[list[int]] = []
    for value in values:
        if runs and runs[-1][1] == value - 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    parts = [
        str(a) if a == b else f"{a},{b}" if b == a + 1 else f"{a}{ellipsis}{b}" for a, b in runs
    ]
    return ",".join(parts if len(parts) <= 5 else [*parts[:4], ellipsis, parts[-1]])


def _shown(text: str) -> str:
    return display(text[:_NAME_LIMIT]) if text else ""


def types(change: TensorChange, arrow: str = "->") -> str:
    """Type and shape, and what they were where that is something else."""
    old, new = change.old, change.new
    if old is None or new is None or old.spec == new.spec:
        return str(change.entry.spec)
    if old.shape == new.shape:
        return f"{old.dtype} {arrow} {new.spec}"
    return (
        f"{old.spec} {arrow} {new.spec}"
        if old.dtype != new.dtype
        else f"{old.spec} {arrow} [{','.join(map(str, new.shape))}]"
    )


def updates(row: Row) -> str:
    """How the new versions are stored: the update, with what it notes beside the number of changed
    elements where all note the same.
    """
    found = {noted(change.new) for change in row.changes if change.new}
    return (
        found.pop()
        if len(found) == 1
        else ", ".join(sorted({text.partition("(")[0] for text in found}))
    )


def noted(entry: Entry) -> str:
    """How a tensor is stored, without the number of changed elements: that stands in a column of
    its own.
    """
    text = numbers.update(entry)
    return _COUNTED.sub("", text).replace("(,", "(").replace("()", "")
