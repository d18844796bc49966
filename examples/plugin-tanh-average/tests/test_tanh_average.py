"""The contract suite, and what the strategy makes of layers whose units differ in sign."""

from __future__ import annotations

import numpy as np
import pytest
from git_theta_tanh_average import TanhAverage

from git_theta.plugin import MergeCase, MergeError, UsesStatistics, WholeModel
from git_theta.testing import check_merge_strategy

RANDOM = np.random.default_rng(3)
LAYER = {
    "h.in.weight": RANDOM.standard_normal((6, 4)).astype(np.float32),
    "h.in.bias": RANDOM.standard_normal(6).astype(np.float32),
    "h.out.weight": RANDOM.standard_normal((3, 6)).astype(np.float32),
    "head": RANDOM.standard_normal(3).astype(np.float32),
}
OPTIONS = {"least": 1e-8}
SIGNS = np.array([1, -1, 1, -1, -1, 1], np.float32)


def computed(layer: dict[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """What the layer makes of inputs."""
    hidden = np.tanh(inputs @ layer["h.in.weight"].T + layer["h.in.bias"])
    return np.asarray(hidden @ layer["h.out.weight"].T + layer["head"])


def flipped() -> dict[str, np.ndarray]:
    """The same function, with half the units the other way round."""
    return {
        "h.in.weight": LAYER["h.in.weight"] * SIGNS[:, None],
        "h.in.bias": LAYER["h.in.bias"] * SIGNS,
        "h.out.weight": LAYER["h.out.weight"] * SIGNS,
        "head": LAYER["head"],
    }


def test_it_keeps_its_contract() -> None:
    check_merge_strategy(TanhAverage())
    assert isinstance(TanhAverage(), WholeModel)
    assert isinstance(TanhAverage(), UsesStatistics)


def test_units_are_turned_until_they_agree() -> None:
    inputs = RANDOM.standard_normal((5, 4)).astype(np.float32)
    assert np.allclose(computed(flipped(), inputs), computed(LAYER, inputs), atol=1e-6)
    first, second = TanhAverage().prepare([LAYER, flipped()], OPTIONS)
    assert first is LAYER
    for name, value in LAYER.items():
        assert second[name].tobytes() == value.tobytes(), name


def test_names_alone_make_no_layer() -> None:
    odd = {**LAYER, "h.in.weight": LAYER["h.in.bias"]}
    assert TanhAverage().prepare([odd, odd], OPTIONS)[1] == odd


def test_a_side_that_is_sure_counts_for_more() -> None:
    sides = (np.zeros(3, np.float32), np.ones(3, np.float32))
    variance = (np.full(3, 3.0), np.array([1.0, 3.0, 0.0]))
    case = MergeCase("w", None, sides, {"variance": variance})
    merged = TanhAverage().merge(case, {"least": 1.0})
    assert merged.tolist() == [0.75, 0.5, 0.75]
    assert TanhAverage().merge(MergeCase("w", None, sides), OPTIONS).tolist() == [0.5] * 3


def test_numbers_that_are_not_floats_are_refused() -> None:
    with pytest.raises(MergeError, match="averages floats"):
        TanhAverage().merge(MergeCase("w", None, (np.ones(2, int), np.ones(2, int))), OPTIONS)
