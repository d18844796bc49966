"""The contract of merge strategies: results of the sides' type, the same every time, and errors
that say what is impossible.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, get_args

from git_theta.core import dtypes
from git_theta.core.contracts import (
    Combination,
    MergeCase,
    MergeStrategy,
    is_reproducible,
    statistics_of,
)
from git_theta.errors import MergeError
from git_theta.merges import options as merge_options
from git_theta.testing.plugin_names import check_name

if TYPE_CHECKING:
    import numpy as np

_DTYPES = ("f32", "f64", "f16", "bf16", "i64", "u8", "bool", "c64")
_SHAPES = ((), (0,), (1,), (7,), (3, 5), (2, 3, 4))


def check_merge_strategy(
    strategy: MergeStrategy,
    cases: Iterable[MergeCase] = (),
    options: Mapping[str, object] | None = None,
    seed: int = 0,
) -> None:
    """Prove as far as trying can that ``strategy`` keeps the
    :class:`~git_theta.core.contracts.MergeStrategy` contract.

    It merges tensors of many types and shapes, of as many sides as the strategy takes, with its
    options' defaults and ``options``; also ones that hold NaN and infinities; ``cases`` adds some
    that it is made for. Checked are: options that can be described and completed, results of the
    sides' type and shape, the same bytes again and from other places in memory, arguments left
    alone, and only :class:`~git_theta.errors.MergeError` where it cannot merge.

    :class:`AssertionError` names the first thing that is wrong; also when the strategy refused
    every single case.
    """
    check_name(strategy.name)
    assert strategy.summary, "summary must say in a line what it does"
    assert "\n" not in strategy.summary, "summary must be one line"
    assert isinstance(strategy.needs_base, bool), "needs_base must be True or False"
    assert strategy.min_sides >= 1, "min_sides must be at least 1"
    assert strategy.max_sides is None or strategy.max_sides >= strategy.min_sides, (
        "max_sides is below min_sides"
    )
    assert merge_options.lines(strategy) is not None
    for name, how in statistics_of(strategy).items():
        check_name(name)
        assert how in get_args(Combination), f"{name} must combine by sum, weighted or mean"
    try:
        complete = merge_options.complete(strategy.name, strategy.options, options or {})
    except MergeError as error:
        raise AssertionError(
            f"its options cannot be completed: {error}; give options=… for those without a default"
        ) from error
    own = {key: value for key, value in complete.items() if key != "rows"}
    done = sum([_check(strategy, case, own) for case in (*cases, *_cases(strategy, seed))])
    assert done, f"{strategy.name} refused every case; give it some that it is made for (cases=…)"


def _check(strategy: MergeStrategy, case: MergeCase, options: Mapping[str, object]) -> bool:
    """Whether the case could be merged."""
    import numpy as np

    first = case.sides[0]
    at = (
        f"{strategy.name}, {case.name}, {len(case.sides)} sides of {first.dtype}{list(first.shape)}"
    )
    before = [array.tobytes() for array in (case.base, *case.sides) if array is not None]
    results: list[np.ndarray | None] = []
    for one in (case, _moved(case)):
        try:
            with np.errstate(all="ignore"):
                results.append(strategy.merge(one, dict(options)))
        except MergeError:
            results.append(None)
        except Exception as error:
            raise AssertionError(
                f"{at}: raised {type(error).__name__} instead of MergeError: {error}"
            ) from error
    result, again = results
    assert (result is None) == (again is None), f"{at}: refused only once"
    after = [array.tobytes() for array in (case.base, *case.sides) if array is not None]
    assert after == before, f"{at}: the arguments were changed"
    if result is None or again is None:
        return False
    assert isinstance(result, np.ndarray), f"{at}: returned {type(result).__name__}, not an array"
    assert result.shape == first.shape, f"{at}: returned shape {result.shape}"
    assert result.dtype == first.dtype, f"{at}: returned {result.dtype}"
    assert result.tobytes() == again.tobytes() or not is_reproducible(strategy), (
        f"{at}: other values the second time"
    )
    return True


def _moved(case: MergeCase) -> MergeCase:
    """The same case elsewhere in memory, and read-only."""

    def moved(array: np.ndarray) -> np.ndarray:
        other = array.copy()
        other.flags.writeable = False
        return other

    siblings = {
        name: tuple(None if array is None else moved(array) for array in arrays)
        for name, arrays in case.siblings.items()
    }
    return MergeCase(
        case.name,
        None if case.base is None else moved(case.base),
        tuple(map(moved, case.sides)),
        siblings,
    )


def _cases(strategy: MergeStrategy, seed: int) -> Iterator[MergeCase]:
    import numpy as np

    random = np.random.default_rng(seed)
    counts = {strategy.min_sides, strategy.max_sides or strategy.min_sides + 2}
    for name in _DTYPES:
        dtype = dtypes.numpy_dtype(name)
        for shape in _SHAPES:
            for count in sorted(counts):
                base, *sides = (
                    np.asarray(random.standard_normal(shape) * 4).astype(np.float32).astype(dtype)
                    for _ in range(count + 1)
                )
                yield MergeCase("weight", base, tuple(sides))
                if not strategy.needs_base:
                    yield MergeCase("without base", None, tuple(sides))
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38], np.float32)
    yield MergeCase(
        "special values",
        np.zeros(7, np.float32),
        tuple(np.roll(odd, number) for number in range(max(counts))),
    )
    yield MergeCase("equal sides", np.ones(7, np.float32), (odd,) * strategy.min_sides)
