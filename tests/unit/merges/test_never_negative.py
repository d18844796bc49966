"""Variances and means of squares are never negative after a merge by any strategy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from git_theta.core.contracts import MergeCase, Option
from git_theta.errors import MergeError
from git_theta.merges.compute import compute
from git_theta.merges.options import REQUIRED, complete
from git_theta.merges.training_state import never_negative
from git_theta.plugins import registry

STRATEGIES = [s for s in registry.merge_strategies() if s.name != "permute"]


@pytest.mark.parametrize(
    "name",
    [
        "bn1.running_var",
        "layer/batch_normalization/moving_variance",
        "batch_stats/BatchNorm_0/var",
        "optimizer.state.0.exp_avg_sq",
        "optimizer.state.0.max_exp_avg_sq",
        "optimizer.state.0.square_avg",
        "optimizer.state.0.sum",
        "opt_state/0/nu/Dense_0/kernel",
        "kernel/.OPTIMIZER_SLOT/optimizer/v/.ATTRIBUTES/VARIABLE_VALUE",
        "fisher",
    ],
)
def test_names_of_what_cannot_be_negative(name: str) -> None:
    assert never_negative(name)


@pytest.mark.parametrize(
    "name",
    [
        "bn1.running_mean",
        "optimizer.state.0.exp_avg",
        "opt_state/0/mu/kernel",
        "attn.v",
        "v",
        "sum",
        "var",
        "w",
    ],
)
def test_names_of_what_may_be_negative(name: str) -> None:
    assert not never_negative(name)


def case(name: str, dtype: str = "float32", count: int = 2) -> MergeCase:
    """Every side lowered what the base has, in other places by other amounts: the changes add up to
    less than nothing.
    """
    random = np.random.default_rng(count)
    base = random.random((16, 16)) + 0.1
    sides = tuple((base * random.random((16, 16)) * 0.1).astype(dtype) for _ in range(count))
    return MergeCase(name, base.astype(dtype), sides)


def options(strategy: str, given: Mapping[str, object]) -> dict[str, object]:
    found = registry.merge_strategy(strategy)
    needed = {option.name: 0.001 for option in found.options if option.default is REQUIRED}
    return complete(strategy, found.options, {**needed, **given})


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("name", [s.name for s in STRATEGIES])
def test_no_strategy_makes_a_variance_negative(name: str, dtype: str) -> None:
    strategy = registry.merge_strategy(name)
    for count in {max(2, strategy.min_sides), strategy.max_sides or 3}:
        for extreme in (
            {},
            {"lambda": 10.0},
            {"weights": (-3.0,) * (count - 1) + (1.0,)},
            {"lr": 5.0},
        ):
            known = {option.name for option in strategy.options}
            if set(extreme) <= known:
                try:
                    outcome = compute(
                        strategy, case("bn.running_var", dtype, count), options(name, extreme)
                    )
                except MergeError:
                    continue
                assert (outcome.array >= 0).all(), (name, extreme)


def test_task_vectors_average_it_and_say_so() -> None:
    strategy = registry.merge_strategy("task_arithmetic")
    given = options("task_arithmetic", {})
    variance = case("bn.running_var")
    outcome = compute(strategy, variance, given)
    wanted = ((variance.sides[0].astype(np.float64) + variance.sides[1]) / 2).astype(np.float32)
    assert outcome.averaged
    assert np.array_equal(outcome.array, wanted)
    weight = compute(strategy, case("bn.weight"), given)
    assert not weight.averaged
    assert (weight.array < 0).any()


def test_what_was_negative_before_is_left_to_the_strategy() -> None:
    strategy = registry.merge_strategy("task_arithmetic")
    odd = MergeCase("x.running_var", np.full(4, -1.0), (np.full(4, -2.0), np.full(4, -3.0)))
    outcome = compute(strategy, odd, options("task_arithmetic", {}))
    assert not outcome.averaged
    assert np.array_equal(outcome.array, np.full(4, -4.0))


def test_a_plugins_strategy_cannot_make_it_negative_either() -> None:
    class Negate:
        name, summary, needs_base, min_sides = "negate", "the first side's negative", False, 1
        max_sides: int | None = None
        options: tuple[Option, ...] = ()

        def merge(self, case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
            return -case.sides[0]

    variance = case("exp_avg_sq")
    outcome = compute(Negate(), variance, {})
    assert outcome.averaged
    assert (outcome.array > 0).all()
    assert not compute(Negate(), case("exp_avg"), {}).averaged


def test_rows_in_common_are_averaged_too() -> None:
    variance = case("opt_state/nu/embed")
    longer = np.concatenate([variance.sides[1], np.ones((3, 16), np.float32)])
    given = {**options("task_arithmetic", {}), "rows": "common"}
    outcome = compute(
        registry.merge_strategy("task_arithmetic"),
        MergeCase(variance.name, variance.base, (variance.sides[0], longer)),
        given,
    )
    assert outcome.averaged
    assert outcome.array.shape == (19, 16)
    assert (outcome.array >= 0).all()
