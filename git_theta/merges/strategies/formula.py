"""How the built-in strategies are made: a description and one function that computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from git_theta.core.contracts import Combination, MergeCase, Option
from git_theta.core.names import display
from git_theta.errors import MergeError
from git_theta.merges.numerics.rounding import supported
from git_theta.merges.options import complete

Compute = Callable[[MergeCase, Mapping[str, object]], np.ndarray]
_ORDINAL = {0: "ours", 1: "theirs"}


@dataclass(slots=True)
class Formula:
    """A :class:`~git_theta.core.contracts.MergeStrategy` made of its parts.

    Not frozen only because the contract's attributes are plain ones. ``compute`` gets a checked
    case and complete options. ``reproducible``: the same bytes on every machine (else the method
    needs LAPACK or BLAS, and a repetition is compared to a tolerance). ``order_free``: the sides'
    order does not matter. ``numbers``: it computes, so only real and complex floating types will
    do; otherwise any array is fine. ``statistics``: the companion files that it reads, and how they
    combine. ``takes``: the version that it takes tensors from, if it does not merge them.
    """

    name: str
    summary: str
    compute: Compute
    options: tuple[Option, ...] = field(default=())
    needs_base: bool = False
    min_sides: int = 2
    max_sides: int | None = None
    reproducible: bool = True
    order_free: bool = True
    numbers: bool = True
    statistics: Mapping[str, Combination] = field(default_factory=dict)
    takes: int | None = None

    def merge(self, case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
        """The merged value; :class:`MergeError` when the case or the options do not fit this
        strategy.
        """
        settings = complete(self.name, self.options, options)
        check_case(self, case)
        if self.numbers and not computable(case.sides[0].dtype):
            kind = case.sides[0].dtype
            raise MergeError(
                f"{shown(case)} holds {kind} values, which {self.name} does not merge; choose ours,"
                " theirs or base for it"
            )
        return self.compute(case, settings)


def check_case(strategy: Formula, case: MergeCase) -> None:
    """:class:`MergeError` unless the number of sides, the base, the shapes and the dtypes are what
    ``strategy`` needs.
    """
    count = len(case.sides)
    if count < strategy.min_sides or (
        strategy.max_sides is not None and count > strategy.max_sides
    ):
        top = (
            ""
            if strategy.max_sides == strategy.min_sides
            else " or more"
            if strategy.max_sides is None
            else f" to {strategy.max_sides}"
        )
        raise MergeError(
            f"{strategy.name} merges {strategy.min_sides}{top} sides; {shown(case)} has {count}"
        )
    if strategy.needs_base and case.base is None:
        raise MergeError(
            f"{strategy.name} needs a common base, and {shown(case)} has none; choose one that does"
            " not (average, slerp, …)"
        )
    first = case.sides[0]
    others = [
        *case.sides[1:],
        *([case.base] if case.base is not None and strategy.needs_base else []),
    ]
    for other in others:
        if other.shape != first.shape or other.dtype != first.dtype:
            raise MergeError(
                f"{shown(case)} is {described(first)} on one side and {described(other)} on"
                f" another; {strategy.name} needs one type and shape (rows=common merges tables"
                " that differ in rows only)"
            )


def computable(dtype: np.dtype) -> bool:
    """Whether arrays of ``dtype`` can be averaged: floats and complex numbers; not integers, bools
    or block scales (e8m0).
    """
    return dtype.kind == "c" or supported(dtype)


def shown(case: MergeCase) -> str:
    """The case's tensor, for a message."""
    return f"tensor '{display(case.name, 80)}'"


def described(array: np.ndarray) -> str:
    """Type and shape, for a message."""
    return f"{array.dtype}{list(array.shape)}"


def side_name(side: int, count: int) -> str:
    """How messages call a side: ours and theirs where there are two, else by number (from 1)."""
    return _ORDINAL[side] if count == 2 else f"side {side + 1}"
