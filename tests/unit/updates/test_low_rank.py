"""low-rank: factors whose product is the same everywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from update_examples import FLOATS, payload, random_tensor, round_trip, tensor, weights

from git_theta.core.tensors import Tensor
from git_theta.errors import PayloadError, UsageError
from git_theta.updates.delta import Delta
from git_theta.updates.low_rank import LowRank, encode_given
from git_theta.updates.prediction import factors, residual


def low(rows: int, columns: int, rank: int, size: float = 0.003) -> np.ndarray:
    random = np.random.default_rng(rank)
    product: np.ndarray = (
        random.standard_normal((rows, rank))
        @ random.standard_normal((rank, columns))
        * size
        / rank**0.5
    )
    return product.astype(np.float32)


def test_no_partial_sum_leaves_what_float64_holds_exactly() -> None:
    largest = 2**factors.BITS - 1
    assert factors.MAX_RANK >= 128
    assert largest * largest * factors.MAX_RANK < 2**53
    assert 2.0**53 == 2**53
    assert 2.0**53 - 1 == 2**53 - 1, "every integer up to 2^53 is a float64"


def extreme(rows: int, columns: int, rank: int, seed: int) -> factors.Factors:
    random = np.random.default_rng(seed)
    limit = 2**factors.BITS - 1
    left = random.choice([-limit, limit, limit - 1, 1, 0], (rows, rank)).astype(np.int32)
    right = random.choice([-limit, limit, limit - 1, 1, 0], (rank, columns)).astype(np.int32)
    left[0], right[:, 0] = limit, limit
    return factors.Factors(
        left, np.full(rows, -30, np.int16), right, np.full(columns, -40, np.int16)
    )


@pytest.mark.parametrize("rank", [1, 16, 128, factors.MAX_RANK])
def test_the_product_is_exact_in_any_order(rank: int) -> None:
    made = extreme(9, 11, rank, rank)
    exact = (made.left.astype(object) @ made.right.astype(object)).astype(np.float64) * 2.0**-70
    assert (factors.product(made, np.arange(9), np.arange(11)) == exact).all()
    left, right = made.left.astype(np.float64), made.right.astype(np.float64)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(rank)
        total = np.zeros((9, 11))
        for term in order:
            total += np.multiply.outer(left[:, term], right[term])
        assert (total * 2.0**-70 == exact).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.data())
def test_any_stretch_is_predicted_alike(
    rows: int, columns: int, rank: int, data: st.DataObject
) -> None:
    made = factors.fix(weights((rows, rank)), weights((rank, columns), 1))
    assert made is not None
    base = weights((rows, columns), 2).reshape(-1).view(np.uint32)
    predict = factors.predict(made, residual.reading(base), "f32")
    whole = predict(0, rows * columns).copy()
    start = data.draw(st.integers(0, rows * columns - 1))
    stop = data.draw(st.integers(start + 1, rows * columns))
    assert (predict(start, stop) == whole[start:stop]).all()


def test_fixed_point_is_close_and_bounded() -> None:
    left, right = weights((50, 7)) * np.float32(1e6), weights((7, 60), 1)
    left[3], right[:, 5] = 0, 0
    made = factors.fix(left, right)
    assert made is not None
    assert np.abs(made.left).max() <= 2**22 - 1
    exact = left.astype(np.float64) @ right.astype(np.float64)
    error = np.abs(factors.product(made, np.arange(50), np.arange(60)) - exact)
    bound = 2.0**-21 * 7 * np.abs(left).max(axis=1)[:, None] * np.abs(right).max(axis=0)
    assert (error <= bound).all()
    assert factors.fix(np.full((2, 1), 2.0**450), np.ones((1, 2))) is None
    tiny = factors.fix(np.full((2, 1), 2.0**-600), np.ones((1, 2)))
    assert tiny is not None
    assert not tiny.left.any()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_factors_are_parsed_as_dumped(rows: int, columns: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, min(rows, columns)))
    made = extreme(rows, columns, rank, 3)
    stored = memoryview(
        b"ab" + b"".join(bytes(chunk) for chunk in factors.dump(made, "default")) + b"c"
    )
    read, position = factors.parse(stored, 2, (rows, columns))
    assert position == len(stored) - 1
    for field in ("left", "left_scale", "right", "right_scale"):
        assert (getattr(made, field) == getattr(read, field)).all()


@pytest.mark.parametrize(
    ("dtype", "limit"), [("f32", 0.25), ("bf16", 0.35), ("f16", 0.25), ("f64", 0.85)]
)
@pytest.mark.parametrize("shape", [(256, 300), (128, 32, 3, 3)])
def test_finds_a_merged_product(dtype: str, limit: float, shape: tuple[int, ...]) -> None:
    base = weights(shape)
    added = low(shape[0], base.size // shape[0], 4).reshape(shape)
    old = tensor(base, dtype)
    new = Tensor.from_array((old.array().astype(np.float64) + added).astype(old.array().dtype))
    encoded = round_trip(LowRank(), new, old)
    assert encoded.note == "rank=4"
    assert encoded.size < limit * round_trip(Delta(), new, old).size
    round_trip(LowRank(), new, old, "best")


def test_is_exact_where_single_elements_differ_from_the_product() -> None:
    base = weights((200, 200))
    base[0, :5] = [np.nan, np.inf, -np.inf, -0.0, 1e-40]
    new = base + low(200, 200, 3)
    new[7, 7], new[8, 8], new[9, 9] = 100, np.nan, -0.0
    round_trip(LowRank(), tensor(new), tensor(base))


def test_declines_what_is_not_of_low_rank() -> None:
    base = weights((200, 200))
    few_rows = base.copy()
    few_rows[::20] += weights((10, 200), 3, 0.01)
    for new in (
        base + weights((200, 200), 1, 1e-3),
        weights((200, 200), 2),
        base,
        few_rows,
        base * np.float32(0.99),
    ):
        assert LowRank().encode(tensor(new), tensor(base), "default") is None
    assert LowRank().encode(tensor(base[:10]), tensor(base), "default") is None
    assert LowRank().encode(tensor(base[0]), tensor(base[0]), "default") is None
    assert (
        LowRank().encode(
            random_tensor("f64", (64, 64), 1), random_tensor("f64", (64, 64), 2), "default"
        )
        is None
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_given_factors_need_no_residual(dtype: str) -> None:
    base = tensor(weights((150, 260)), dtype)
    left, right = weights((150, 8), 1, 0.01), weights((8, 260), 2, 0.1)
    new, encoded = encode_given(None, base, left, right, 2.0)
    assert encoded.note == "rank=8"
    assert encoded.size < 3.2 * 8 * (150 + 260) + 1000
    assert bytes(LowRank().decode(payload(encoded), new.spec, base)) == bytes(new.data)
    exact = base.array().astype(np.float64) + 2.0 * left.astype(np.float64) @ right.astype(
        np.float64
    )
    step = {"f16": 2.0**-10, "bf16": 2.0**-7, "f32": 2.0**-22, "f64": 2.0**-22}[dtype]
    assert np.abs(new.array().astype(np.float64) - exact).max() < step * 0.3
    near = Tensor.from_array((exact * (1 + 1e-6)).astype(base.array().dtype))
    same, encoded = encode_given(near, base, left, right, 2.0)
    assert same is near
    assert bytes(LowRank().decode(payload(encoded), new.spec, base)) == bytes(near.data)


def test_rows_the_factors_leave_alone_keep_their_bits() -> None:
    base = random_tensor("f32", (40, 50), 5)
    left = weights((40, 2))
    left[::2] = 0
    new, _ = encode_given(None, base, left, weights((2, 50), 1))
    assert (new.bits().reshape(40, 50)[::2] == base.bits().reshape(40, 50)[::2]).all()


@pytest.mark.parametrize(
    ("left", "right", "scale"),
    [
        (np.ones((6, 2)), np.ones((2, 7)), 1.0),
        (np.ones((6, 2)), np.ones((3, 8)), 1.0),
        (np.ones(6), np.ones((1, 8)), 1.0),
        (np.ones((6, 7)), np.ones((7, 8)), 1.0),
        (np.ones((6, 0)), np.ones((0, 8)), 1.0),
        (np.full((6, 2), np.nan), np.ones((2, 8)), 1.0),
        (np.ones((6, 2)), np.full((2, 8), np.inf), 1.0),
        (np.ones((6, 2)), np.ones((2, 8)), float("nan")),
        (np.full((6, 2), 1e300), np.ones((2, 8)), 1.0),
    ],
)
def test_given_factors_that_do_not_fit(left: np.ndarray, right: np.ndarray, scale: float) -> None:
    with pytest.raises(UsageError):
        encode_given(None, tensor(weights((6, 8))), left, right, scale)


def test_given_to_what_is_no_matrix() -> None:
    for base in (tensor(weights((6,))), random_tensor("i32", (6, 8), 1), tensor(weights((0, 8)))):
        with pytest.raises(UsageError, match="matrix"):
            encode_given(None, base, np.ones((6, 1)), np.ones((1, 8)))


def test_ranks_and_numbers_out_of_range_are_refused() -> None:
    base = tensor(weights((30, 40)))
    _, encoded = encode_given(None, base, weights((30, 3)), weights((3, 40)))
    good = bytes(payload(encoded))
    for rank in (b"\x00", b"\x1f", b"\x80\x08", b"\xff" * 8 + b"\x7f"):
        with pytest.raises(PayloadError):
            LowRank().decode(memoryview(good[:1] + rank + good[2:]), base.spec, base)
    made = factors.fix(weights((30, 3)), weights((3, 40)))
    assert made is not None
    wild = factors.Factors(made.left * 1000, made.left_scale, made.right, made.right_scale)
    with pytest.raises(PayloadError, match="out of range"):
        factors.parse(
            memoryview(b"".join(bytes(chunk) for chunk in factors.dump(wild, "default"))),
            0,
            (30, 40),
        )


PROGRAM = """
import hashlib
import sys
sys.path[:0] = sys.argv[1:3]
import numpy as np
from git_theta.updates.low_rank import LowRank, encode_given
from git_theta.core.tensors import Tensor
random = np.random.default_rng(4)
base = random.standard_normal((700, 900)).astype(np.float32)
sizes = (700, 12), (12, 900)
left, right = (random.standard_normal(size).astype(np.float32) * 0.05 for size in sizes)
added = np.zeros((700, 900))
for term in range(12):
    added += np.multiply.outer(left[:, term].astype(np.float64), right[term])
old, new = Tensor.from_array(base), Tensor.from_array((base + added).astype(np.float32))
found = LowRank().encode(new, old, "default")
computed, given = encode_given(None, old, left, right)
digest = hashlib.sha256()
for chunk in (*found.chunks, computed.data, *given.chunks):
    digest.update(chunk)
assert bytes(LowRank().decode(memoryview(b"".join(found.chunks)), new.spec, old)) == bytes(new.data)
print(found.note, digest.hexdigest())
"""


def run_program(**variables: str) -> str:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", PROGRAM, str(root), str(root / "tests" / "helpers")]
    return subprocess.run(
        command, env={**os.environ, **variables}, check=True, capture_output=True, text=True
    ).stdout


def test_the_same_bytes_with_any_number_of_blas_threads() -> None:
    names = (
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OMP_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    )
    printed = {run_program(**dict.fromkeys(names, threads)) for threads in ("1", "4")}
    assert len(printed) == 1
    assert printed.pop().startswith("rank=12 ")


def test_the_same_bytes_with_other_blas_kernels() -> None:
    """OpenBLAS then adds in another order; what comes out must not depend on it."""
    assert len({run_program(OPENBLAS_CORETYPE=kernel) for kernel in ("Haswell", "Prescott")}) == 1


def test_the_digest_of_a_given_product_never_changes() -> None:
    """These bytes are a tensor's identity: every machine and release must compute them."""
    steps = np.arange(1, 41, dtype=np.float64)
    left, right = (
        np.stack([1 / steps, np.sqrt(steps)], axis=1),
        np.stack([steps / 7, 1 / (steps + 2)]),
    )
    digests = {}
    for dtype in FLOATS:
        base = Tensor.from_array(
            tensor((np.multiply.outer(steps, 1 / steps) / 3).astype(np.float32), dtype).array()
        )
        new, encoded = encode_given(None, base, left, right, 0.125)
        assert bytes(LowRank().decode(payload(encoded), new.spec, base)) == bytes(new.data)
        digests[dtype] = hashlib.sha256(new.data).hexdigest()[:16]
    assert digests == DIGESTS


DIGESTS = {
    "f16": "b6cce7383c415690",
    "bf16": "5957b6db7b62fee1",
    "f32": "908c815141f7e403",
    "f64": "fc00d7d99c035824",
}


def test_the_sum_is_the_exact_one_rounded_to_float64_and_then_to_the_type() -> None:
    made = factors.fix(weights((6, 3), 1, 100.0), weights((3, 5), 2))
    assert made is not None
    base = weights((6, 5))
    predicted = factors.predict(made, residual.reading(base.reshape(-1).view(np.uint32)), "f32")(
        0, 30
    )
    for row in range(6):
        for column in range(5):
            scale = Fraction(2) ** (int(made.left_scale[row]) + int(made.right_scale[column]))
            product = (
                sum(int(made.left[row, k]) * int(made.right[k, column]) for k in range(3)) * scale
            )
            exact = float(Fraction(float(base[row, column])) + product)  # Fraction rounds correctly
            assert predicted[5 * row + column] == np.float32(exact).view(np.uint32)
