"""Writes a tree of :mod:`pickle_machine` as a pickle of protocol 2, which any torch reads."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from git_theta.checkpoints.torch.pickle_reader import (
    Call,
    Global,
    Items,
    Long,
    Pairs,
    Persistent,
    Skipped,
)
from git_theta.core.names import display
from git_theta.errors import FormatError

OUTPUT_LIMIT = 1 << 30


class _Raw(NamedTuple):
    """Opcodes that stand between values."""

    data: bytes


class _Put(NamedTuple):
    """The place where a value is complete enough to be remembered."""

    node: Any


def write(tree: Any) -> bytes:
    """The pickle. Values that the tree shares are shared in the pickle; cycles through lists and
    mappings are kept.

    :class:`FormatError` for what no pickle of protocol 2 can say.
    """
    out, size, count = [b"\x80\x02"], 2, 0
    memo: dict[int, int] = {}
    names: dict[str | Global, int] = {}  # texts and globals, which are shared by value
    alive: list[Any] = []  # an id in the memo must stay taken
    todo: list[Any] = [tree]
    while todo:
        node = todo.pop()
        if type(node) is _Raw:
            data = node.data
        elif type(node) is _Put:
            memo[id(node.node)] = count
            alive.append(node.node)
            data = _put(count)
            count += 1
        elif type(node) is str or type(node) is Global:
            if node in names:
                data = _get(names[node])
            else:
                names[node] = count
                data = (
                    _global(node)
                    if isinstance(node, Global)
                    else _text(node.encode("utf-8", "surrogatepass"))
                ) + _put(count)
                count += 1
        elif id(node) in memo:
            data = _get(memo[id(node)])
        else:
            scalar = _scalar(node)
            if scalar is None:
                todo.extend(reversed(_steps(node)))
                continue
            data = scalar
        out.append(data)
        size += len(data)
        if size > OUTPUT_LIMIT:
            raise FormatError(
                f"the checkpoint's other values need a pickle of more than {OUTPUT_LIMIT} bytes"
            )
    out.append(b".")
    return b"".join(out)


def _put(index: int) -> bytes:
    return b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index)


def _get(index: int) -> bytes:
    return b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)


def _text(data: bytes | memoryview) -> bytes:
    return b"X" + struct.pack("<I", len(data)) + bytes(data)


def _scalar(node: Any) -> bytes | None:
    """A value without parts; None for one with parts."""
    kind = type(node)
    if node is None:
        return b"N"
    if kind is bool:
        return b"\x88" if node else b"\x89"
    if kind is int:
        return _integer(node)
    if kind is float:
        return b"G" + struct.pack(">d", node)
    if kind is Long and node.kind == "X":
        return _text(node.data)
    return None


def _global(node: Global) -> bytes:
    # A space: what the machine calls what has no name
    if "\n" in node.module or "\n" in node.name or " " in node.name:
        raise FormatError(
            f"the checkpoint refers to {display(f'{node.module}.{node.name}', 80)}, which cannot be"
            " written again"
        )
    return b"c" + f"{node.module}\n{node.name}\n".encode("utf-8", "surrogateescape")


def _integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if 0 <= value < 65536:
        return b"M" + struct.pack("<H", value)
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return (
        b"\x8a" + bytes([len(data)]) + data
        if len(data) < 256
        else b"\x8b" + struct.pack("<I", len(data)) + data
    )


def _steps(node: Any) -> Sequence[Any]:
    """What to write for a value with parts, in order."""
    kind = type(node)
    if kind is tuple:
        return [*_tuple(node), _Put(node)] if node else [_Raw(b")")]
    if kind is list:
        return [_Raw(b"]"), _Put(node), *_filled(node, b"e")]
    if kind is Pairs:
        return [_Raw(b"}"), _Put(node), *_filled(node.flat, b"u")]
    if kind is Items:
        name = "frozenset" if node.frozen else "set"
        return [Global("builtins", name), *_tuple((list(node.flat),)), _Raw(b"R"), _Put(node)]
    if kind is Persistent:
        return [node.id, _Raw(b"Q"), _Put(node)]
    if kind is Call:
        return _call(node)
    if kind is bytearray or (kind is Long and node.kind == "b"):
        return [
            Global("builtins", "bytearray"),
            *_tuple((bytes(getattr(node, "data", node)),)),
            _Raw(b"R"),
            _Put(node),
        ]
    if kind is bytes or kind is Long:
        text = bytes(getattr(node, "data", node)).decode("latin-1")
        return [Global("_codecs", "encode"), *_tuple((text, "latin1")), _Raw(b"R"), _Put(node)]
    if kind is Skipped:
        raise FormatError(
            f"the checkpoint holds a value of {node.length} bytes beside its tensors, in a pickle"
            " too large to be written again"
        )
    raise FormatError(f"a value of type {kind.__name__} cannot be written to a torch file")


def _tuple(values: Sequence[Any]) -> list[Any]:
    if len(values) <= 3:
        return [*values, _Raw((b")", b"\x85", b"\x86", b"\x87")[len(values)])]
    return [_Raw(b"("), *values, _Raw(b"t")]


def _filled(values: Iterable[Any], opcode: bytes) -> list[Any]:
    values = list(values)
    return [_Raw(b"("), *values, _Raw(opcode)] if values else []


def _call(call: Call) -> Sequence[Any]:
    if call.kind == "X":
        made = [call.function, *call.arguments, _Raw(b"\x92")]
    else:
        made = [call.function, call.arguments, _Raw(b"R" if call.kind == "R" else b"\x81")]
    steps = [*made, _Put(call), *_filled(call.items, b"e"), *_filled(call.pairs, b"u")]
    for state in call.states:
        steps += [state, _Raw(b"b")]
    return steps
