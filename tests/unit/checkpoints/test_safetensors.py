from __future__ import annotations

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import example, given
from hypothesis import strategies as st

from git_theta.checkpoints.safetensors import (
    DTYPES,
    HEADER_LIMIT,
    SafetensorsFormat,
    _library_types,
    library_writes,
)
from git_theta.core import dtypes
from git_theta.core.contracts import BuildsFiles, CheckpointFormat
from git_theta.core.layout import Layout
from git_theta.core.source import BytesSource
from git_theta.core.tensors import Tensor
from git_theta.errors import FormatError

FORMAT = SafetensorsFormat()
LIBRARY_TYPES = _library_types()  # what the installed library writes from arrays
ONE = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def file(header: str | bytes, data: bytes = bytes(4)) -> bytes:
    raw = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    return struct.pack("<Q", len(raw)) + raw + data


def scan(data: bytes) -> Layout:
    return FORMAT.scan(BytesSource(data))


def reference(data: bytes) -> dict[str, tuple[tuple[int, ...], bytes]] | None:
    try:
        return {
            name: (tuple(info["shape"]), bytes(info["data"]))
            for name, info in safetensors.deserialize(data)
        }
    except safetensors.SafetensorError:
        return None


def ours(data: bytes) -> dict[str, tuple[tuple[int, ...], bytes]] | None:
    try:
        layout = scan(data)
    except FormatError:
        return None
    return {
        extent.name: (extent.shape, data[extent.offset : extent.end]) for extent in layout.extents
    }


def entry(
    dtype: str = '"F32"', shape: str = "[1]", offsets: str = "[0,4]", name: str = '"a"'
) -> bytes:
    return file(f'{{{name}:{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}')


ACCEPTED = {
    "plain": file(f'{{"a":{ONE}}}'),
    "space around": file(f' \n\t\r{{ "a" : {ONE} }} \t\r\n'),
    "space inside": file(
        '{"a": {"dtype" : "F32" , "shape" : [ 1 , 1 ] , "data_offsets" : [ 0 , 4 ] } }'
    ),
    "metadata only": file('{"__metadata__":{"format":"pt"}}', b""),
    "nothing": file("{}", b""),
    "metadata null": file(f'{{"__metadata__":null,"a":{ONE}}}'),
    "metadata empty": file(f'{{"__metadata__":{{ }},"a":{ONE}}}'),
    "metadata last": file(f'{{"a":{ONE},"__metadata__":{{"x":"y","z":""}}}}'),
    "metadata repeats": file(f'{{"__metadata__":{{"x":"y","x":"z"}},"a":{ONE}}}'),
    "metadata escaped": file(f'{{"__meta\\u0064ata__":{{"x":"y\\n"}},"a":{ONE}}}'),
    "empty name": entry(name='""'),
    "NUL in a name": entry(name='"a\\u0000b"'),
    "path as a name": entry(name='"../../etc/x"'),
    "pair of surrogates": entry(name='"a\\ud83d\\ude00"'),
    "other alphabets": entry(name='"aé漢"'),
    "name like JSON": entry(name='"{\\"dtype\\":[}"'),
    "scalar": entry(shape="[]"),
    "order of fields": file('{"a":{"shape":[1],"data_offsets":[0,4],"dtype":"F32"}}'),
    "further fields": file(
        '{"a":{"x":[{"y":1e3}],"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "escaped fields": file(
        '{"a":{"dtyp\\u0065":"F\\u0033\\u0032","shape":[1],"data_offsets":[0,4]}}'
    ),
    "entry as a list": file('{"a":["F32",[1],[0,4]]}'),
    "type as a map": entry(dtype='{"F32":null}'),
    "deep, but not too": file(
        '{"a":{"x":%s,"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' % ("[" * 125 + "]" * 125)
    ),
    "zero-size first": file(
        f'{{"b":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}},"a":{ONE}}}'
    ),
    "zero-size last": file(f'{{"b":{{"dtype":"F32","shape":[0],"data_offsets":[4,4]}},"a":{ONE}}}'),
    "zero before an overflow": file(
        f'{{"b":{{"dtype":"F32","shape":[0,4611686018427387904,16],"data_offsets":[0,0]}},"a":{ONE}}}'
    ),
    "other order": file(
        f'{{"b":{{"dtype":"U8","shape":[4],"data_offsets":[4,8]}},"a":{ONE}}}', bytes(8)
    ),
    "packed": entry(dtype='"F4"', shape="[8]"),
}

REFUSED = {
    "nothing at all": b"",
    "seven bytes": b"\2\0\0\0\0\0\0",
    "header length 0": file("", b""),
    "header over the limit": struct.pack("<Q", HEADER_LIMIT + 1) + b"{}",
    "header of 2^63": struct.pack("<Q", 2**63) + b"{}",
    "header of 2^64-1": struct.pack("<Q", 2**64 - 1) + b"{}",
    "header beyond the file": struct.pack("<Q", 3) + b"{}",
    "hole": file(
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}',
        bytes(3),
    ),
    "overlap": file(
        '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
        bytes(3),
    ),
    "same bytes twice": file(f'{{"a":{ONE},"b":{ONE}}}'),
    "first offset not 0": file('{"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}}'),
    "trailing byte": file(f'{{"a":{ONE}}}', bytes(5)),
    "missing byte": file(f'{{"a":{ONE}}}', bytes(3)),
    "missing tensor": file("{}", b"x"),
    "end before begin": file('{"a":{"dtype":"U8","shape":[0],"data_offsets":[4,0]}}'),
    "size is not shape times type": entry(shape="[2]"),
    "packed, not whole bytes": entry(dtype='"F4"', shape="[7]"),
    "unknown type": entry(dtype='"F99"'),
    "type in lower case": entry(dtype='"f32"'),
    "type is a number": entry(dtype="1"),
    "type is null": entry(dtype="null"),
    "shape overflows": file(
        f'{{"b":{{"dtype":"F32","shape":[4611686018427387904,4,0],"data_offsets":[0,0]}},"a":{ONE}}}'
    ),
    "dimension of 2^64": file(
        f'{{"b":{{"dtype":"F32","shape":[0,18446744073709551616],"data_offsets":[0,0]}},"a":{ONE}}}'
    ),
    "dimension of 5,000 digits": entry(shape=f"[{'9' * 5000}]"),
    "negative dimension": entry(shape="[-1,-1]"),
    "minus zero": entry(offsets="[-0,4]"),
    "float dimension": entry(shape="[1.0]"),
    "exponent": entry(shape="[1e0]"),
    "bool dimension": entry(shape="[true]"),
    "leading zero": entry(shape="[01]"),
    "shape is null": entry(shape="null"),
    "three offsets": entry(offsets="[0,4,4]"),
    "one offset": entry(offsets="[0]"),
    "no offsets": file('{"a":{"dtype":"F32","shape":[1]}}'),
    "entry is null": file(f'{{"b":null,"a":{ONE}}}'),
    "entry is a string": file(f'{{"b":"x","a":{ONE}}}'),
    "field repeated": file('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
    "metadata is a list": file(f'{{"__metadata__":[],"a":{ONE}}}'),
    "metadata is a tensor": file(f'{{"__metadata__":{ONE}}}'),
    "metadata holds a number": file(f'{{"__metadata__":{{"x":1}},"a":{ONE}}}'),
    "metadata twice": file(f'{{"__metadata__":{{}},"__metadata__":{{}},"a":{ONE}}}'),
    "metadata does not end": file('{"__metadata__":{"x":"y"', b""),
    "NUL behind the header": file(f'{{"a":{ONE}}}\0'),
    "junk behind the header": file(f'{{"a":{ONE}}}x'),
    "form feed behind the header": file(f'{{"a":{ONE}}}\f'),
    "byte order mark": file("\ufeff{}", b""),
    "not UTF-8": file(b'{"\xff":1}'),
    "overlong UTF-8": file(b'{"\xc0\x80":' + ONE.encode() + b"}"),
    "surrogate in UTF-8": entry(name='"\ud800"'),
    "half a surrogate pair": entry(name='"a\\ud800"'),
    "half a surrogate pair in metadata": file(f'{{"__metadata__":{{"x":"\\udc00"}},"a":{ONE}}}'),
    "half a surrogate pair in a further field": file(
        '{"a":{"x":"\\ud800","dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "control character": entry(name='"a\x01"'),
    "bad escape": entry(name='"a\\x"'),
    "NaN": file('{"a":{"x":NaN,"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
    "float out of range": file('{"a":{"x":1e999,"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
    "too deep": file(
        '{"a":{"x":%s,"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' % ("[" * 126 + "]" * 126)
    ),
    "depth bomb": file('{"a":' + "[" * 100_000),
    "trailing comma": file(f'{{"a":{ONE},}}'),
    "no comma": file(f'{{"a":{ONE} "b":{ONE}}}'),
    "a list": file(f"[{ONE}]"),
    "a comment": file(f'{{/**/"a":{ONE}}}'),
}

STRICTER = {
    "name repeated": file(f'{{"a":{ONE},"a":{ONE}}}'),
    "name repeated, once escaped": file(
        f'{{"a":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}},"\\u0061":{ONE}}}'
    ),
    "further field repeated": file(
        '{"a":{"x":1,"x":2,"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "a huge odd entry": file(
        '{"a":{"x":"%s","dtype":"F32","shape":[1],"data_offsets":[0,4]}}' % ("x" * 70_000)
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepts_what_the_reference_accepts(case: str) -> None:
    expected = reference(ACCEPTED[case])
    assert expected is not None
    assert ours(ACCEPTED[case]) == expected


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_what_the_reference_refuses(case: str) -> None:
    assert reference(REFUSED[case]) is None
    with pytest.raises(FormatError) as caught:
        scan(REFUSED[case])
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("case", STRICTER)
def test_is_stricter_than_the_reference_on_purpose(case: str) -> None:
    assert reference(STRICTER[case]) is not None
    assert ours(STRICTER[case]) is None


@pytest.mark.parametrize(
    ("shape", "kept"),
    [
        ([2**63, 0], (0,)),
        ([2**64 - 1, 0], (0,)),
        ([2, 0] + [1] * 63, (0,)),
        ([0, 2**62, 2**62], (0, 2**62, 2**62)),
        ([2, 0] + [1] * 62, (2, 0, *[1] * 62)),
    ],
)
def test_only_a_shape_no_manifest_can_hold_is_given_flat(
    shape: list[int], kept: tuple[int, ...]
) -> None:
    data = file(json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}), b"")
    assert reference(data) is not None
    assert scan(data).extents[0].shape == kept


def test_extents_stand_in_the_order_of_their_bytes() -> None:
    data = file(
        '{"c":{"dtype":"U8","shape":[0],"data_offsets":[3,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},'
        '"z":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"abc",
    )
    layout = scan(data)
    assert [extent.name for extent in layout.extents] == ["a", "z", "b", "c"]
    assert [data[extent.offset : extent.end] for extent in layout.extents] == [
        b"a",
        b"",
        b"bc",
        b"",
    ]
    assert layout.format == "safetensors"
    assert layout.checksums == ()


def test_every_type_of_the_reference_is_known() -> None:
    for name, own in DTYPES.items():
        known = dtypes.get(own)
        data = bytes(known.block_bytes * 4)
        raw = file(
            json.dumps(
                {
                    "a": {
                        "dtype": name,
                        "shape": [known.block_elements * 4],
                        "data_offsets": [0, len(data)],
                    }
                }
            ),
            data,
        )
        assert reference(raw) is not None, name
        assert scan(raw).extents[0].dtype == own


def test_sniffs_by_length_and_brace() -> None:
    assert FORMAT.sniff(ACCEPTED["plain"][:4096])
    assert FORMAT.sniff(ACCEPTED["space around"])
    assert FORMAT.sniff(file("{" + " " * 10_000)[:4096])
    for head in (
        b"",
        b"{",
        b"\2\0\0\0\0\0\0\0",
        b"int f() {\n  return 0;\n}",
        b"PK\3\4" + bytes(30),
        file("[]"),
        file(""),
    ):
        assert not FORMAT.sniff(head)


def test_is_a_format_that_builds() -> None:
    assert isinstance(FORMAT, CheckpointFormat)
    assert isinstance(FORMAT, BuildsFiles)


# -- building --------------------------------------------------------------------------------------

_letters = st.characters(exclude_categories=["Cs"])
_names = st.text(_letters, max_size=12).filter(lambda name: name != "__metadata__")


@st.composite
def _tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    tensors = {}
    for name in draw(st.lists(_names, unique=True, max_size=6)):
        dtype = draw(st.sampled_from(sorted(DTYPES.values())))
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3))) + (
            (dtypes.get(dtype).block_elements,) if dtype[0] == "f" else ()
        )
        size = dtypes.nbytes(dtype, shape)
        tensors[name] = Tensor(dtype, shape, draw(st.binary(min_size=size, max_size=size)))
    return tensors


@given(_tensors())
def test_what_is_built_is_read_back(tensors: dict[str, Tensor]) -> None:
    data = bytes(FORMAT.build(tensors, None))
    assert (
        ours(data)
        == reference(data)
        == {name: (tensor.shape, tensor.data) for name, tensor in tensors.items()}
    )
    layout = scan(data)
    packed = any(dtypes.get(tensor.dtype).kind == "q" for tensor in tensors.values())
    assert {extent.name: extent.dtype for extent in layout.extents} == {
        name: tensor.dtype for name, tensor in tensors.items()
    }
    for extent in layout.extents:
        known = dtypes.get(extent.dtype)
        assert known.kind == "q" or extent.offset % known.block_bytes == 0 or packed
    assert bytes(FORMAT.build(tensors, BytesSource(data))) == data


def arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.array() for name, tensor in tensors.items()}


@given(_tensors(), st.dictionaries(_names, st.text(_letters, max_size=9), max_size=1))
def test_our_bytes_are_those_of_the_library(
    tensors: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.dtype in LIBRARY_TYPES}
    written = safetensors.numpy.save(arrays(tensors), metadata or None)
    like = BytesSource(safetensors.numpy.save({}, metadata)) if metadata else None
    assert b"".join(FORMAT.pieces(tensors, like)) == written
    assert bytes(FORMAT.build(tensors, like)) == written
    assert ours(written) == {name: (tensor.shape, tensor.data) for name, tensor in tensors.items()}


def test_the_library_writes_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    save = safetensors.numpy.save

    def counted(arrays: dict[str, np.ndarray]) -> bytes:
        calls.append(1)
        return save(arrays)

    monkeypatch.setattr(safetensors.numpy, "save", counted)
    float_, packed = Tensor("bf16", (2,), b"abcd"), Tensor("f4_e2m1", (8,), b"abcd")
    huge = Tensor("f32", (0, 2**62, 2**62), b"")
    assert library_writes({"a": float_}, {"format": "pt"})
    assert bytes(FORMAT.build({"a": float_}, None)) == save({"a": float_.array()})
    assert calls
    calls.clear()
    for name, tensor in {"packed": packed, "huge": huge}.items():
        assert not library_writes({"a": float_, name: tensor}, {})
        built = bytes(FORMAT.build({"a": float_, name: tensor}, None))
        assert reference(built) == ours(built)
        assert ours(built) is not None
    assert not calls


def test_the_order_of_keys_that_the_library_writes_is_not_relied_on() -> None:
    assert not library_writes({}, {"a": "b", "c": "d"})
    metadata = {"format": "pt", **{f"tied.{number}": "w" for number in range(30)}}
    like = file(json.dumps({"__metadata__": metadata}), b"")
    built = {bytes(FORMAT.build({}, BytesSource(like))) for _ in range(3)}
    assert len(built) == 1
    assert json.loads(built.pop()[8:])["__metadata__"] == metadata


def test_the_library_covers_the_types_that_it_must() -> None:
    packed = {own for own in DTYPES.values() if dtypes.get(own).kind == "q"}
    assert set(DTYPES.values()) - packed >= LIBRARY_TYPES
    newer = {"c64", "f8_e8m0fnu", "f8_e4m3fnuz", "f8_e5m2fnuz"}  # than 0.4.3
    assert set(DTYPES.values()) - packed - newer <= LIBRARY_TYPES


def test_reads_the_packed_type_that_the_library_writes() -> None:
    if not hasattr(safetensors, "TensorSpec"):
        pytest.skip("this safetensors cannot write F4 without torch")
    data = np.arange(12, dtype=np.uint8)
    spec = safetensors.TensorSpec(
        dtype="float4_e2m1fn_x2", shape=(3, 4), data_ptr=data.ctypes.data, data_len=12
    )
    written = safetensors.serialize({"a": spec})
    layout = scan(written)
    assert [(extent.dtype, extent.shape) for extent in layout.extents] == [("f4_e2m1", (3, 8))]
    assert bytes(FORMAT.build({"a": Tensor("f4_e2m1", (3, 8), data.tobytes())}, None)) == written


def test_building_keeps_metadata() -> None:
    arrays = {"b": np.arange(4, dtype="f4"), "a": np.arange(2, dtype="i8")}
    metadata = '{"y" : "\\u6f22", "x":"a \\"b\\"\\n"}'
    like = file(f'{{"__metadata__":{metadata}}}', b"")
    data = bytes(
        FORMAT.build(
            {"b": Tensor.from_array(arrays["b"]), "n": Tensor.from_array(arrays["a"])},
            BytesSource(like),
        )
    )
    assert metadata.encode() in data
    np.testing.assert_array_equal(safetensors.numpy.load(data)["n"], arrays["a"])


def test_the_order_is_the_librarys_whatever_is_given() -> None:
    tensors = {
        "u": Tensor("u8", (3,), b"abc"),
        "g": Tensor("f32", (1,), b"1234"),
        "f": Tensor("f32", (1,), b"1234"),
        "d": Tensor("f64", (1,), b"12345678"),
    }
    for order in (tensors, dict(reversed(tensors.items()))):
        built = bytes(FORMAT.build(order, None))
        assert [extent.name for extent in scan(built).extents] == ["d", "f", "g", "u"]


@pytest.mark.parametrize(
    ("name", "dtype"), [("__metadata__", "u8"), ("a\ud800", "u8"), ("a", "c128"), ("a", "q4_0")]
)
def test_building_refuses_what_the_format_cannot_hold(name: str, dtype: str) -> None:
    known = dtypes.get(dtype)
    with pytest.raises(FormatError):
        FORMAT.build({name: Tensor(dtype, (known.block_elements,), bytes(known.block_bytes))}, None)


# -- hostile input ---------------------------------------------------------------------------------

_ARRAYS = {"w": np.ones((2, 3), "f4"), "b": np.zeros((3,), "f2"), "n": np.zeros((0, 2), "i8")}
_SEED = safetensors.numpy.save(_ARRAYS, {"format": "np"})
_SNIPPETS = [
    *(bytes([code]) for code in b'{}[],:"\\09-e. \0\xff'),
    b"null",
    b'"a":',
    b"__metadata__",
]


@st.composite
def _mutants(draw: st.DrawFn) -> bytes:
    data = bytearray(_SEED)
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(["set", "insert", "delete", "cut", "copy"]))
        if change == "set" and where < len(data):
            data[where] = draw(st.integers(0, 255))
        elif change == "insert":
            data[where:where] = draw(st.sampled_from(_SNIPPETS))
        elif change == "delete":
            del data[where : where + draw(st.integers(1, 20))]
        elif change == "cut":
            del data[where:]
        else:
            start = draw(st.integers(0, len(data)))
            data[where:where] = data[start : start + draw(st.integers(1, 40))]
    # Repair the header's length, so that the JSON reader is reached
    if draw(st.booleans()) and len(data) > 8:
        end = data.rfind(b"}") + 1
        data[:8] = struct.pack("<Q", max(end - 8, 0))
    return bytes(data)


@given(_mutants())
@example(_SEED)
def test_mutants_are_judged_as_the_reference_does(data: bytes) -> None:
    mine, theirs = ours(data), reference(data)
    if theirs is None:
        assert mine is None
    elif mine is not None:
        assert mine == theirs
    else:  # only a repeated name is refused although the reference takes it
        assert repeated_key(data)


def repeated_key(data: bytes) -> bool:
    found = False

    def table(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal found
        found = found or len(dict(pairs)) != len(pairs)
        return dict(pairs)

    json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")], object_pairs_hook=table)
    return found


def test_a_hostile_header_costs_little_memory() -> None:
    import tracemalloc

    bombs = {'{"a":[': "[],", '{"a":{"x":': "{}", '{"b":[': "257,", '{"__metadata__":{': '"":"",'}
    for start, again in bombs.items():
        data = file(start + again * 60_000)
        tracemalloc.start()
        try:
            with pytest.raises(FormatError):
                scan(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 8 * len(data) + (2 << 20)


def test_scanning_needs_no_numpy() -> None:
    code = (
        "import sys; from git_theta.checkpoints.safetensors import SafetensorsFormat; from"
        " git_theta.core.source import"
        f" BytesSource;SafetensorsFormat().scan(BytesSource({ACCEPTED['plain']!r}));"
        " sys.exit('numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
