"""sparse: positions and values."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from update_examples import pairs, payload, random_tensor, round_trip, tensor, weights

from git_theta.core import varint
from git_theta.core.contracts import Level
from git_theta.core.tensors import Tensor
from git_theta.errors import PayloadError, UsageError
from git_theta.updates import planes
from git_theta.updates.delta import Delta
from git_theta.updates.sparse import Sparse, encode_given


@settings(deadline=None)
@given(pairs())
def test_any_bits_come_back(pair: tuple[Tensor, Tensor]) -> None:
    one, other = pair
    encoded = Sparse().encode(one, other, "default")
    changed = int(np.count_nonzero(one.bits() != other.bits()))
    if encoded is None:
        assert changed > len(one.bits()) // 4
    else:
        assert bytes(Sparse().decode(payload(encoded), one.spec, other)) == bytes(one.data)
        assert encoded.note == f"changed={changed}"


@pytest.mark.parametrize("share", [0.0, 1e-5, 0.001, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("level", ["fast", "default", "best"])
def test_is_smaller_than_a_delta_where_few_elements_changed(share: float, level: Level) -> None:
    base = weights((2 * planes.BLOCK + 5,))
    changed = base.copy()
    where = np.random.default_rng(1).random(len(base)) < share
    changed[where] += weights((int(where.sum()),), 2, 0.01)
    encoded = round_trip(Sparse(), tensor(changed), tensor(base), level)
    assert encoded.size < 0.01 * tensor(base).spec.nbytes * (100 * share * 1.2) + 200
    assert encoded.size < round_trip(Delta(), tensor(changed), tensor(base), level).size


def test_changes_side_by_side_are_marked_by_bits() -> None:
    base = weights((400, 512))
    changed = base.copy()
    changed[:, ::4] += weights((400, 128), 2, 0.01)
    encoded = round_trip(Sparse(), tensor(changed), tensor(base))
    assert payload(encoded)[0] == 2
    assert encoded.size < 0.25 * tensor(base).spec.nbytes


def test_many_changes_are_declined() -> None:
    base = weights((1000,))
    changed = base.copy()
    changed[:251] += 1
    assert Sparse().encode(tensor(changed), tensor(base), "default") is None
    changed[250] = base[250]
    assert Sparse().encode(tensor(changed), tensor(base), "default") is not None


@pytest.mark.parametrize(
    ("form", "places"),
    [
        (0, np.array([9], "<u4")),
        (0, np.array([4, 4], "<u4")),
        (1, np.array([2**63] * 2, "<u8")),
        (1, np.array([2**64 - 1], "<u8")),
    ],
)
def test_places_outside_the_tensor_are_refused(form: int, places: np.ndarray) -> None:
    base = random_tensor("f32", (9,), 1)
    coded = b"".join(bytes(chunk) for chunk in planes.encode(places))
    values = b"".join(bytes(chunk) for chunk in planes.encode(np.zeros(len(places), "<u4")))
    data = bytes([form]) + varint.dump(len(places)) + varint.dump(len(coded)) + coded + values
    with pytest.raises(PayloadError):
        Sparse().decode(memoryview(data), base.spec, base)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "f64"])
def test_given_as_compressed_rows(dtype: str) -> None:
    base = tensor(weights((40, 50)), dtype)
    added = scipy.sparse.random(40, 50, 0.05, format="csr", random_state=3, dtype=np.float32)
    new, encoded = encode_given(base, added.data, added.indices, added.indptr, added.shape)
    expected = (base.array().astype(np.float64) + added.toarray()).astype(
        np.float32 if dtype == "bf16" else base.array().dtype
    )
    assert bytes(new.data) == bytes(Tensor.from_array(expected.astype(base.array().dtype)).data)
    assert bytes(Sparse().decode(payload(encoded), new.spec, base)) == bytes(new.data)
    assert encoded.note.startswith("changed=")


def test_given_as_one_long_row_of_any_density() -> None:
    base = tensor(weights((4, 5, 6)))
    added = scipy.sparse.csr_matrix(np.ones((1, 120)))
    new, encoded = encode_given(base, added.data, added.indices, added.indptr, added.shape)
    assert np.array_equal(new.array(), (base.array().astype(np.float64) + 1).astype(np.float32))
    assert bytes(Sparse().decode(payload(encoded), new.spec, base)) == bytes(new.data)


@pytest.mark.parametrize("shape", [(4, 30), (4, 5, 6), (120,), (120, 1)])
def test_given_flattened_as_the_first_release_wrote_it(shape: tuple[int, ...]) -> None:
    """The flattened tensor as one compressed row, beside the tensor's own shape."""
    base = tensor(weights(shape))
    added = np.zeros(shape, np.float32)
    added.reshape(-1)[[3, 50, 119]] = [1, -2, 3]
    row = scipy.sparse.csr_matrix(added.reshape(1, -1))
    new, encoded = encode_given(base, row.data, row.indices, row.indptr, np.array(added.shape))
    assert np.array_equal(new.array(), (base.array().astype(np.float64) + added).astype(np.float32))
    assert encoded.note == "changed=3"
    with pytest.raises(UsageError, match="does not fit a tensor of 120 elements"):
        encode_given(base, row.data, row.indices, row.indptr, (4, 29))


def test_given_integers_and_untouched_nans() -> None:
    base = Tensor.from_array(np.array([[1, 2], [3, 250]], np.uint8))
    new, _ = encode_given(base, np.array([10]), np.array([1]), np.array([0, 0, 1]), (2, 2))
    assert new.array().tolist() == [[1, 2], [3, 4]]
    odd = Tensor.from_array(np.array([[np.nan, -0.0]], np.float32))
    new, _ = encode_given(odd, np.array([1.0, 0.0]), np.array([0, 1]), np.array([0, 2]), (1, 2))
    assert bytes(new.data) == bytes(odd.data)


@pytest.mark.parametrize(
    ("data", "indices", "indptr", "shape", "message"),
    [
        ([1.0], [0], [0, 1], (1, 3), "does not fit"),
        ([1.0], [0], [0, 1], (5,), "does not fit"),
        ([1.0], [4], [0, 1], (1, 4), "outside"),
        ([1.0], [-1], [0, 1], (1, 4), "outside"),
        ([1.0, 2.0], [1, 1], [0, 2], (1, 4), "twice"),
        ([1.0], [0], [0, 2], (1, 4), "rise"),
        ([1.0], [0], [1, 1], (1, 4), "rise"),
        ([1.0], [0.5], [0, 1], (1, 4), "integer indices"),
        ([1.0], [0], [0, 0, 1], (1, 4), "row pointers"),
        ([1.0, 2.0], [0], [0, 1], (1, 4), "2 values for 1"),
        ([np.nan], [0], [0, 1], (1, 4), "NaN"),
    ],
)
def test_given_matrices_that_do_not_fit(
    data: list[float], indices: list[float], indptr: list[int], shape: tuple[int, ...], message: str
) -> None:
    base = tensor(weights((2, 2)))
    with pytest.raises(UsageError, match=message):
        encode_given(base, np.array(data), np.array(indices), np.array(indptr), shape)


def test_given_values_for_a_type_that_cannot_take_them() -> None:
    with pytest.raises(UsageError, match="cannot be added"):
        encode_given(
            random_tensor("u8", (4,), 1), np.array([0.5]), np.array([0]), np.array([0, 1]), (1, 4)
        )
