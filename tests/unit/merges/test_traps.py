"""Mistakes seen in merging tools, one test each: none may happen here."""

from __future__ import annotations

import numpy as np
import pytest
from merge_references import BF16, F16, F32, F64

from git_theta.core.contracts import MergeCase, MergeStrategy, Option, SurveysModel
from git_theta.errors import MergeError
from git_theta.merges.builtin_strategies import strategies
from git_theta.merges.check import check_finite, check_result, same_merge
from git_theta.merges.compute import compute
from git_theta.merges.options import parse

STRATEGIES = {strategy.name: strategy for strategy in strategies()}
TASKS = (
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    "breadcrumbs",
    "breadcrumbs_ties",
    "della",
    "della_linear",
)
WHOLE_TENSOR = ("slerp", "karcher", "multislerp", "model_stock")


def case(*sides: np.ndarray, base: np.ndarray | None = None, name: str = "w") -> MergeCase:
    return MergeCase(name, base, sides)


def options(name: str) -> dict[str, object]:
    return parse(STRATEGIES[name], ["t=0.5"] if name == "nearswap" else [])


def sides(
    count: int = 2, shape: tuple[int, ...] = (6, 8), dtype: np.dtype = F32
) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    return tuple(random.standard_normal(shape).astype(dtype) for _ in range(count))


def test_a_weighted_average_is_not_divided_by_the_number_of_sides_as_well() -> None:
    one = np.ones(4, F32)
    for weights in [(0.5, 0.5), (1.0, 1.0), (3.0, 1.0), (0.1, 0.2)]:
        assert np.array_equal(
            STRATEGIES["average"].merge(case(one, one), {"weights": weights}), one
        )
    assert np.array_equal(
        STRATEGIES["average"].merge(case(one, one), {"weights": (0.5, 0.5), "normalize": False}),
        one,
    )
    with pytest.raises(MergeError, match="add up to 0"):
        STRATEGIES["average"].merge(case(one, one), {"weights": (1.0, -1.0)})


@pytest.mark.parametrize("size", [1, 2, 3, 10, 49, 50, 99, 100])
def test_breadcrumbs_does_not_empty_small_tensors(size: int) -> None:
    """Of few elements the top share is none, which a slice ``[n:-0]`` turns into none kept."""
    base = np.zeros(size, F32)
    ours = np.arange(1, size + 1).astype(F32)
    for name in ("breadcrumbs", "breadcrumbs_ties"):
        merged = STRATEGIES[name].merge(case(ours, base=base), {})
        kept = max(1, int(0.9 * size + 0.5))
        top = min(int(0.01 * size + 0.5), size - kept)
        assert np.count_nonzero(merged) == kept
        assert np.array_equal(
            merged[size - kept - top : size - top], ours[size - kept - top : size - top]
        )


def test_ties_trims_by_default() -> None:
    base, ours = np.zeros(1000, F32), np.arange(1, 1001).astype(F32)
    assert np.count_nonzero(STRATEGIES["ties"].merge(case(ours, base=base), options("ties"))) == 200
    assert np.count_nonzero(STRATEGIES["ties"].merge(case(ours[:2], base=base[:2]), {})) == 1


ORDER_FREE = [
    s.name
    for s in strategies()
    if getattr(s, "order_free", False) and s.max_sides is None and s.name != "regmean"
]


@pytest.mark.parametrize("name", ORDER_FREE)
def test_sums_do_not_depend_on_an_order_that_can_change(name: str) -> None:
    values = sides(5, dtype=F64)
    values = tuple(v * 10.0**k for v, k in zip(values, (-9, 0, 7, 3, -4), strict=True))
    fisher = tuple(np.abs(v) for v in values)
    seen = set()
    for turn in range(5):
        order = [(i + turn) % 5 for i in range(5)]
        turned = MergeCase(
            "w",
            np.zeros((6, 8)),
            tuple(values[i] for i in order),
            {"fisher": tuple(fisher[i] for i in order)},
        )
        seen.add(STRATEGIES[name].merge(turned, {}).tobytes())
    assert len(seen) == 1


def test_the_seed_is_always_part_of_the_options_to_record() -> None:
    for name in ("dare_linear", "dare_ties", "della", "della_linear"):
        assert parse(STRATEGIES[name], [])["seed"] == 0
        base, *both = sides(3)
        first, again, other = (
            STRATEGIES[name].merge(case(*both, base=base), {"seed": seed}) for seed in (0, 0, 1)
        )
        assert (
            first.tobytes()
            == again.tobytes()
            == STRATEGIES[name].merge(case(*both, base=base), {}).tobytes()
        )
        assert first.tobytes() != other.tobytes()


def test_random_masks_differ_between_sides_and_between_tensors() -> None:
    base, ours, theirs = np.zeros(64, F32), np.ones(64, F32), np.full(64, 2.0, F32)
    dare = STRATEGIES["dare_linear"]
    assert not np.array_equal(
        dare.merge(case(ours, base=base), {}) != 0, dare.merge(case(theirs, base=base), {}) != 0
    )
    assert not np.array_equal(
        dare.merge(case(ours, base=base), {}), dare.merge(case(ours, base=base, name="v"), {})
    )


@pytest.mark.parametrize(
    "name", ["average", "task_arithmetic", "ties", "dare_ties", "karcher", "fisher"]
)
def test_one_weight_for_two_sides_is_an_error_and_not_a_ratio(name: str) -> None:
    base, *both = sides(3)
    given = parse(STRATEGIES[name], ["weights=0.3"])
    with pytest.raises(MergeError, match="weights has 1 value for 2 sides"):
        STRATEGIES[name].merge(
            MergeCase("w", base, tuple(both), {"fisher": (abs(base), abs(base))}), given
        )


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_])
def test_integers_are_never_averaged(dtype: type[np.generic]) -> None:
    ours: np.ndarray = np.array([1, 0, 1], dtype)
    theirs: np.ndarray = np.array([0, 0, 1], dtype)
    for strategy in strategies():
        if strategy.name in ("ours", "theirs", "base"):
            assert strategy.merge(case(ours, theirs, base=ours), {}).dtype == dtype
        else:
            with pytest.raises(MergeError, match="choose ours, theirs or base"):
                strategy.merge(case(ours, theirs, base=ours), options(strategy.name))


@pytest.mark.parametrize("dtype", [F32, BF16, F16, F64], ids=str)
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_reported_and_stay_where_they_are(
    special: float, dtype: np.dtype
) -> None:
    base, ours, theirs = (side.astype(dtype) for side in sides(3))
    theirs = theirs.copy()
    theirs[2, 3] = special
    broken = case(ours, theirs, base=base, name="a\nb")
    (notice,) = check_finite(broken)
    assert (
        notice
        == f"theirs of tensor 'a\\x0ab' holds 1 {'NaN' if np.isnan(special) else 'infinite value'}"
    )
    clean = np.ones((6, 8), bool)
    clean[2, 3] = False
    for name in ("average", "nearswap", "task_arithmetic", "ram", "diloco"):
        outcome = compute(STRATEGIES[name], broken, options(name))
        assert outcome.notices == (notice,)
        assert np.isfinite(outcome.array.astype(np.float64)[clean]).all()
    for name in (
        "average",
        "task_arithmetic",
        "ties",
        "breadcrumbs_ties",
        "ram",
        "ramplus_tl",
        "sce",
        "diloco",
    ):
        merged = STRATEGIES[name].merge(broken, options(name)).astype(np.float64)
        assert not np.isfinite(merged[2, 3]) or (
            name in ("breadcrumbs_ties", "sce") and np.isinf(special)
        ), name
    for name in WHOLE_TENSOR:
        with pytest.raises(MergeError, match="NaN"):
            STRATEGIES[name].merge(broken, {})


@pytest.mark.parametrize(
    "name", [s.name for s in strategies() if s.name not in (*WHOLE_TENSOR, "permute")]
)
def test_no_strategy_fails_on_nan_that_can_do_without_norms(name: str) -> None:
    base, ours, theirs = sides(3)
    ours, base = ours.copy(), base.copy()
    ours[0], base[1] = np.nan, np.inf
    fisher = (abs(ours), abs(theirs))
    merged = STRATEGIES[name].merge(
        MergeCase("w", base, (ours, theirs), {"fisher": fisher}), options(name)
    )
    assert merged.shape == ours.shape


def test_a_side_full_of_nan_is_counted() -> None:
    bad = np.full((200, 300), np.nan, BF16)
    bad[0, :7] = np.inf
    good = np.zeros((200, 300), BF16)
    assert check_finite(case(good, bad, good)) == [
        "side 2 of tensor 'w' holds 59993 NaN and 7 infinite values"
    ]
    assert check_finite(case(good, good, base=bad)) == [
        "the base of tensor 'w' holds 59993 NaN and 7 infinite values"
    ]
    assert check_finite(case(np.arange(3), np.arange(3))) == []


def test_values_that_leave_the_types_range_are_reported() -> None:
    base, big = np.zeros(3, F16), np.full(3, 60000, F16)
    outcome = compute(STRATEGIES["task_arithmetic"], case(big, big, base=base), {})
    assert outcome.notices == (
        "merging tensor 'w' gave 3 infinite values: the values left the range of float16",
    )
    assert check_result(case(big), big) == []


def test_a_repetition_is_the_same_bytes_or_within_the_stated_tolerance() -> None:
    exact, solved = STRATEGIES["average"], STRATEGIES["regmean"]
    for dtype in (F32, BF16, F16, F64):
        (one,) = sides(1, (50, 800), dtype)
        next_door = one.copy()
        next_door.view(f"u{dtype.itemsize}")[7, 7] += 1
        apart = one.copy()
        apart[7, 7] += np.array(0.5, dtype)
        odd = one.copy()
        odd[0, 0] = np.nan
        assert same_merge(exact, one, one.copy())
        assert not same_merge(exact, one, next_door)
        assert same_merge(solved, one, next_door)
        assert not same_merge(solved, one, apart)
        assert not same_merge(solved, one, odd)
        assert same_merge(solved, odd, odd.copy())
        assert not same_merge(solved, one, one[1:])
        assert not same_merge(solved, one, one.astype(np.complex128))
    assert not same_merge(solved, np.arange(3), np.arange(3) + 1)


def test_nan_has_one_bit_pattern_in_results() -> None:
    odd = np.array([0xFFC12345, 0x7F800001], np.uint32).view(F32)
    merged = STRATEGIES["average"].merge(case(odd, odd), {})
    assert merged.view(np.uint32).tolist() == [0x7FC00000, 0x7FC00000]


@pytest.mark.parametrize(
    "strategy",
    [s for s in strategies() if s.name not in ("ours", "theirs", "base")],
    ids=lambda s: s.name,
)
def test_tables_of_different_rows_are_an_error_unless_asked_for(strategy: MergeStrategy) -> None:
    base, ours = sides(2)
    theirs = np.concatenate([base, ours])
    with pytest.raises(
        MergeError, match=r"float32\[6, 8\] on one side and float32\[12, 8\] on another"
    ):
        strategy.merge(case(ours, theirs, base=base), options(strategy.name))
    with pytest.raises(MergeError, match="rows=common"):
        compute(strategy, case(ours, theirs, base=base), options(strategy.name))


def test_rows_in_common_are_merged_and_the_others_taken() -> None:
    base, ours, theirs, more = sides(4)
    theirs = np.concatenate([theirs, more[:3]])
    average = STRATEGIES["average"]
    outcome = compute(average, case(ours, theirs, base=base), parse(average, ["rows=common"]))
    assert outcome.notices == ("tensor 'w': 6 rows in common merged, 3 taken from theirs",)
    assert np.array_equal(outcome.array[:6], average.merge(case(ours, theirs[:6]), {}))
    assert np.array_equal(outcome.array[6:], more[:3])
    # The other way round, and by a strategy that needs the base.
    ties = STRATEGIES["ties"]
    turned = compute(ties, case(theirs, ours, base=base), parse(ties, ["rows=common"]))
    assert np.array_equal(turned.array[:6], ties.merge(case(theirs[:6], ours, base=base), {}))
    assert np.array_equal(turned.array[6:], more[:3])


def test_rows_that_the_base_lacks() -> None:
    base, ours, theirs = sides(3)
    rows = ["rows=common"]
    short = case(ours, theirs, base=base[:4])
    average = STRATEGIES["average"]
    assert np.array_equal(
        compute(average, short, parse(average, rows)).array, average.merge(short, {})
    )
    task = compute(STRATEGIES["task_arithmetic"], short, parse(STRATEGIES["task_arithmetic"], rows))
    assert np.array_equal(task.array[4:], ours[4:])
    assert "4 rows in common merged, 2 taken from ours" in task.notices[0]


def test_rows_of_three_sides_and_of_statistics() -> None:
    a, b, c = sides(3)
    b, c = np.concatenate([b, b[:2]]), np.concatenate([c, c[:2]])
    fisher = tuple(np.abs(side) for side in (a, b, c))
    merged = compute(
        STRATEGIES["fisher"],
        MergeCase("w", None, (a, b, c), {"fisher": fisher}),
        parse(STRATEGIES["fisher"], ["rows=common"]),
    )
    plain = STRATEGIES["fisher"].merge(
        MergeCase("w", None, (a, b[:6], c[:6]), {"fisher": tuple(f[:6] for f in fisher)}), {}
    )
    assert np.array_equal(merged.array[:6], plain)
    assert np.array_equal(merged.array[6:], b[6:])
    assert "taken from side 2" in merged.notices[0]


@pytest.mark.parametrize(
    "others",
    [
        (np.zeros((3, 7), F32),),
        (np.zeros((3, 8), F16),),
        (np.zeros(8, F32),),
        (np.zeros((3, 8, 1), F32),),
        (np.zeros((), F32),),
    ],
)
def test_other_differences_are_not_bridged(others: tuple[np.ndarray, ...]) -> None:
    with pytest.raises(MergeError, match=r"differs in more than its number of rows|one side"):
        compute(
            STRATEGIES["average"],
            case(np.zeros((6, 8), F32), *others),
            parse(STRATEGIES["average"], ["rows=common"]),
        )


def test_a_missing_base_or_statistic_is_said_plainly() -> None:
    base, ours, theirs = sides(3)
    for strategy in strategies():
        if strategy.needs_base:
            with pytest.raises(MergeError, match="needs a common base"):
                strategy.merge(case(ours, theirs), options(strategy.name))
    with pytest.raises(
        MergeError,
        match="fisher needs 'fisher' statistics of tensor 'w', and ours, theirs have none",
    ):
        STRATEGIES["fisher"].merge(case(ours, theirs), {})
    with pytest.raises(MergeError, match="and theirs has none"):
        STRATEGIES["fisher"].merge(
            MergeCase("w", None, (ours, theirs), {"fisher": (ours, None)}), {}
        )
    with pytest.raises(MergeError, match=r"are float32\[2, 8\]"):
        STRATEGIES["fisher"].merge(
            MergeCase("w", None, (ours, theirs), {"fisher": (ours, theirs[:2])}), {}
        )
    with pytest.raises(MergeError, match=r"are int64"):
        STRATEGIES["fisher"].merge(
            MergeCase("w", None, (ours, theirs), {"fisher": (ours, theirs.astype(int))}), {}
        )
    with pytest.raises(MergeError, match="and theirs has none"):
        STRATEGIES["regmean"].merge(
            MergeCase("w", None, (ours, theirs), {"gram": (np.eye(8, dtype=F32), None)}), {}
        )
    with pytest.raises(MergeError, match=r"floats of shape \[8, 8\]"):
        STRATEGIES["regmean"].merge(
            MergeCase("w", None, (ours, theirs), {"gram": (np.eye(6, dtype=F32),) * 2}), {}
        )
    with pytest.raises(MergeError, match="NaN"):
        STRATEGIES["regmean"].merge(
            MergeCase("w", None, (ours, theirs), {"gram": (np.full((8, 8), np.nan),) * 2}), {}
        )
    with pytest.raises(MergeError, match="solves for real matrices"):
        STRATEGIES["regmean"].merge(
            MergeCase("w", None, (ours[0], theirs[0]), {"gram": (np.eye(8),) * 2}), {}
        )
    with pytest.raises(MergeError, match="different 'velocity'"):
        STRATEGIES["diloco"].merge(
            MergeCase("w", base, (ours, theirs), {"velocity": (ours, theirs)}), {}
        )


def test_complex_values_are_refused_where_pairs_of_reals_make_no_sense() -> None:
    z = np.ones((2, 2), np.complex64)
    real = np.ones((2, 2), F32)
    for name, siblings in (
        ("fisher", {"fisher": (real, real)}),
        ("diloco", {}),
        ("regmean", {"gram": (real, real)}),
    ):
        with pytest.raises(MergeError, match=r"complex|real matrices"):
            STRATEGIES[name].merge(MergeCase("w", z, (z, z), siblings), {})


def test_the_number_of_sides_is_checked() -> None:
    base, *many = sides(5)
    for strategy in strategies():
        if strategy.max_sides == 2:
            with pytest.raises(MergeError, match=r"merges 2 sides; tensor 'w' has 4"):
                strategy.merge(case(*many, base=base), options(strategy.name))
        if strategy.min_sides == 2:
            with pytest.raises(MergeError, match=r"merges 2( or more)? sides; tensor 'w' has 1"):
                strategy.merge(case(many[0], base=base), options(strategy.name))


def test_della_keeps_its_probabilities_inside_the_unit_interval() -> None:
    base, *both = sides(3)
    with pytest.raises(MergeError, match="choose epsilon below"):
        STRATEGIES["della"].merge(case(*both, base=base), {"density": 0.9, "epsilon": 0.2})


def test_ties_over_the_whole_model() -> None:
    """One cutoff a side for all tensors, the same as if the model were one tensor."""
    ties = STRATEGIES["ties"]
    assert isinstance(ties, SurveysModel)
    random = np.random.default_rng(0)
    parts = [
        (random.standard_normal((3, n)) * scale).astype(F32)
        for n, scale in ((50, 1.0), (5, 10.0), (1, 0.1), (200, 0.3))
    ]
    cases = [MergeCase(str(i), p[0], (p[1], p[2])) for i, p in enumerate(parts)]
    state = MergeCase("step", np.zeros(1, int), (np.zeros(1, int), np.ones(1, int)))
    found = ties.survey(lambda: [*cases, state], {"scope": "model", "density": 0.3})
    joined = np.concatenate(parts, axis=1)
    whole = ties.merge(MergeCase("all", joined[0], (joined[1], joined[2])), {"density": 0.3})
    assert np.array_equal(np.concatenate([ties.merge(c, found) for c in cases]), whole)
    assert ties.survey(lambda: reversed(cases), {"scope": "model", "density": 0.3}) == found
    assert ties.survey(lambda: cases, {}) == parse(ties, [])
    assert ties.survey(list, {"scope": "model"})["cutoffs"] == ()
    with pytest.raises(MergeError, match="needs the cutoffs"):
        ties.merge(cases[0], {"scope": "model"})
    with pytest.raises(MergeError, match="cutoffs has 1 value for 2 sides"):
        ties.merge(cases[0], {"scope": "model", "cutoffs": (1.0,)})


class Broken:
    """A plugin's strategy that misbehaves."""

    name, summary, needs_base, min_sides = "broken", "", False, 1
    options: tuple[Option, ...] = ()
    max_sides: int | None = None

    def __init__(self, result: object) -> None:
        self.result = result

    def merge(self, case: MergeCase, options: object) -> np.ndarray:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            ZeroDivisionError("by\nzero"),
            (
                r"broken failed on tensor 'w' with ZeroDivisionError: by\x0azero; resolve it by"
                r" another strategy"
            ),
        ),
        (KeyError(), "with KeyError: no message"),
        (np.zeros(2, F32), "returned float32[2] for tensor 'w', which is float32[6, 8]"),
        (np.zeros((6, 8), F64), "returned float64[6, 8]"),
        (None, "returned NoneType"),
        (MergeError("my own words"), "my own words"),
    ],
)
def test_a_strategy_that_fails_leaves_a_conflict_with_a_reason(result: object, words: str) -> None:
    with pytest.raises(MergeError) as error:
        compute(Broken(result), case(*sides()), {})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_interruptions_pass_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        compute(Broken(KeyboardInterrupt()), case(*sides()), {})
