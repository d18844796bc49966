"""The contract suite, and bundles of files that are checkpoints."""

from __future__ import annotations

import json

import numpy as np
import pytest
from git_theta_model_bundle import MAGIC, ModelBundle

from git_theta.plugin import BuildsPieces, BytesSource, FormatError, Tensor
from git_theta.testing import check_checkpoint_format

FORMAT = ModelBundle()
WEIGHT = Tensor.from_array(np.arange(12, dtype=np.float32).reshape(3, 4))
BIAS = Tensor.from_array(np.ones(4, np.float16))


def bundle(*contents: tuple[str, Tensor | bytes]) -> bytes:
    """A file of tensors and files."""
    rows: list[dict[str, object]] = []
    for name, content in contents:
        if isinstance(content, Tensor):
            about = {"dtype": content.dtype, "shape": list(content.shape)}
            rows.append({"name": name, "size": content.spec.nbytes, **about})
        else:
            rows.append({"name": name, "size": len(content)})
    index = json.dumps(rows).encode()
    data = [c.data if isinstance(c, Tensor) else c for _, c in contents]
    return b"".join([MAGIC, len(index).to_bytes(4, "little"), index, *data])


def npy(array: np.ndarray) -> bytes:
    """An .npy file of format version 1."""
    header = repr({"descr": array.dtype.str, "fortran_order": False, "shape": array.shape})
    padded = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + array.tobytes()


NESTED = bundle(
    ("weight", WEIGHT),
    ("mean.npy", npy(np.arange(3.0))),
    ("inner.bundle", bundle(("bias", BIAS), ("scale.npy", npy(np.arange(2.0))))),
    ("config.json", b'{"layers": 1}'),
)


def test_the_format_keeps_its_contract() -> None:
    tensors = {"weight": WEIGHT, "b/bias": BIAS}
    files = {"tensors": bytes(FORMAT.build(tensors, None)), "nothing": bundle(), "nested": NESTED}
    check_checkpoint_format(FORMAT, files, {"tensors": tensors, "nothing": {}})


def test_files_in_it_are_cut_inside() -> None:
    names = {e.name: e.dtype for e in FORMAT.scan(BytesSource(NESTED)).extents}
    # Alone, it knows no format of a plugin: a bundle in a bundle is plain bytes then
    assert names.pop("inner.bundle") == "u8"
    assert names.pop("config.json") == "u8"
    assert names.pop("weight") == "f32"
    assert all(name.startswith("mean.npy/") for name in names)
    assert list(names.values()) == ["f64"]


def test_a_new_file_is_not_put_together() -> None:
    assert isinstance(FORMAT, BuildsPieces)
    pieces = FORMAT.pieces({"weight": WEIGHT, "bias": BIAS}, None)
    assert [piece is data for piece, data in zip(pieces[1:], (WEIGHT.data, BIAS.data), strict=True)]
    assert b"".join(pieces) == bundle(("weight", WEIGHT), ("bias", BIAS))


def test_a_file_stays_a_file() -> None:
    text = Tensor("u8", (2,), b"{}")
    built = FORMAT.build({"config.json": text, "new": text}, BytesSource(NESTED))
    assert built == bundle(("config.json", b"{}"), ("new", text))


@pytest.mark.parametrize(
    "data",
    [
        NESTED[:-1],
        NESTED + b"x",
        NESTED.replace(b'"f32"', b'"f33"'),
        NESTED.replace(b"[3, 4]", b"[3, 5]"),
        NESTED.replace(b'"size": 48', b'"size": -1'),
        MAGIC + b"\xff\xff\xff\xff[]",
        MAGIC + b"\x02\0\0\0{}",
        MAGIC,
    ],
)
def test_what_is_not_as_the_index_says_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        FORMAT.scan(BytesSource(data))
