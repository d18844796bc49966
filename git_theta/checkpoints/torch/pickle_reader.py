"""Reads a pickle as data, and only as data.

The opcodes of protocols 0 to 5 are interpreted into a tree of plain values. A global is only ever a
pair of names, a call only the note that something would be called: nothing is imported, looked up,
hashed or called. Mappings stay lists of pairs, so that keys made to collide cost nothing. Time is
linear in the pickle's length, and both are bounded (:data:`SIZE_LIMIT`, :data:`STEP_LIMIT`). What
comes out may be shared and cyclic: walk it with a set of what was seen, never compare or print it
whole.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

SIZE_LIMIT = 64 << 20  # bytes of a pickle
# Opcodes, each of which makes at most some 100 bytes of objects; enough for 100,000 tensors
STEP_LIMIT = 4_000_000
LONG_TEXT = 1 << 16  # bytes from which a text or byte string stays a reference to the pickle


class PickleError(ValueError):
    """The bytes are no pickle this machine understands."""


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a function or class; never looked up."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Persistent:
    """A reference to something outside of the pickle, by its id (for torch: a tuple that describes
    a storage).
    """

    id: Any


@dataclass(frozen=True, slots=True)
class Long:
    """A long text (``kind`` ``X``) or byte string (``B``, or ``b`` when mutable) that was not
    decoded.
    """

    kind: str
    data: memoryview


@dataclass(frozen=True, slots=True)
class Skipped:
    """A text, byte string or number of ``length`` bytes that was never read (see
    :func:`read_large`).
    """

    length: int


@dataclass(slots=True, eq=False)
class Pairs:
    """A mapping: key, value, key, value, … in ``flat``."""

    flat: Sequence[Any] = ()


@dataclass(slots=True, eq=False)
class Items:
    """A set (``frozen`` or not), in the order of the pickle."""

    flat: Sequence[Any] = ()
    frozen: bool = False


@dataclass(slots=True, eq=False)
class Call:
    """An object as its recipe: ``function`` called with ``arguments``, then filled with ``pairs``,
    ``items`` and ``states``.

    ``kind`` is ``R`` for a call, ``N`` for ``cls.__new__(cls, *arguments)``, ``X`` for the same
    with (arguments, keywords).
    """

    function: Any
    arguments: Any
    kind: str = "R"
    pairs: Sequence[Any] = ()
    items: Sequence[Any] = ()
    states: Sequence[Any] = ()


def read(data: bytes) -> Any:
    """The tree that the pickle at the start of ``data`` describes; :class:`PickleError` when it
    cannot be understood.

    Values are None, bool, int, float, str, bytes, bytearray, list, tuple, and the classes of this
    module.
    """
    return read_first(data)[0]


def read_first(data: bytes) -> tuple[Any, int]:
    """As :func:`read`, and how many bytes the pickle takes (others may follow it)."""
    if len(data) > SIZE_LIMIT:
        raise PickleError(f"a pickle of {len(data)} bytes is larger than {SIZE_LIMIT}")
    machine = _Machine(data)
    try:
        return _run(machine), machine.end
    except (IndexError, ValueError, TypeError, OverflowError, struct.error) as error:
        raise PickleError(
            f"the pickle is damaged or uses something unknown ({str(error)[:80]!a})"
        ) from None


def read_large(source: Callable[[int, int], bytes], start: int, end: int) -> tuple[Any, int]:
    """As :func:`read_first`, for the pickle that starts at ``start`` and may be larger than
    :data:`SIZE_LIMIT`.

    ``source(offset, length)`` reads bytes. Texts, byte strings and numbers of :data:`SKIPPED` bytes
    and more are not read; each becomes a :class:`Skipped`. The rest is held in memory and has the
    same limits.
    """
    data, length = _condensed(source, start, end)
    machine = _Machine(data)
    machine.condensed = True
    try:
        return _run(machine), length
    except (IndexError, ValueError, TypeError, OverflowError, struct.error) as error:
        raise PickleError(
            f"the pickle is damaged or uses something unknown ({str(error)[:80]!a})"
        ) from None


SKIPPED = 1 << 10
_WINDOW = 1 << 20
_SKIP = 0xFF  # no opcode of pickle's
_FIXED = {code: width for width, codes in {
    1: (0x71, 0x4B, 0x68, 0x82, 0x80), 2: (0x4D, 0x83), 4: (0x72, 0x4A, 0x6A, 0x84), 8: (0x47, 0x95)
}.items() for code in codes}  # fmt: skip
_PREFIXED = {code: width for width, codes in {
    1: (0x8C, 0x43, 0x55, 0x8A), 4: (0x58, 0x42, 0x54, 0x8B), 8: (0x8D, 0x8E, 0x96)
}.items() for code in codes}  # fmt: skip
_LINES = {**dict.fromkeys((0x46, 0x49, 0x4C, 0x53, 0x56, 0x67, 0x70, 0x50), 1), 0x63: 2, 0x69: 2}


def _condensed(source: Callable[[int, int], bytes], start: int, end: int) -> tuple[bytes, int]:
    """The pickle without its long values, and its own length."""
    out, window, base, at = bytearray(), b"", start, 0
    for _ in range(STEP_LIMIT):
        if len(window) - at < 3 * SKIPPED:  # longer than any step that is copied
            base, at = base + at, 0
            window = source(base, max(0, min(_WINDOW, end - base)))
        if at >= len(window):
            raise PickleError("it ends in the middle of a value")
        code, begun = window[at], at
        width = _PREFIXED.get(code, 0)
        at += 1 + (width or _FIXED.get(code, 0))
        if width:
            length = int.from_bytes(window[begun + 1 : at], "little")
            if base + at + length > end:
                raise PickleError("it ends in the middle of a value")
            at += length
            if length >= SKIPPED:
                out += b"\xff" + length.to_bytes(8, "little")
                if at >= len(window):
                    base, at, window = base + at, 0, b""
                continue
        for _ in range(_LINES.get(code, 0)):
            at = window.find(b"\n", at, begun + 2 * SKIPPED) + 1
            if not at:
                raise PickleError("a line of it is too long")
        out += window[begun:at]
        if len(out) > SIZE_LIMIT:
            raise PickleError(f"without its long values it is larger than {SIZE_LIMIT} bytes")
        if code == 0x2E:
            return bytes(out), base + at - start
    raise PickleError(f"it has more than {STEP_LIMIT} opcodes")


class _Machine:
    """The stack, the marks in it (as heights) and the memo."""

    __slots__ = ("condensed", "data", "end", "marks", "memo", "stack", "view")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.condensed = False
        self.view = memoryview(data)
        self.end = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: list[Any] = []

    def since_mark(self) -> list[Any]:
        """Take what lies on the stack above the last mark."""
        height = self.marks.pop()
        values = self.stack[height:]
        del self.stack[height:]
        return values

    def remember(self, index: int) -> None:
        """Put the top of the stack into the memo."""
        missing = index - len(self.memo)
        if missing == 0:
            self.memo.append(self.stack[-1])
            return
        if missing > 0:
            # Writers count from 0, and it takes more than a byte to make what is remembered
            if index > len(self.data):
                raise PickleError(f"memo index {index} is too large")
            self.memo += [_UNSET] * (missing + 1)
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        """Push what was remembered under ``index``."""
        value = self.memo[index]
        if value is _UNSET:
            raise PickleError(f"memo index {index} was never set")
        self.stack.append(value)

    def take(self, start: int, length: int) -> int:
        """The end of ``length`` bytes at ``start``, which must all be there."""
        end = start + length
        if end > len(self.data):
            raise PickleError("it ends in the middle of a value")
        return end

    def line(self, start: int) -> tuple[str, int]:
        """A text up to the next line feed, and the position behind that."""
        end = self.data.index(b"\n", start)
        return self.data[start:end].decode("utf-8", "surrogateescape"), end + 1


_UNSET = object()
_Handler = Callable[[_Machine, int], int]
_HANDLERS: list[_Handler | None] = [None] * 256


def _run(machine: _Machine) -> Any:  # noqa: C901 - a call for each opcode would take twice as long
    """Run to the STOP opcode.

    The most frequent opcodes are handled here, the others by :data:`_HANDLERS`.
    """
    data, stack, marks, memo, handlers = (
        machine.data,
        machine.stack,
        machine.marks,
        machine.memo,
        _HANDLERS,
    )
    push = stack.append
    position = 0
    for _ in range(STEP_LIMIT):
        code = data[position]
        position += 1
        if code == 0x71:  # BINPUT
            index = data[position]
            position += 1
            if index == len(memo):
                memo.append(stack[-1])
            else:
                machine.remember(index)
        elif code == 0x72:  # LONG_BINPUT
            index = int.from_bytes(data[position : position + 4], "little")
            position += 4
            if index == len(memo):
                memo.append(stack[-1])
            else:
                machine.remember(index)
        elif code == 0x4B:  # BININT1
            push(data[position])
            position += 1
        elif code == 0x28:  # MARK
            marks.append(len(stack))
        elif code == 0x68:  # BINGET
            value = memo[data[position]]
            position += 1
            if value is _UNSET:
                raise PickleError("a memo index was never set")
            push(value)
        elif code == 0x58:  # BINUNICODE
            start = position + 4
            length = int.from_bytes(data[position:start], "little")
            if length < LONG_TEXT and start + length <= len(data):
                position = start + length
                push(data[start:position].decode("utf-8", "surrogatepass"))
            else:
                position = _long(machine, "X", start, length)
        elif code == 0x74:  # TUPLE
            height = marks.pop()
            value = tuple(stack[height:])
            del stack[height:]
            push(value)
        elif code == 0x85:  # TUPLE1
            stack[-1] = (stack[-1],)
        elif code == 0x86:  # TUPLE2
            value = (stack[-2], stack[-1])
            del stack[-1]
            stack[-1] = value
        elif code == 0x52:  # REDUCE
            arguments = stack.pop()
            stack[-1] = Call(stack[-1], arguments)
        elif code == 0x51:  # BINPERSID
            stack[-1] = Persistent(stack[-1])
        elif code == 0x89:  # NEWFALSE
            push(False)
        elif code == 0x29:  # EMPTY_TUPLE
            push(())
        elif code == 0x2E:  # STOP
            machine.end = position
            return stack[-1]
        else:
            handler = handlers[code]
            if handler is None:
                raise PickleError(f"unknown opcode {code:#04x}")
            position = handler(machine, position)
    raise PickleError(f"it has more than {STEP_LIMIT} opcodes")


# -- the other opcodes: each takes the position behind the opcode and returns the one behind its
# argument ---------------------


def _opcode(code: int) -> Callable[[_Handler], _Handler]:
    def register(handler: _Handler) -> _Handler:
        _HANDLERS[code] = handler
        return handler

    return register


def _long(machine: _Machine, kind: str, start: int, length: int) -> int:
    end = machine.take(start, length)
    machine.stack.append(Long(kind, machine.view[start:end]))
    return end


def _text(width: int) -> _Handler:
    def handler(machine: _Machine, position: int) -> int:
        start = machine.take(position, width)
        length = int.from_bytes(machine.data[position:start], "little")
        if length >= LONG_TEXT:
            return _long(machine, "X", start, length)
        end = machine.take(start, length)
        machine.stack.append(machine.data[start:end].decode("utf-8", "surrogatepass"))
        return end

    return handler


def _bytes(width: int, kind: str = "B") -> _Handler:
    def handler(machine: _Machine, position: int) -> int:
        start = machine.take(position, width)
        length = int.from_bytes(machine.data[position:start], "little")
        if length >= LONG_TEXT:
            return _long(machine, kind, start, length)
        end = machine.take(start, length)
        value = machine.data[start:end]
        machine.stack.append(value if kind == "B" else bytearray(value))
        return end

    return handler


def _old_text(width: int) -> _Handler:
    """Python 2's str: bytes that usually are text."""

    def handler(machine: _Machine, position: int) -> int:
        start = machine.take(position, width)
        end = machine.take(start, int.from_bytes(machine.data[position:start], "little"))
        machine.stack.append(_decoded(machine.data[start:end]))
        return end

    return handler


def _decoded(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _integer(width: int, signed: bool) -> _Handler:
    def handler(machine: _Machine, position: int) -> int:
        end = machine.take(position, width)
        machine.stack.append(int.from_bytes(machine.data[position:end], "little", signed=signed))
        return end

    return handler


def _big_integer(width: int) -> _Handler:
    def handler(machine: _Machine, position: int) -> int:
        start = machine.take(position, width)
        end = machine.take(start, int.from_bytes(machine.data[position:start], "little"))
        machine.stack.append(int.from_bytes(machine.data[start:end], "little", signed=True))
        return end

    return handler


def _constant(value: object) -> _Handler:
    def handler(machine: _Machine, position: int) -> int:
        machine.stack.append(value)
        return position

    return handler


def _extension(width: int) -> _Handler:
    """A code from a registry that only the writer's Python has."""

    def handler(machine: _Machine, position: int) -> int:
        end = machine.take(position, width)
        machine.stack.append(
            Global("copyreg", f"extension {int.from_bytes(machine.data[position:end], 'little')}")
        )
        return end

    return handler


def _get(width: int) -> _Handler:
    def handler(machine: _Machine, position: int) -> int:
        end = machine.take(position, width)
        machine.recall(int.from_bytes(machine.data[position:end], "little"))
        return end

    return handler


for _code, _handler in {
    0x8C: _text(1),  # SHORT_BINUNICODE
    0x8D: _text(8),  # BINUNICODE8
    0x43: _bytes(1),  # SHORT_BINBYTES
    0x42: _bytes(4),  # BINBYTES
    0x8E: _bytes(8),  # BINBYTES8
    0x96: _bytes(8, "b"),  # BYTEARRAY8
    0x55: _old_text(1),  # SHORT_BINSTRING
    0x54: _old_text(4),  # BINSTRING
    0x4A: _integer(4, True),  # BININT
    0x4D: _integer(2, False),  # BININT2
    0x8A: _big_integer(1),  # LONG1
    0x8B: _big_integer(4),  # LONG4
    0x4E: _constant(None),  # NONE
    0x88: _constant(True),  # NEWTRUE
    0x6A: _get(4),  # LONG_BINGET
    0x82: _extension(1),  # EXT1
    0x83: _extension(2),  # EXT2
    0x84: _extension(4),  # EXT4
    0x97: _constant(Global("pickle", "out-of-band buffer")),  # NEXT_BUFFER
}.items():
    _HANDLERS[_code] = _handler


@_opcode(0x98)  # READONLY_BUFFER
@_opcode(0x95)  # FRAME
@_opcode(0x80)  # PROTO
def _skip(machine: _Machine, position: int) -> int:
    code = machine.data[position - 1]
    end = machine.take(position, {0x98: 0, 0x95: 8, 0x80: 1}[code])
    if code == 0x80 and machine.data[position] > 5:
        raise PickleError(f"protocol {machine.data[position]} is unknown")
    return end


@_opcode(_SKIP)
def _skipped(machine: _Machine, position: int) -> int:
    end = machine.take(position, 8)
    if not machine.condensed:
        raise PickleError("unknown opcode 0xff")
    machine.stack.append(Skipped(int.from_bytes(machine.data[position:end], "little")))
    return end


@_opcode(0x47)  # BINFLOAT
def _float(machine: _Machine, position: int) -> int:
    machine.stack.append(struct.unpack_from(">d", machine.data, position)[0])
    return position + 8


@_opcode(0x46)  # FLOAT
def _float_line(machine: _Machine, position: int) -> int:
    text, end = machine.line(position)
    machine.stack.append(float(text))
    return end


@_opcode(0x49)  # INT
def _int_line(machine: _Machine, position: int) -> int:
    text, end = machine.line(position)
    machine.stack.append({"00": False, "01": True}[text] if text in ("00", "01") else int(text))
    return end


@_opcode(0x4C)  # LONG
def _long_line(machine: _Machine, position: int) -> int:
    text, end = machine.line(position)
    machine.stack.append(int(text.removesuffix("L")))
    return end


@_opcode(0x53)  # STRING
def _string_line(machine: _Machine, position: int) -> int:
    end = machine.data.index(b"\n", position)
    text = machine.data[position:end]
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise PickleError("a string is not quoted")
    machine.stack.append(_decoded(_ESCAPE.sub(_unescaped, text[1:-1])))
    return end + 1


# Own, since the standard library's decoder warns of escapes that Python 2 never wrote.
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([0-7]{1,3})|(.))", re.DOTALL)
_LETTERS = {
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"v": b"\v",
    b"\\": b"\\",
    b"'": b"'",
    b'"': b'"',
}


def _unescaped(match: re.Match[bytes]) -> bytes:
    if match[1]:
        return bytes.fromhex(match[1].decode())
    if match[2]:
        return bytes([int(match[2], 8) & 255])
    return _LETTERS.get(match[3], match[0])


@_opcode(0x56)  # UNICODE
def _unicode_line(machine: _Machine, position: int) -> int:
    end = machine.data.index(b"\n", position)
    machine.stack.append(machine.data[position:end].decode("raw-unicode-escape"))
    return end + 1


@_opcode(0x67)  # GET
def _get_line(machine: _Machine, position: int) -> int:
    text, end = machine.line(position)
    machine.recall(_index(text))
    return end


@_opcode(0x70)  # PUT
def _put_line(machine: _Machine, position: int) -> int:
    text, end = machine.line(position)
    machine.remember(_index(text))
    return end


def _index(text: str) -> int:
    if len(text) > 10 or not text.isdecimal():
        raise PickleError("a memo index is no number")
    return int(text)


@_opcode(0x94)  # MEMOIZE
def _memoize(machine: _Machine, position: int) -> int:
    machine.memo.append(machine.stack[-1])
    return position


@_opcode(0x30)  # POP
def _pop(machine: _Machine, position: int) -> int:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.stack.pop()
    return position


@_opcode(0x31)  # POP_MARK
def _pop_mark(machine: _Machine, position: int) -> int:
    machine.since_mark()
    return position


@_opcode(0x32)  # DUP
def _duplicate(machine: _Machine, position: int) -> int:
    machine.stack.append(machine.stack[-1])
    return position


@_opcode(0x87)  # TUPLE3
def _tuple3(machine: _Machine, position: int) -> int:
    value = (machine.stack[-3], machine.stack[-2], machine.stack[-1])
    del machine.stack[-2:]
    machine.stack[-1] = value
    return position


@_opcode(0x5D)  # EMPTY_LIST
def _empty_list(machine: _Machine, position: int) -> int:
    machine.stack.append([])
    return position


@_opcode(0x6C)  # LIST
def _list(machine: _Machine, position: int) -> int:
    machine.stack.append(machine.since_mark())
    return position


@_opcode(0x61)  # APPEND
def _append(machine: _Machine, position: int) -> int:
    value = machine.stack.pop()
    _sequence(machine.stack[-1]).append(value)
    return position


@_opcode(0x65)  # APPENDS
def _appends(machine: _Machine, position: int) -> int:
    values = machine.since_mark()
    _sequence(machine.stack[-1]).extend(values)
    return position


def _sequence(target: Any) -> list[Any]:
    if type(target) is list:
        return target
    if type(target) is Call:
        target.items = _growing(target.items)
        return target.items
    raise PickleError("items are appended to what is no list")


def _growing(values: Sequence[Any]) -> list[Any]:
    """The list itself, or a new one in place of the empty tuple that costs nothing."""
    return values if type(values) is list else []


@_opcode(0x7D)  # EMPTY_DICT
def _empty_dict(machine: _Machine, position: int) -> int:
    machine.stack.append(Pairs())
    return position


@_opcode(0x64)  # DICT
def _dict(machine: _Machine, position: int) -> int:
    machine.stack.append(Pairs(_paired(machine.since_mark())))
    return position


@_opcode(0x73)  # SETITEM
def _set_item(machine: _Machine, position: int) -> int:
    value, key = machine.stack.pop(), machine.stack.pop()
    _mapping(machine.stack[-1]).extend((key, value))
    return position


@_opcode(0x75)  # SETITEMS
def _set_items(machine: _Machine, position: int) -> int:
    values = _paired(machine.since_mark())
    _mapping(machine.stack[-1]).extend(values)
    return position


def _paired(values: list[Any]) -> list[Any]:
    if len(values) % 2:
        raise PickleError("a key has no value")
    return values


def _mapping(target: Any) -> list[Any]:
    if type(target) is Pairs:
        target.flat = _growing(target.flat)
        return target.flat
    if type(target) is Call:
        target.pairs = _growing(target.pairs)
        return target.pairs
    raise PickleError("a key is set in what is no mapping")


@_opcode(0x8F)  # EMPTY_SET
def _empty_set(machine: _Machine, position: int) -> int:
    machine.stack.append(Items())
    return position


@_opcode(0x90)  # ADDITEMS
def _add_items(machine: _Machine, position: int) -> int:
    values = machine.since_mark()
    target = machine.stack[-1]
    if type(target) is not Items or target.frozen:
        raise PickleError("items are added to what is no set")
    target.flat = _growing(target.flat)
    target.flat.extend(values)
    return position


@_opcode(0x91)  # FROZENSET
def _frozen_set(machine: _Machine, position: int) -> int:
    machine.stack.append(Items(machine.since_mark(), frozen=True))
    return position


@_opcode(0x63)  # GLOBAL
def _global(machine: _Machine, position: int) -> int:
    module, position = machine.line(position)
    name, position = machine.line(position)
    machine.stack.append(Global(module, name))
    return position


@_opcode(0x93)  # STACK_GLOBAL
def _stack_global(machine: _Machine, position: int) -> int:
    name, module = machine.stack.pop(), machine.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise PickleError("a global's name is no text")
    machine.stack.append(Global(module, name))
    return position


@_opcode(0x69)  # INST
def _inst(machine: _Machine, position: int) -> int:
    module, position = machine.line(position)
    name, position = machine.line(position)
    machine.stack.append(Call(Global(module, name), tuple(machine.since_mark())))
    return position


@_opcode(0x6F)  # OBJ
def _obj(machine: _Machine, position: int) -> int:
    function, *arguments = machine.since_mark()
    machine.stack.append(Call(function, tuple(arguments)))
    return position


@_opcode(0x81)  # NEWOBJ
def _new_object(machine: _Machine, position: int) -> int:
    arguments = machine.stack.pop()
    machine.stack[-1] = Call(machine.stack[-1], arguments, "N")
    return position


@_opcode(0x92)  # NEWOBJ_EX
def _new_object_with_keywords(machine: _Machine, position: int) -> int:
    keywords, arguments = machine.stack.pop(), machine.stack.pop()
    machine.stack[-1] = Call(machine.stack[-1], (arguments, keywords), "X")
    return position


@_opcode(0x62)  # BUILD
def _build(machine: _Machine, position: int) -> int:
    state = machine.stack.pop()
    target = machine.stack[-1]
    if type(target) is not Call:
        raise PickleError("a state is set on what is no object")
    target.states = _growing(target.states)
    target.states.append(state)
    return position


@_opcode(0x50)  # PERSID
def _persistent_line(machine: _Machine, position: int) -> int:
    text, end = machine.line(position)
    machine.stack.append(Persistent(text))
    return end
