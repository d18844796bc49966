"""Strategies that use statistics tracked beside the model: fisher, regmean, diloco.

A statistic is a sibling file with the model's tensor names; a case carries each side's value in
``siblings``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from git_theta.core.contracts import MergeCase, Option
from git_theta.errors import MergeError
from git_theta.merges.numerics.blocks import canonical, elementwise, flat
from git_theta.merges.numerics.rounding import supported
from git_theta.merges.options import complete, number, per_side
from git_theta.merges.strategies.averages import WEIGHTS, mean
from git_theta.merges.strategies.formula import Formula, check_case, described, shown, side_name
from git_theta.merges.strategies.task_vectors import in_order, moved


def _statistics(case: MergeCase, name: str, strategy: str) -> list[np.ndarray]:
    """One array a side; :class:`MergeError` naming the sides without one."""
    found = case.siblings.get(name, ())
    missing = [
        side_name(i, len(case.sides))
        for i in range(len(case.sides))
        if i >= len(found) or found[i] is None
    ]
    if missing:
        lacking = f"{', '.join(missing)} {'has' if len(missing) == 1 else 'have'} none"
        raise MergeError(
            f"{strategy} needs '{name}' statistics of {shown(case)}, and {lacking}; track the"
            " sibling file that holds them"
        )
    return [value for value in found[: len(case.sides)] if value is not None]


def _check_statistic(case: MergeCase, name: str, value: np.ndarray, shape: Sequence[int]) -> None:
    if value.shape != tuple(shape) or not supported(value.dtype):
        raise MergeError(
            f"the '{name}' statistics of {shown(case)} are {described(value)}; floats of shape"
            f" {list(shape)} are needed"
        )


def _fisher(case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
    """The mean sum w F W / sum w F, F at least ``floor``: Fisher merging, Matena and Raffel, arXiv
    2111.09832.

    ``siblings["fisher"]``: per side the diagonal of the Fisher information, E[g^2], of the tensor's
    shape.
    """
    if case.sides[0].dtype.kind == "c":
        raise MergeError(
            f"fisher does not merge complex values, which {shown(case)} holds; choose average"
            " for it"
        )
    fishers = _statistics(case, "fisher", "fisher")
    for value in fishers:
        _check_statistic(case, "fisher", value, case.sides[0].shape)
    weights = per_side(options, "weights", len(case.sides)) or (1.0,) * len(case.sides)
    if min(weights) < 0 or not any(weights):
        raise MergeError("fisher needs weights of 0 or more, not all 0")
    floor, order = number(options, "floor"), _order_with(case.sides, fishers, weights)
    count = len(order)

    def kernel(_: int, parts: list[np.ndarray]) -> np.ndarray:
        sides, trusts = parts[:count], parts[count:]
        for side, trust, index in zip(sides, trusts, order, strict=True):
            np.maximum(trust, floor, out=trust)
            np.multiply(trust, weights[index], out=trust)
            np.multiply(side, trust, out=side)
        result = in_order(sides)
        result /= in_order(trusts)
        return result

    return elementwise(
        case.sides[0], [*(case.sides[i] for i in order), *(fishers[i] for i in order)], kernel
    )


def _order_with(
    sides: Sequence[np.ndarray], statistics: Sequence[np.ndarray], weights: Sequence[float]
) -> list[int]:
    """As :func:`canonical`; sides of equal content go by their statistics."""
    first = canonical(statistics, weights)
    second = canonical([sides[i] for i in first])  # a stable sort
    return [first[i] for i in second]


def _regmean(case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
    """(sum G~)^-1 sum G~ W, G~ = G with its off-diagonal elements times ``alpha``: RegMean, arXiv
    2212.09849.

    ``siblings["gram"]``: per side G = X'X of the layer's inputs, (inputs, inputs). W maps inputs to
    outputs as (outputs, inputs), as torch's linear layers do, or (inputs, outputs) by ``layout``. A
    tensor without statistics on any side (a bias, a norm, an embedding) is averaged, as in the
    paper. Solved as a correction of that average, so inputs that never were active keep it. Holds
    the matrices in float64; LAPACK's last bits vary between machines.
    """
    if not any(value is not None for value in case.siblings.get("gram", ())):
        return mean(case.sides[0], case.sides, None)
    first = case.sides[0]
    if first.ndim != 2 or first.dtype.kind == "c":
        raise MergeError(
            f"regmean solves for real matrices, and {shown(case)} is {described(first)}; remove its"
            " 'gram' statistics"
        )
    grams = _statistics(case, "gram", "regmean")
    turned = options["layout"] == "out_in"
    inputs = first.shape[1] if turned else first.shape[0]
    for value in grams:
        _check_statistic(case, "gram", value, (inputs, inputs))
    order = canonical(case.sides)
    matrices = [case.sides[i].astype(np.float64) for i in order]
    scaled = [_shrunk(grams[i].astype(np.float64), number(options, "alpha")) for i in order]
    with np.errstate(all="ignore"):
        average = in_order(matrices) / len(order)
        left = in_order(scaled)
        corrections = [
            g @ ((m - average).T if turned else m - average)
            for g, m in zip(scaled, matrices, strict=True)
        ]
        right = in_order(corrections)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise MergeError(
            f"{shown(case)} or its 'gram' statistics hold NaN or infinite values; resolve it by"
            " ours, theirs or average"
        )
    correction = _solve(left, right)
    solved = average + (correction.T if turned else correction)
    return elementwise(first, [np.ascontiguousarray(solved)], lambda _, parts: parts[0])


def _shrunk(gram: np.ndarray, alpha: float) -> np.ndarray:
    diagonal = np.diagonal(gram).copy()
    gram *= alpha
    np.fill_diagonal(gram, diagonal)
    return gram


def _solve(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The solution of left x = right, of least norm where there are several; 0 for inputs that were
    never active.
    """
    active = np.diagonal(left) > 0
    result = np.zeros_like(right)
    if not active.any():
        return result
    a, b = left[np.ix_(active, active)], right[active]
    try:
        x = np.linalg.solve(a, b)
        if not np.isfinite(x).all() or np.abs(a @ x - b).max(initial=0.0) > 1e-8 * np.abs(b).max(
            initial=0.0
        ):
            x = np.linalg.lstsq(a, b, rcond=None)[0]
    except np.linalg.LinAlgError:
        x = np.linalg.lstsq(a, b, rcond=None)[0]
    result[active] = x
    return result


class DiLoCo(Formula):
    """The outer step of DiLoCo, arXiv 2311.08105: D = mean(W0 - W), v = momentum v + D, W0 - lr (D
    + momentum v).

    ``siblings["velocity"]``: v as the last merge left it (zero where no side has one), of the
    tensor's shape; sides that have one must agree, since training does not change it. :meth:`after`
    returns the new v, in the type of the old one, else float32 (float64 for float64 tensors, which
    need it).
    """

    __slots__ = ()

    def after(self, case: MergeCase, options: Mapping[str, object]) -> Mapping[str, np.ndarray]:
        """``{"velocity": v}``; :class:`MergeError` as for ``merge``."""
        settings = complete(self.name, self.options, options)
        check_case(self, case)
        assert case.base is not None
        velocity = _velocity(case)
        fresh = np.dtype(np.float64 if case.base.dtype.itemsize == 8 else np.float32)
        like = np.empty(case.base.shape, fresh if velocity is None else velocity.dtype)
        momentum = number(settings, "momentum")
        return {
            "velocity": elementwise(
                like,
                _outer_inputs(case, velocity),
                lambda _, parts: _outer(parts, len(case.sides), momentum)[1],
            )
        }


def _diloco(case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
    assert case.base is not None
    velocity = _velocity(case)
    lr, momentum = number(options, "lr"), number(options, "momentum")

    def kernel(_: int, parts: list[np.ndarray]) -> np.ndarray:
        gradient, speed = _outer(parts, len(case.sides), momentum)
        speed *= momentum
        speed += gradient
        speed *= -lr
        return moved(parts[0], speed)

    return elementwise(case.base, _outer_inputs(case, velocity), kernel)


def _outer_inputs(case: MergeCase, velocity: np.ndarray | None) -> list[np.ndarray]:
    assert case.base is not None
    return [
        case.base,
        *(case.sides[i] for i in canonical(case.sides)),
        *([] if velocity is None else [velocity]),
    ]


def _outer(parts: list[np.ndarray], count: int, momentum: float) -> tuple[np.ndarray, np.ndarray]:
    """D and the new v of one block; ``parts``: base, sides, maybe the old v.

    The base is left as it is.
    """
    gradient = in_order([parts[0] - side for side in parts[1 : count + 1]])
    gradient /= count
    if len(parts) == count + 1:
        return gradient, gradient.copy()
    speed = parts[count + 1]
    speed *= momentum
    speed += gradient
    return gradient, speed


def _velocity(case: MergeCase) -> np.ndarray | None:
    assert case.base is not None
    if case.base.dtype.kind == "c":
        raise MergeError(
            f"diloco does not merge complex values, which {shown(case)} holds; choose average"
            " for it"
        )
    known = [value for value in case.siblings.get("velocity", ()) if value is not None]
    for value in known:
        _check_statistic(case, "velocity", value, case.base.shape)
        if value.dtype != known[0].dtype or not np.array_equal(
            flat(value).view(np.uint8), flat(known[0]).view(np.uint8)
        ):
            raise MergeError(
                f"the sides hold different 'velocity' statistics of {shown(case)}; training must"
                " leave them as they were"
            )
    return known[0] if known else None


STRATEGIES = (
    Formula(
        "fisher",
        "mean weighted by each side's Fisher information, element by element",
        _fisher,
        (
            Option(
                "floor",
                "float",
                1e-8,
                "smallest Fisher information that counts",
                minimum=1e-300,
                maximum=1e300,
            ),
            WEIGHTS,
        ),
        statistics={"fisher": "weighted"},
    ),
    Formula(
        "regmean",
        "linear layers that answer most like each side's on its own inputs",
        _regmean,
        (
            Option(
                "alpha", "float", 0.9, "factor of the off-diagonal elements", minimum=0, maximum=1
            ),
            Option("layout", "str", "out_in", "the matrices' axes", choices=("out_in", "in_out")),
        ),
        reproducible=False,
        statistics={"gram": "sum"},
    ),
    DiLoCo(
        "diloco",
        "one Nesterov step along the mean of what the sides changed",
        _diloco,
        (
            Option("lr", "float", 0.7, "outer learning rate", minimum=0, maximum=100),
            Option("momentum", "float", 0.9, "outer momentum", minimum=0, maximum=1),
        ),
        needs_base=True,
        min_sides=1,
        # A moving average of gradients: the mean of several is one again, their sum is not
        statistics={"velocity": "mean"},
    ),
)
