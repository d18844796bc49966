"""The contract suites, and what they cannot know of this plugin."""

from __future__ import annotations

import numpy as np
import pytest
from git_theta_json_weights.format import START, JsonWeights
from git_theta_json_weights.strategy import Largest
from git_theta_json_weights.units import Codebook
from git_theta_json_weights.update import Scaled

from git_theta.plugin import BytesSource, FormatError, MergeCase, Spec, Tensor, UsageError
from git_theta.testing import (
    check_checkpoint_format,
    check_merge_strategy,
    check_unit_kind,
    check_update,
)

RANDOM = np.random.default_rng(2)
TENSORS = {
    "layer.weight": Tensor.from_array(RANDOM.standard_normal((6, 5)).astype(np.float16)),
    'a "quoted" \\ name, é': Tensor.from_array(np.zeros((0, 3))),
    "bias": Tensor.from_array(np.arange(3.0)),
}
FORMAT = JsonWeights()
FILE = FORMAT.build(TENSORS, None)


def test_the_format_keeps_its_contract() -> None:
    noted = (
        FORMAT.build(TENSORS, None)
        .replace(b"{", b'{"format": "json-weights", "info": {"epoch": 3}, ', 1)
        .replace(b'3}, "format": "json-weights"', b"3}", 1)
    )
    files = {"some": FILE, "none": FORMAT.build({}, None), "with info": noted}
    check_checkpoint_format(FORMAT, files, {"some": TENSORS, "none": {}, "with info": TENSORS})


def test_what_else_a_file_holds_stays() -> None:
    like = START + b', "info": [1, 2], "tensors": []}\n'
    assert FORMAT.build(TENSORS, BytesSource(like)).startswith(
        START + b', "info": [1, 2], "tensors": [{"name": "layer.weight"'
    )


@pytest.mark.parametrize(
    "change",
    [
        (b'"f64"', b'"f99"'),
        (b"[3]", b"[-3]"),
        (b"[3]", b"[3.0]"),
        (b"[3]", b"[4]"),
        (b"[3]", b"[4611686018427387904, 4]"),
        (b'"bias"', b'"layer.weight"'),
        (b'"bias"', b'"bi\\nas"'),
        (b'"name": "bias"', b'"title": "bias"'),
        (b'"tensors"', b'"others"'),
        (b"}]}\n", b"}]}"),
    ],
)
def test_what_is_not_as_described_is_refused(change: tuple[bytes, bytes]) -> None:
    assert FILE.count(change[0]) >= 1
    with pytest.raises(FormatError):
        FORMAT.scan(BytesSource(FILE.replace(*change, 1)))


def test_the_update_keeps_its_contract() -> None:
    pairs = []
    for dtype in (np.float16, np.float32, np.float64):
        base: np.ndarray = RANDOM.standard_normal((40, 8)).astype(dtype)
        pairs += [
            (
                Tensor.from_array((base * np.array(factor, dtype)).astype(dtype)),
                Tensor.from_array(base),
            )
            for factor in (0.5, -2.0, 0.0)
        ]
    parts = {"factor": np.array(-0.3)}
    check_update(Scaled(), pairs, parts=[(base, parts) for _, base in pairs])


def test_a_tensor_that_was_scaled_takes_eight_bytes() -> None:
    base = RANDOM.standard_normal(1000).astype(np.float32)
    encoded = Scaled().encode(
        Tensor.from_array((base.astype(np.float64) * 0.1).astype(np.float32)),
        Tensor.from_array(base),
        "default",
    )
    assert encoded is not None
    assert (encoded.size, encoded.note) == (8, "factor=0.1")


def test_a_factor_can_be_handed_over() -> None:
    base = Tensor.from_array(RANDOM.standard_normal(50).astype(np.float32))
    new, encoded = Scaled().from_parts(base, {"factor": np.array([0.5], np.float32)})
    assert new.array().tolist() == (base.array() * 0.5).tolist()
    assert encoded is not None
    payload = memoryview(b"".join(encoded.chunks))
    assert Scaled().decode(payload, new.spec, base) == new.data
    for wrong in ([np.nan], [1.0, 2.0], []):
        with pytest.raises(UsageError):
            Scaled().from_parts(base, {"factor": np.array(wrong)})


def test_the_strategy_keeps_its_contract() -> None:
    check_merge_strategy(Largest())
    check_merge_strategy(Largest(), options={"at_least": 0.5})


def test_what_moved_farthest_stays() -> None:
    base = np.zeros(4, np.float32)
    case = MergeCase(
        "w", base, (np.array([1, 0, -3, 0.1], np.float32), np.array([-2, 0.5, 2, 0], np.float32))
    )
    assert Largest().merge(case, {"at_least": 0.2}).tolist() == [-2, 0.5, -3, 0]


def test_the_kind_of_unit_keeps_its_contract() -> None:
    unit = {"x.codes": Spec("u8", (8, 8)), "x.book": Spec("f32", (256,))}
    check_unit_kind(
        Codebook(),
        [unit],
        [{**unit, "x.book": Spec("f32", (4,))}, {**unit, "x.codes": Spec("f32", (8, 8))}],
    )
