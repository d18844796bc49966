"""How far each changed tensor moved: their values are read, two at a time and only where they
differ, and measured.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from git_theta.core import dtypes
from git_theta.core.manifest import Entry
from git_theta.core.resources.memory import Scratch, Take
from git_theta.core.tensors import Tensor
from git_theta.errors import ObjectMissing, ThetaError
from git_theta.workflows.comparing.compare import TensorChange
from git_theta.workflows.comparing.movement import Statistics

# Bytes of tensors that are held at a time (more only for a single pair that is larger)
_IN_FLIGHT = 256 << 20


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why a tensor could not be measured, in a few words for the reader; ``missing``: its objects
    are not here.

    ``read``: it was read, but has nothing in common with the old one to compare; ``new_nan`` and
    ``new_inf`` of its elements are NaN or infinite.
    """

    reason: str
    missing: bool = False
    read: bool = False
    new_nan: int = 0
    new_inf: int = 0


@dataclass(frozen=True, slots=True)
class Searched:
    """What was found in a tensor that was added: so many elements are NaN or infinite."""

    new_nan: int
    new_inf: int


Result = Statistics | Unknown | Searched | None


class PairReader(Protocol):
    """Reads both values of a tensor. Used by several threads."""

    def pair(self, old: Entry, new: Entry, take: Take | None = None) -> tuple[Tensor, Tensor]:
        """The old and the new value, which may lie in memory that ``take`` gives; an error of ours
        where one cannot be had.
        """

    def single(self, new: Entry) -> Tensor:
        """The new value of a tensor that was added; an error of ours if it cannot be read."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for: histograms too, ranks, and at most ``limit`` bytes of tensors read (None:
    all).

    With ``added``, tensors that were added are read too, and searched for NaN and infinity.
    """

    histogram: bool = False
    rank: bool = True
    limit: int | None = None
    added: bool = False


def measure_all(
    changes: Sequence[TensorChange],
    reader: PairReader,
    pool: Executor,
    options: Options | None = None,
    advance: Callable[[int], None] | None = None,
) -> Iterator[Result]:
    """For each change in turn its statistics, why there are none, or None if nothing is to be read
    (removed, renamed, added).

    Tensors are read and measured by the pool, so many at a time as fit in memory; ``advance`` is
    told the bytes that were read.
    """
    options = options or Options()
    waiting: deque[tuple[Future[Result] | Result, int]] = deque()
    held = spent = 0
    lock, scratch = threading.Lock(), Scratch()

    def count(size: int, _: object) -> None:
        with lock:
            advance(size)  # type: ignore[misc]  # it is there

    try:
        for change in changes:
            size = read_size(change, options.added)
            if not size:
                waiting.append((_nothing_to_read(change), 0))
                continue
            if options.limit is not None and spent + size > options.limit:
                waiting.append((Unknown("not read"), 0))
                continue
            spent += size
            while held and held + size > _IN_FLIGHT:
                result, held = _next(waiting, held)
                yield result
            future = pool.submit(_measure, change, reader, options, scratch)
            if advance is not None:
                future.add_done_callback(partial(count, size))
            waiting.append((future, size))
            held += size
        while waiting:
            result, held = _next(waiting, held)
            yield result
    finally:
        for item, _ in waiting:
            if isinstance(item, Future):
                item.cancel()


def _next(waiting: deque[tuple[Future[Result] | Result, int]], held: int) -> tuple[Result, int]:
    item, size = waiting.popleft()
    return item.result() if isinstance(item, Future) else item, held - size


def read_size(change: TensorChange, added: bool = False) -> int:
    """Bytes of tensors that measuring ``change`` reads; with ``added`` also for a tensor that was
    added, if it can hold NaN.
    """
    if change.kind == "added" and change.new is not None:
        return change.new.nbytes if added and dtypes.get(change.new.dtype).kind in "fc" else 0
    if not change.has_values or change.old is None or change.new is None:
        return 0
    if change.old.digest == change.new.digest and change.old.dtype == change.new.dtype:
        return 0
    return change.old.nbytes + change.new.nbytes


def _nothing_to_read(change: TensorChange) -> Result:
    if change.kind == "reshaped":
        # The same bytes in another shape
        return Statistics(change.elements, 0, distance=0.0, comparable=True)
    return None


def _measure(
    change: TensorChange, reader: PairReader, options: Options, scratch: Scratch
) -> Result:
    from git_theta.workflows.comparing.measure import measure, special

    assert change.new is not None
    nan = inf = 0
    try:
        if change.old is None:
            return Searched(*special(reader.single(change.new)))
        with scratch.lease() as take:
            old, new = reader.pair(change.old, change.new, take)
            found = measure(old, new, options.histogram, options.rank)
            if found is None:
                nan, inf = special(new)
    except ObjectMissing as error:
        return Unknown(str(error), missing=True)
    except (ThetaError, OSError) as error:
        return Unknown(str(error))
    return found or Unknown(
        f"{change.old.spec} and {change.new.spec} cannot be compared",
        read=True,
        new_nan=nan,
        new_inf=inf,
    )
