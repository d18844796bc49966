"""Every strategy against its reference: equal after rounding to the type, on all types, shapes and
numbers of sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from merge_references import BF16, F16, F32, F64, FP8, REFERENCES, rounded

from git_theta.core.contracts import KeepsState, MergeCase, MergeStrategy
from git_theta.merges.builtin_strategies import strategies
from git_theta.merges.compute import compute
from git_theta.merges.options import parse

STRATEGIES = {strategy.name: strategy for strategy in strategies()}
FORMULAS = [name for name in STRATEGIES if name not in ("permute", "regmean")]
# More than one block (2^15 elements), rows that do not divide a block, vectors, one element, none.
SHAPES: list[tuple[int, ...]] = [(), (1,), (0, 3), (7,), (5, 4), (2, 3, 4), (3, 1)]
LARGE = (130, 257)
NEEDED = {"nearswap": {"t": 1e-2}}
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")


def values(
    shape: tuple[int, ...], dtype: np.dtype, count: int, seed: int = 0
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """A base and ``count`` sides that moved from it, some elements not at all."""
    random = np.random.default_rng([seed, count, *shape])
    base = random.standard_normal(shape)
    sides = [
        base + random.standard_normal(shape) * 0.3 * (random.random(shape) < 0.8)
        for _ in range(count)
    ]
    return rounded(np.asarray(base), dtype), tuple(
        rounded(np.asarray(side), dtype) for side in sides
    )


def statistics(name: str, base: np.ndarray, count: int) -> dict[str, tuple[np.ndarray, ...]]:
    random = np.random.default_rng(5)
    if name == "fisher":
        return {
            "fisher": tuple(
                np.asarray(random.random(base.shape) ** 4, np.float32) for _ in range(count)
            )
        }
    if name == "diloco":
        velocity = np.asarray(random.standard_normal(base.shape), np.float32)
        return {"velocity": (velocity,) * count}
    return {}


def check(
    name: str,
    base: np.ndarray,
    sides: tuple[np.ndarray, ...],
    options: dict[str, Any],
    tensor: str = "layer.weight",
) -> np.ndarray:
    """Merge, and compare with the reference."""
    strategy, dtype = STRATEGIES[name], base.dtype
    siblings = statistics(name, base, len(sides))
    given = NEEDED.get(name, {}) | options
    case = MergeCase(tensor, base, sides, siblings)
    result = strategy.merge(
        case,
        {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()},
    )
    assert result.dtype == dtype
    assert result.shape == base.shape
    extra: dict[str, Any] = {"name": tensor, "raw": sides}
    extra |= {
        key: [np.asarray(v, np.float64) for v in row]
        for key, row in siblings.items()
        if key == "fisher"
    }
    if "velocity" in siblings:
        extra["velocity"] = siblings["velocity"][0].astype(np.float64)
    with np.errstate(all="ignore"):
        wide = REFERENCES[name](
            base.astype(np.float64), [side.astype(np.float64) for side in sides], given | extra
        )
    expected = rounded(np.asarray(wide), dtype)
    if dtype == F64:  # nothing to round away: the association of the sums shows in the last bits
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-14)
    else:
        np.testing.assert_array_equal(result.astype(np.float64), expected.astype(np.float64))
    return result


def counts(name: str) -> list[int]:
    strategy = STRATEGIES[name]
    return [n for n in (2, 3, 4, 5) if strategy.max_sides is None or n <= strategy.max_sides]


@pytest.mark.parametrize("dtype", [F32, BF16, F16, F64], ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_formula_on_small_shapes(name: str, dtype: np.dtype) -> None:
    for shape in SHAPES:
        for count in counts(name):
            check(name, *values(shape, dtype, count), {})


@pytest.mark.parametrize("name", [name for name in FORMULAS if name not in RANDOM])
def test_formula_over_several_blocks(name: str) -> None:
    for dtype in (F32, BF16):
        check(name, *values(LARGE, dtype, counts(name)[-1]), {})


@pytest.mark.parametrize("name", RANDOM)
def test_random_masks_over_several_blocks(name: str) -> None:
    check(name, *values((33, 1001), BF16, 2), {"seed": 9})


@pytest.mark.parametrize("dtype", FP8, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_formula_on_eight_bits(name: str, dtype: np.dtype) -> None:
    base, sides = values((16, 16), dtype, 2)
    check(name, base, sides, {})


@pytest.mark.parametrize("dtype", [F32, BF16, F16, F64], ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_all_zeros(name: str, dtype: np.dtype) -> None:
    zeros = np.zeros((4, 5), dtype)
    base, sides = values((4, 5), dtype, 2)
    cases: list[tuple[np.ndarray, tuple[np.ndarray, ...]]] = [
        (zeros, (zeros, zeros)),
        (zeros, sides),
        (base, (zeros, sides[1])),
        (base, (zeros, zeros)),
        (base, (base, sides[0])),
    ]
    for case in cases:
        if (
            name in ("model_stock", "karcher", "multislerp")
            and case[1][0] is zeros
            and case[1][1] is zeros
            and case[0] is base
        ):
            continue  # below: these have an answer of their own
        check(name, *case, {})


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("average", {"weights": [0.3, 0.7, 2.0]}),
    ("average", {"weights": [0.3, 0.7, 2.0], "normalize": False}),
    ("average", {"weights": [1.5, -0.5, 0.25]}),
    ("nearswap", {"t": 0.2}),
    ("slerp", {"t": 0.25}),
    ("slerp", {"t": 0.0}),
    ("slerp", {"t": 1.0}),
    ("karcher", {"weights": [0.3, 0.7, 2.0]}),
    ("karcher", {"max_iter": 1}),
    ("task_arithmetic", {"lambda": 0.4, "weights": [1.0, -1.0, 0.5]}),
    ("ties", {"density": 0.5, "lambda": 0.7, "weights": [0.3, 0.7, 2.0]}),
    ("ties", {"density": 1.0}),
    ("ties", {"weights": [1.0, -1.0, 0.5]}),
    ("dare_linear", {"density": 0.9, "seed": 2**62, "lambda": 0.3}),
    ("dare_linear", {"density": 1.0}),
    ("dare_ties", {"density": 0.3, "seed": 1, "weights": [0.3, 0.7, 2.0]}),
    ("breadcrumbs", {"density": 0.6, "gamma": 0.2}),
    ("breadcrumbs", {"density": 0.95, "gamma": 0.3}),
    ("breadcrumbs_ties", {"density": 0.5, "gamma": 0.1, "lambda": 2.0}),
    ("della", {"density": 0.6, "epsilon": 0.3, "seed": 4}),
    ("della_linear", {"density": 0.5, "epsilon": 0.0}),
    ("sce", {"select_topk": 0.3}),
    ("ram", {"epsilon": 0.2}),
    ("ramplus_tl", {"epsilon": 0.3, "r": 0.5, "alpha": 2.0}),
    ("fisher", {"floor": 0.1, "weights": [0.3, 0.7, 2.0]}),
    ("diloco", {"lr": 1.0, "momentum": 0.0}),
    ("diloco", {"lr": 0.3, "momentum": 0.5}),
]


@pytest.mark.parametrize("dtype", [F32, BF16, F16, F64], ids=str)
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_options_change_the_formula(name: str, options: dict[str, Any], dtype: np.dtype) -> None:
    count = 2 if STRATEGIES[name].max_sides == 2 else 3
    check(name, *values((9, 31), dtype, count), options)


def test_complex_values_count_as_pairs() -> None:
    random = np.random.default_rng(0)
    base, ours, theirs = (
        np.asarray(
            random.standard_normal((4, 3)) + 1j * random.standard_normal((4, 3)), np.complex64
        )
        for _ in range(3)
    )
    merged = STRATEGIES["average"].merge(MergeCase("c", base, (ours, theirs)), {})
    np.testing.assert_array_equal(
        merged, ((ours.astype(np.complex128) + theirs) / 2).astype(np.complex64)
    )
    for name in ("ties", "slerp", "sce", "ram"):
        pair = STRATEGIES[name].merge(
            MergeCase(
                "c", *(base.view(np.float32), (ours.view(np.float32), theirs.view(np.float32)))
            ),
            {},
        )
        np.testing.assert_array_equal(
            STRATEGIES[name].merge(MergeCase("c", base, (ours, theirs)), {}).view(np.float32), pair
        )


@pytest.mark.parametrize("dtype", [F32, BF16, F16, F64], ids=str)
@pytest.mark.parametrize("layout", ["out_in", "in_out"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_regmean(dtype: np.dtype, layout: str, count: int) -> None:
    base, sides = values((6, 9), dtype, count)
    random = np.random.default_rng(1)
    inputs = 9 if layout == "out_in" else 6
    grams = tuple(
        (x.T @ x).astype(np.float32)
        for x in (random.standard_normal((40, inputs)) for _ in range(count))
    )
    case = MergeCase("w", None, sides, {"gram": grams})
    result = STRATEGIES["regmean"].merge(case, {"layout": layout, "alpha": 0.8})
    options = {"layout": layout, "alpha": 0.8, "gram": [g.astype(np.float64) for g in grams]}
    wide = REFERENCES["regmean"](base, [side.astype(np.float64) for side in sides], options)
    # Solved another way than by the inverse: to a tolerance below the type's own.
    exact = np.float64(np.finfo(np.float32).eps if dtype != F64 else 1e-10)
    half = {F32: 2**-24, BF16: 2**-8, F16: 2**-11, F64: 0.0}[dtype]
    np.testing.assert_allclose(result.astype(np.float64), wide, rtol=half + exact, atol=1e-7)


def test_regmean_averages_what_has_no_statistics_and_keeps_inputs_that_were_never_active() -> None:
    _, sides = values((4, 6), F32, 2)
    strategy = STRATEGIES["regmean"]
    middle = ((sides[0].astype(np.float64) + sides[1]) / 2).astype(F32)
    np.testing.assert_array_equal(strategy.merge(MergeCase("b", None, sides), {}), middle)
    random = np.random.default_rng(1)
    grams = []
    for _ in range(2):
        x = random.standard_normal((40, 6))
        x[:, 2] = 0
        grams.append((x.T @ x).astype(np.float32))
    merged = strategy.merge(MergeCase("w", None, sides, {"gram": tuple(grams)}), {})
    np.testing.assert_array_equal(merged[:, 2], middle[:, 2])


def test_regmean_survives_statistics_of_low_rank() -> None:
    _, sides = values((4, 6), F32, 2)
    x = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
    merged = STRATEGIES["regmean"].merge(
        MergeCase("w", None, (sides[0], sides[0]), {"gram": (x.T @ x, x.T @ x)}), {"alpha": 1.0}
    )
    np.testing.assert_allclose(merged, sides[0], rtol=1e-6)


def test_regmean_of_sides_that_agree_on_their_inputs_is_that_answer() -> None:
    """Where one side saw no inputs at all, its weights say nothing: the other side's are kept."""
    _, sides = values((4, 6), F64, 2)
    x = np.random.default_rng(0).standard_normal((50, 6))
    merged = STRATEGIES["regmean"].merge(
        MergeCase("w", None, sides, {"gram": (x.T @ x, np.zeros((6, 6)))}), {}
    )
    np.testing.assert_allclose(merged, sides[0], rtol=1e-9)


@pytest.mark.parametrize("dtype", [F32, BF16, F16, F64], ids=str)
def test_diloco_hands_on_its_velocity(dtype: np.dtype) -> None:
    strategy = STRATEGIES["diloco"]
    assert isinstance(strategy, KeepsState)
    base, sides = values((6, 7), dtype, 3)
    first = MergeCase("w", base, sides)
    velocity = strategy.after(first, {})["velocity"]
    gradient = sum(base.astype(np.float64) - side for side in map(np.float64, sides)) / 3
    assert velocity.dtype == (F64 if dtype == F64 else F32)
    np.testing.assert_allclose(velocity, gradient, rtol=1e-6, atol=1e-7)
    assert strategy.merge(first, {}).dtype == dtype
    again = strategy.after(
        MergeCase("w", base, sides, {"velocity": (velocity, None, velocity)}), {"momentum": 0.5}
    )["velocity"]
    np.testing.assert_allclose(
        again, 0.5 * velocity.astype(np.float64) + gradient, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize(
    "name", [name for name in STRATEGIES if name not in ("permute", "ours", "theirs")]
)
def test_the_order_of_the_sides_does_not_matter(name: str) -> None:
    """Bit for bit, where the formula allows it (``order_free``), on a type with room for the
    differences.
    """
    strategy = STRATEGIES[name]
    if not strategy.order_free:  # type: ignore[attr-defined]
        return
    for dtype in (F64, BF16):
        count = 2 if strategy.max_sides == 2 else 4
        base, sides = values((40, 25), dtype, count, seed=3)
        fisher = statistics("fisher", base, count)["fisher"]
        order = [2, 0, 3, 1] if count == 4 else [1, 0]
        merged = strategy.merge(MergeCase("w", base, sides, {"fisher": fisher}), {})
        turned = strategy.merge(
            MergeCase(
                "w",
                base,
                tuple(sides[i] for i in order),
                {"fisher": tuple(fisher[i] for i in order)},
            ),
            {},
        )
        assert merged.tobytes() == turned.tobytes()


def test_the_order_of_weighted_sides_does_not_matter() -> None:
    base, sides = values((40, 25), F64, 3)
    sides = (sides[0], sides[1], sides[0])
    for name in ("average", "task_arithmetic", "ties", "karcher"):
        one = STRATEGIES[name].merge(MergeCase("w", base, sides), {"weights": (0.1, 0.2, 0.7)})
        other = STRATEGIES[name].merge(
            MergeCase("w", base, (sides[2], sides[0], sides[1])), {"weights": (0.7, 0.1, 0.2)}
        )
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("name", FORMULAS)
def test_layout_in_memory_does_not_matter(name: str) -> None:
    base, sides = values((20, 30), BF16, 2)
    siblings = statistics(name, base, 2)
    options = NEEDED.get(name, {})
    plain = STRATEGIES[name].merge(MergeCase("w", base, sides, siblings), options)
    turned = tuple(np.asfortranarray(side) for side in sides)
    assert np.array_equal(
        STRATEGIES[name].merge(MergeCase("w", np.asfortranarray(base), turned, siblings), options),
        plain,
    )
    for array in (base, *sides):
        array.setflags(write=False)
    assert (
        STRATEGIES[name].merge(MergeCase("w", base, sides, siblings), options).tobytes()
        == plain.tobytes()
    )


@pytest.mark.parametrize("name", FORMULAS)
def test_an_element_that_all_hold_alike_keeps_its_bits(name: str) -> None:
    for dtype in (F32, BF16, F16):
        base, sides = values((12, 11), dtype, 2)
        for array in (base, *sides):
            array[3] = [0.0, -0.0, 1.0, -1.0, 0.1, -0.3, 7.0, 1e-7, -1e-7, 100.0, 3.0]
        merged = check(name, base, sides, {})
        if name not in ("slerp", "karcher", "multislerp", "diloco", "fisher"):
            assert merged[3].tobytes() == base[3].tobytes(), dtype


def test_spherical_means_with_no_direction_fall_back_to_the_average() -> None:
    _, (ours, _) = values((5, 4), F32, 2)
    karcher = STRATEGIES["karcher"]
    assert not karcher.merge(MergeCase("w", None, (ours, -ours)), {}).any()
    scalars = tuple(np.array(x, np.float32) for x in (1.0, 1.0, -4.0))
    assert karcher.merge(MergeCase("w", None, scalars), {}) == np.float32(-2.0 / 3.0)
    zeros = np.zeros_like(ours)
    assert not karcher.merge(MergeCase("w", None, (zeros, zeros)), {}).any()
    np.testing.assert_allclose(
        karcher.merge(MergeCase("w", None, (zeros, ours)), {}), ours / 2, rtol=1e-6
    )


def test_model_stock_keeps_the_base_where_the_sides_move_apart() -> None:
    base, (ours, _) = values((5, 4), F32, 2)
    theirs = (2 * base.astype(np.float64) - ours).astype(np.float32)
    assert np.array_equal(
        STRATEGIES["model_stock"].merge(MergeCase("w", base, (ours, theirs)), {}), base
    )


ELECT = ("ties", "dare_ties", "breadcrumbs_ties")


@pytest.mark.parametrize(
    "name",
    [
        *ELECT,
        "average",
        "linear",
        "slerp",
        "karcher",
        "multislerp",
        "nearswap",
        "sce",
        "model_stock",
    ],
)
def test_merging_equal_sides_is_near_that_side(name: str) -> None:
    """A check that needs no formula: what both sides hold comes out where nothing is dropped,
    scaled or added up.
    """
    base, (ours, _) = values((8, 16), F32, 2)
    options: dict[str, Any] = {"density": 1.0} if name in ELECT else {}
    merged = STRATEGIES[name].merge(
        MergeCase("w", base, (ours, ours), statistics(name, base, 2)),
        NEEDED.get(name, {}) | options,
    )
    np.testing.assert_allclose(merged, ours, rtol=1e-5, atol=1e-6)


def test_the_list_is_complete() -> None:
    assert set(STRATEGIES) == {*REFERENCES, "permute"}
    for strategy in STRATEGIES.values():
        assert isinstance(strategy, MergeStrategy)
        defaults = parse(strategy, ["t=0.1"] if strategy.name == "nearswap" else [])
        assert set(defaults) == {*(option.name for option in strategy.options), "rows"}
        assert strategy.summary
        assert not strategy.summary.endswith(".")


def test_two_merges_of_the_same_inputs_are_the_same_bytes() -> None:
    base, sides = values((64, 65), BF16, 3)
    for name in ("dare_ties", "della", "ties", "sce", "karcher"):
        first = compute(STRATEGIES[name], MergeCase("w", base, sides), parse(STRATEGIES[name], []))
        copies = MergeCase("w", base.copy(), tuple(side.copy() for side in sides))
        assert (
            compute(STRATEGIES[name], copies, parse(STRATEGIES[name], [])).array.tobytes()
            == first.array.tobytes()
        )
