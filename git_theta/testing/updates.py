"""The contract of updates: exact, deterministic, honest about sizes, and safe against damaged
payloads.
"""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from git_theta.core import dtypes
from git_theta.core.contracts import Change, Encoded, FromParts, Level, MeantFor, Update
from git_theta.core.tensors import Buffer, Spec, Tensor
from git_theta.errors import PayloadError
from git_theta.testing.plugin_names import check_name

if TYPE_CHECKING:
    import numpy as np

_NOTE = re.compile(r"[A-Za-z0-9=.,%_-]*\Z")
_SLACK = 64 << 20  # bytes a decoder may need whatever it decodes
_FACTOR = 16  # and how many times the bytes it was given or has to return


@dataclass(frozen=True, slots=True)
class Case:
    """A tensor to store, the value it is based on (or None), what the pair is like, and the levels
    to try.
    """

    what: str
    tensor: Tensor
    base: Tensor | None
    levels: tuple[Level, ...] = get_args(Level)


def check_update(
    update: Update,
    cases: Iterable[tuple[Tensor, Tensor | None]] = (),
    seed: int = 0,
    mutations: int = 30,
    parts: Iterable[tuple[Tensor, Mapping[str, np.ndarray]]] = (),
) -> None:
    """Prove as far as trying can that ``update`` keeps the
    :class:`~git_theta.core.contracts.Update` contract.

    It tries every element type with random bit patterns (NaN payloads, -0.0, denormals,
    infinities), with bases that are equal, close, unrelated, of other shapes and types, or absent,
    and with pairs that differ in typical ways; ``cases`` adds pairs (tensor, base) that this update
    is made for. Checked are: exactness, the same bytes again and from several threads, arguments
    left alone, honest sizes and notes, and that a decoder given truncated, extended or altered
    payloads (``mutations`` for a case) raises :class:`~git_theta.errors.PayloadError` or returns as
    many bytes as the tensor has, within bounded memory. ``parts`` are pairs (base, parts) for an
    update that is built from parts: its payload must decode to the value that it returns.

    :class:`AssertionError` names the first thing that is wrong; also when the update declined every
    single pair.
    """
    check_name(update.name)
    assert isinstance(update.needs_base, bool), "needs_base must be True or False"
    if isinstance(update, MeantFor):
        assert update.meant_for in get_args(Change), f"meant_for must be one of {get_args(Change)}"
    _check_parts(update, list(parts))
    given = [
        Case(f"given pair {number}", tensor, base) for number, (tensor, base) in enumerate(cases)
    ]
    stored: dict[tuple[str, str], tuple[Case, bytes]] = {}  # of each kind the largest
    for case in (*given, *_cases(seed)):
        if update.needs_base and case.base is None:
            declined = update.encode(case.tensor, None, "default")
            assert declined is None, (
                f"{_at(update, case)}: needs_base is set, so encode must decline without one"
            )
            continue
        for level in case.levels:
            payload = _check_exact(update, case, level)
            key = case.what, str(level)
            if payload is not None and (
                key not in stored or stored[key][0].tensor.spec.nbytes < case.tensor.spec.nbytes
            ):
                stored[key] = case, payload
    assert stored, f"{update.name} declined every pair; give it some that it is made for (cases=…)"
    _check_threads(update, list(stored.values()))
    for case, payload in stored.values():
        _check_hostile(update, case, payload, seed, mutations)
    _check_memory(update, *max(stored.values(), key=lambda pair: pair[0].tensor.spec.nbytes), seed)


def _check_parts(update: Update, given: Sequence[tuple[Tensor, Mapping[str, np.ndarray]]]) -> None:
    if not isinstance(update, FromParts):
        assert not given, f"{update.name} is not built from parts"
        return
    names = update.parts
    words = all(isinstance(name, str) and name and "/" not in name for name in names)
    assert isinstance(names, tuple), "parts must be a tuple"
    assert names, "parts must name at least one"
    assert words, "parts must be words without '/'"
    for number, (base, arrays) in enumerate(given):
        at = f"{update.name}, given parts {number}"
        (new, encoded), (again, _) = (update.from_parts(base, arrays) for _ in range(2))
        assert new.spec == base.spec, f"{at}: {new.spec}, expected {base.spec}"
        assert _bytes(again.data) == _bytes(new.data), f"{at}: another value the second time"
        if encoded is not None:
            payload = memoryview(_joined(encoded, at))
            decoded = update.decode(payload, new.spec, base if update.needs_base else None)
            assert _bytes(decoded) == _bytes(new.data), f"{at}: does not decode to its value"


def _at(update: Update, case: Case, level: str = "") -> str:
    base = "no base" if case.base is None else f"base {case.base.spec}"
    return (
        f"{update.name}, {case.what}, {case.tensor.spec},"
        f" {base}{', level ' + level if level else ''}"
    )


def _check_exact(update: Update, case: Case, level: Level) -> bytes | None:
    at = _at(update, case, level)
    before = bytes(case.tensor.data), None if case.base is None else bytes(case.base.data)
    encoded = update.encode(case.tensor, case.base, level)
    if encoded is None:
        return None
    payload = _joined(encoded, at)
    again = update.encode(
        _moved(case.tensor), None if case.base is None else _moved(case.base), level
    )
    assert again is not None, f"{at}: declined the second time"
    assert _joined(again, at) == payload, f"{at}: other bytes the second time"
    assert again.note == encoded.note, f"{at}: another note the second time"
    decoded = update.decode(memoryview(payload), case.tensor.spec, case.base)
    assert _bytes(decoded) == before[0], f"{at}: does not decode to what was encoded"
    after = bytes(case.tensor.data), None if case.base is None else bytes(case.base.data)
    assert after == before, f"{at}: the arguments were changed"
    return payload


def _joined(encoded: Encoded, at: str) -> bytes:
    assert _NOTE.match(encoded.note), (
        f"{at}: the note {encoded.note!r} must match [A-Za-z0-9=.,%_-]*"
    )
    payload = b"".join(_bytes(chunk) for chunk in encoded.chunks)
    assert len(payload) == encoded.size, (
        f"{at}: size says {encoded.size}, the chunks hold {len(payload)} bytes"
    )
    return payload


def _bytes(data: Buffer) -> bytes:
    return bytes(memoryview(data).cast("B"))


def _moved(tensor: Tensor) -> Tensor:
    """The same tensor elsewhere in memory: read-only and at an odd address, as in a mapped file."""
    data = memoryview(b"\0" + _bytes(tensor.data))[1:]
    return Tensor(tensor.dtype, tensor.shape, data)


def _check_threads(update: Update, stored: Sequence[tuple[Case, bytes]]) -> None:
    def work(number: int) -> Case | None:
        case, payload = stored[number % len(stored)]
        encoded = update.encode(case.tensor, case.base, "default")
        for one in (payload, None if encoded is None else b"".join(encoded.chunks)):
            if one is not None and _bytes(
                update.decode(memoryview(one), case.tensor.spec, case.base)
            ) != _bytes(case.tensor.data):
                return case
        return None

    with ThreadPoolExecutor(4) as pool:
        for wrong in pool.map(work, (number for number in range(len(stored)) for _ in range(4))):
            assert wrong is None, f"{_at(update, wrong)}: another result in several threads at once"


def _check_hostile(update: Update, case: Case, payload: bytes, seed: int, mutations: int) -> None:
    at, spec = _at(update, case), case.tensor.spec
    for altered in _altered(payload, seed, mutations):
        _decode_hostile(update, altered, spec, case.base, at)
    more = dtypes.get(spec.dtype).block_elements
    longer = Spec(spec.dtype, (*spec.shape[:-1], spec.shape[-1] + more) if spec.shape else (2,))
    _decode_hostile(update, payload, longer, case.base, f"{at}, decoded as {longer}")
    if update.needs_base:
        _decode_hostile(update, payload, spec, None, f"{at}, decoded without base", must_fail=True)
        for other in (
            Tensor("u8", (3,), b"abc"),
            Tensor("f64", (1, 2), bytes(16)),
            Tensor("bool", (0,), b""),
        ):
            _decode_hostile(update, payload, spec, other, f"{at}, decoded with base {other.spec}")


def _altered(payload: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Truncations, extensions, and ``count`` random changes, most of them near the start, where
    sizes and counts are.
    """
    import numpy as np

    yield b""
    for length in sorted(
        {0, 1, 2, 5, len(payload) // 2, len(payload) - 1} & set(range(len(payload)))
    ):
        yield payload[:length]
    yield payload + b"\0"
    yield payload + payload
    draws = np.random.default_rng([seed, len(payload)]).integers(0, 1 << 31, (count, 3, 3)).tolist()
    for number, draw in enumerate(draws):
        altered = bytearray(payload or b"\0")
        reach = len(altered) if number % 3 == 0 else min(len(altered), 48)
        for place, which, value in draw[: 1 + number % 3]:
            altered[place % reach] = (0, 1, 0x7F, 0x80, 0xFF, value & 0xFF)[which % 6]
        yield bytes(altered)
        yield b"".join(value.to_bytes(4, "little") for changes in draw for value in changes)[
            : 1 + number % 36
        ]


def _decode_hostile(
    update: Update,
    payload: bytes,
    spec: Spec,
    base: Tensor | None,
    at: str,
    must_fail: bool = False,
) -> None:
    try:
        decoded = update.decode(memoryview(payload), spec, base)
    except PayloadError:
        return
    except Exception as error:
        kind = type(error).__name__
        raise AssertionError(
            f"{at}: a bad payload ({payload[:40].hex()}…) raised {kind} instead of PayloadError:"
            f" {error}"
        ) from error
    assert not must_fail, f"{at}: decoded instead of raising PayloadError"
    size = memoryview(decoded).nbytes
    assert size == spec.nbytes, (
        f"{at}: a bad payload ({payload[:40].hex()}…) gave {size} bytes instead of {spec.nbytes}"
    )


def _check_memory(update: Update, case: Case, payload: bytes, seed: int) -> None:
    at, spec = _at(update, case), case.tensor.spec
    known = spec.nbytes + len(payload) + (0 if case.base is None else case.base.spec.nbytes)
    tracemalloc.start()
    try:
        for altered in _altered(payload, seed + 1, 20):
            tracemalloc.reset_peak()
            start = tracemalloc.get_traced_memory()[0]
            _decode_hostile(update, altered, spec, case.base, at)
            taken = tracemalloc.get_traced_memory()[1] - start
            assert taken <= _SLACK + _FACTOR * known, (
                f"{at}: decoding a bad payload took {taken} bytes of memory"
            )
    finally:
        tracemalloc.stop()


def _cases(seed: int) -> Iterator[Case]:
    for number, name in enumerate(dtypes.names()):
        block = dtypes.get(name).block_elements
        for usual in ((), (0,), (1,), (7,), (3, 5), (2, 3, 4), (40, 33)):
            shape: tuple[int, ...] = usual
            if block > 1:
                shape = (*usual[:-1], min(2, usual[-1]) * block) if usual else (block,)
            for place, case in enumerate(_random_cases(name, shape, seed * 1000 + number)):
                yield replace(case, levels=(get_args(Level)[(number + place + len(shape)) % 3],))
    yield from _typical_cases(seed)


def _random_cases(dtype: str, shape: tuple[int, ...], seed: int) -> Iterator[Case]:
    """Random bit patterns, so NaNs of all kinds, denormals and the rest; and what a base may be to
    them.
    """
    import numpy as np

    random = np.random.default_rng([seed, len(shape), *shape])
    size = dtypes.nbytes(dtype, shape)
    data = random.integers(0, 256, size, dtype=np.uint8).tobytes()
    tensor = Tensor(dtype, shape, data)
    yield Case("random bits", tensor, None)
    yield Case(
        "an unrelated base",
        tensor,
        Tensor(dtype, shape, random.integers(0, 256, size, dtype=np.uint8).tobytes()),
    )
    yield Case("an equal base", tensor, tensor)
    near = bytearray(data)
    for place in random.integers(0, max(1, size), size // 20 + 1) if size else ():
        near[int(place)] ^= int(random.integers(1, 256))
    yield Case("a base with some bytes changed", tensor, Tensor(dtype, shape, bytes(near)))
    zeros = Tensor(dtype, shape, bytes(size))
    yield Case("a base of zeros", tensor, zeros)
    yield Case("zeros", zeros, tensor)
    if len(shape) == 2:
        row = size // shape[0]
        yield Case("rows removed", Tensor(dtype, (shape[0] - 1, shape[1]), data[row:]), tensor)
        yield Case(
            "rows added", tensor, Tensor(dtype, (shape[0] - 1, shape[1]), data[: size - row])
        )
        yield Case("a base of other columns", tensor, Tensor(dtype, (shape[0], 0), b""))
    yield Case(
        "a base of another type",
        tensor,
        Tensor("f32", (3, 5), random.integers(0, 256, 60, dtype=np.uint8).tobytes()),
    )


def _typical_cases(seed: int) -> Iterator[Case]:
    """What happens to models: trained a little, scaled, some elements or rows changed, a low-rank
    product merged; and text edited.
    """
    import numpy as np

    random = np.random.default_rng([seed, 99])
    weights = random.standard_normal((160, 144)).astype(np.float32) * np.float32(0.05)
    product = (random.standard_normal((160, 2)) @ random.standard_normal((2, 144)) * 0.01).astype(
        np.float32
    )
    sparse = weights.copy()
    sparse.reshape(-1)[random.integers(0, weights.size, 90)] += np.float32(0.01)
    changes = {
        "trained a little": (
            weights + random.standard_normal(weights.shape).astype(np.float32) * np.float32(1e-4)
        ),
        "few elements changed": sparse,
        "rows scaled": weights * (1 + random.standard_normal((160, 1)) * 0.1).astype(np.float32),
        "columns scaled": weights * (1 + random.standard_normal((1, 144)) * 0.1).astype(np.float32),
        "decayed": weights * np.float32(0.999),
        "a product of rank 2 added": weights + product,
        "rows removed inside": np.delete(weights, [17, 18, 90], axis=0),
        "rows put in": np.insert(weights, 40, 1.0, axis=0),
    }
    for dtype in ("f16", "bf16", "f32", "f64"):
        kind = dtypes.numpy_dtype(dtype)
        base = _tensor(weights.astype(kind))
        for what, changed in changes.items():
            yield Case(what, _tensor(changed.astype(kind)), base)
            yield Case(f"{what}, based on f32", _tensor(changed.astype(kind)), _tensor(weights))
    text = b'{"epoch": 12, "loss": 0.25, "names": ["a", "b"]}' * 40
    edited = text[:500] + b"edited" + text[620:]
    yield Case(
        "text edited", Tensor("u8", (len(edited),), edited), Tensor("u8", (len(text),), text)
    )


def _tensor(array: np.ndarray) -> Tensor:
    return Tensor.from_array(array)
