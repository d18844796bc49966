"""The contract suites find what breaks a contract, and every built-in passes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from git_theta.checkpoints.safetensors import SafetensorsFormat
from git_theta.core.contracts import MergeCase, Option, StoredView
from git_theta.core.layout import Extent, Layout
from git_theta.core.source import Source
from git_theta.core.tensors import Contents, Encoded, Spec, Tensor
from git_theta.errors import FormatError, MergeError, PayloadError
from git_theta.plugins import registry
from git_theta.testing import check_checkpoint_format, check_merge_strategy, check_update
from git_theta.updates.delta import Delta

TENSORS = {
    "a": Tensor.from_array(np.arange(12.0).reshape(3, 4)),
    "b": Tensor.from_array(np.arange(5, dtype=np.int16)),
}
FILE = bytes(SafetensorsFormat().build(TENSORS, None))


def test_a_built_in_format_passes() -> None:
    check_checkpoint_format(SafetensorsFormat(), {"small": FILE}, {"small": TENSORS})


class Lines:
    """A length, a byte of which type, the values: the smallest format."""

    name = "lines"
    suffixes: tuple[str, ...] = (".lines",)

    def sniff(self, head: bytes) -> bool:
        return head.startswith(b"LINES")

    def scan(self, source: Source) -> Layout:
        if source.size < 6 or source.read(0, 5) != b"LINES":
            raise FormatError("no lines")
        length = source.read(5, 1)[0]
        if source.size != 6 + length:
            raise FormatError("another length")
        return Layout(self.name, source.size, (Extent("x", "u8", (length,), 6, length),))


LINES = b"LINES\x03abc"


def test_a_small_format_passes() -> None:
    check_checkpoint_format(Lines(), {"abc": LINES}, {"abc": {"x": Tensor("u8", (3,), b"abc")}})


def broken(**changes: Any) -> Any:
    return type("Broken", (Lines,), changes)()


def careless(self: Any, source: Source) -> Layout:
    length = source.read(5, 1)[0] if source.size > 5 else 1 // 0
    return Layout("lines", source.size, (Extent("x", "u8", (length,), 6, length),))


def greedy(self: Any, source: Source) -> Layout:
    bytearray(100 << 20)
    return Lines.scan(self, source)


def forgetful(self: Any, source: Source) -> Layout:
    layout = Lines.scan(self, source)
    return Layout("lines", layout.size + 1, layout.extents)


def built(self: Any, tensors: Mapping[str, Tensor], like: Source | None) -> bytes:
    data = b"".join(tensor.data for tensor in tensors.values())
    return b"LINES" + bytes([len(data)]) + data


VIEW = StoredView(Spec("u8", (2,)), 6, 9, lambda data: np.frombuffer(data, np.uint8))


class Negative:
    """The base with another sign, if that is asked for."""

    name = "negative"
    needs_base = True
    meant_for = "rule"
    parts: tuple[str, ...] = ("sign",)

    def encode(self, tensor: Tensor, base: Tensor | None, level: str) -> Encoded | None:
        same = base is not None and base.spec == tensor.spec and tensor.dtype == "f32"
        if not same or (-base.array()).tobytes() != bytes(tensor.data):  # type: ignore[union-attr]
            return None
        return Encoded([b"-"])

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> bytes:
        if base is None or base.spec != spec or spec.dtype != "f32" or bytes(payload) != b"-":
            raise PayloadError("not a negative")
        return bytes((-base.array()).tobytes())

    def from_parts(
        self, base: Tensor, parts: Mapping[str, np.ndarray]
    ) -> tuple[Tensor, Encoded | None]:
        return Tensor.from_array(-base.array()), Encoded([b"-"])


BASE = Tensor.from_array(np.arange(40, dtype=np.float32))
PAIRS = [(Tensor.from_array(-BASE.array()), BASE)]
PARTS = [(BASE, {"sign": np.array(-1)})]


def test_an_update_from_parts_passes() -> None:
    check_update(Negative(), PAIRS, parts=PARTS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"meant_for": "all"}, "meant_for must be one of"),
        ({"parts": ["sign"]}, "parts must be a tuple"),
        ({"parts": ()}, "at least one"),
        ({"parts": ("a/b",)}, "words without"),
        ({"from_parts": lambda self, base, parts: (base, Encoded([b"-"]))}, "does not decode to"),
        ({"from_parts": lambda self, base, parts: (TENSORS["b"], None)}, "expected f32"),
    ],
)
def test_what_is_wrong_with_parts_is_found(changes: Mapping[str, Any], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_update(type("Broken", (Negative,), dict(changes))(), PAIRS, parts=PARTS)


def test_parts_for_an_update_that_has_none_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match="is not built from parts"):
        check_update(Delta(), parts=PARTS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "Lines"}, "must consist of"),
        ({"suffixes": [".lines"]}, "must be a tuple"),
        ({"suffixes": ("LINES",)}, "with their dot"),
        ({"sniff": lambda self, head: None}, "True or False"),
        ({"sniff": lambda self, head: False}, "does not recognise"),
        ({"name": "other", "scan": lambda self, source: Lines().scan(source)}, "format is 'lines'"),
        ({"scan": lambda self, source: Layout("lines", source.size, ())}, "holds"),
        ({"scan": careless}, "ZeroDivisionError instead of FormatError"),
        ({"scan": greedy}, "of memory"),
        ({"scan": forgetful}, "the layout is of 10 bytes"),
        ({"build": lambda self, tensors, like: LINES}, "built anew with 0 tensors"),
        ({"inside": ".LINES"}, "lower-case"),
        ({"cuts_bytes": "no"}, "cuts_bytes must be"),
        ({"scan_inside": lambda self, source, members: Layout("lines", 9, ())}, "another layout"),
        (
            {
                "contents": lambda self, source: Contents({"x": b"abc"})  # type: ignore[dict-item]  # the mistake
            },
            "must hold tensors",
        ),
        ({"views": lambda self, source, known: {"v": VIEW}}, "view v lies outside"),
        ({"views": lambda self, source, known: {"v": replace(VIEW, length=3)}}, "view v is u8"),
        ({"build": built, "pieces": lambda self, tensors, like: [b"x"]}, "pieces make another"),
    ],
)
def test_what_is_wrong_with_a_format_is_found(changes: Mapping[str, Any], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_checkpoint_format(
            broken(**changes), {"abc": LINES}, {"abc": {"x": Tensor("u8", (3,), b"abc")}}
        )


@pytest.mark.parametrize(
    "name",
    [
        "ours",
        "average",
        "linear",
        "slerp",
        "karcher",
        "task_arithmetic",
        "ties",
        "dare_ties",
        "della",
        "sce",
        "ram",
    ],
)
def test_built_in_strategies_pass(name: str) -> None:
    check_merge_strategy(registry.merge_strategy(name))


class Larger:
    name = "larger"
    summary = "the larger value of each element"
    options: tuple[Option, ...] = ()
    needs_base = False
    min_sides = 2
    max_sides: int | None = None

    def merge(self, case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
        if case.sides[0].dtype.kind == "c":
            raise MergeError(f"{case.name} is complex; its values have no order")
        result = case.sides[0].copy()
        for side in case.sides[1:]:
            np.copyto(result, side, where=side > result)
        return result


def test_a_strategy_passes() -> None:
    check_merge_strategy(Larger(), [MergeCase("mine", None, (np.arange(3), np.arange(3)[::-1]))])


def refusing(self: Any, case: MergeCase, options: Any) -> Any:
    raise MergeError("never")


def changing(self: Any, case: MergeCase, options: Any) -> Any:
    if case.sides[0].flags.writeable:
        case.sides[0][...] = 1
    return case.sides[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "-"}, "must consist of"),
        ({"summary": ""}, "in a line"),
        ({"min_sides": 0}, "at least 1"),
        ({"max_sides": 1}, "below min_sides"),
        ({"options": (Option("x", "float", "(required)", "needed"),)}, "cannot be completed"),
        ({"merge": refusing}, "refused every case"),
        ({"merge": changing}, "arguments were changed"),
        (
            {"merge": lambda self, case, options: case.sides[0].astype(np.float64)},
            "returned float64",
        ),
        ({"merge": lambda self, case, options: case.sides[0].reshape(-1)}, "returned shape"),
        ({"merge": lambda self, case, options: 3}, "not an array"),
        ({"merge": lambda self, case, options: options["x"]}, "KeyError instead of MergeError"),
        (
            {
                "merge": lambda self, case, options: np.asarray(
                    case.sides[0] + np.random.default_rng().integers(99), case.sides[0].dtype
                )
            },
            "other values the second time",
        ),
    ],
)
def test_what_is_wrong_with_a_strategy_is_found(changes: Mapping[str, Any], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_merge_strategy(type("Broken", (Larger,), dict(changes))())
