"""Options of merge strategies: from ``key=value`` text or configuration to typed, ranged values,
and back to a description.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from git_theta.core.contracts import (
    MergeStrategy,
    Option,
    WholeModel,
    is_order_free,
    is_reproducible,
)
from git_theta.core.names import did_you_mean, display
from git_theta.errors import MergeError

REQUIRED: Final = "(required)"
"""The default of an option that has none."""

COMMON: Final = (
    Option(
        "rows",
        "str",
        "same",
        "common: merge the rows all sides have, take the rest from the longest",
        choices=("same", "common"),
    ),
)
"""Options that every strategy understands, on which
:func:`git_theta.merges.compute.compute` acts.
"""

PER_SIDE: Final = ("weights", "cutoffs")
"""Options with one value a side."""

_FLOAT = re.compile(r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,4})?\Z", re.ASCII)
_INT = re.compile(r"[+-]?\d{1,20}\Z", re.ASCII)
_BOOLS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
_VALUES_LIMIT = 4096
_KINDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "a word",
    "floats": "numbers with commas",
}


def parse(strategy: MergeStrategy, texts: Iterable[str]) -> dict[str, object]:
    """All options of ``strategy``, those named in ``texts`` (``key=value``) set and the others at
    their defaults.

    Lists are written ``a,b,c``. :class:`MergeError` for a text without ``=``, an unknown or
    repeated key, or a value of the wrong type or outside the option's range.
    """
    given: dict[str, object] = {}
    known = {option.name: option for option in (*strategy.options, *COMMON)}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise MergeError(
                f"option '{display(text, 60)}' of {strategy.name} needs a value: write key=value"
            )
        if key in given:
            raise MergeError(f"option {display(key, 60)} of {strategy.name} is given twice")
        given[key] = _read(_known(strategy.name, known, key), value.strip())
    return complete(strategy.name, strategy.options, given)


def complete(
    strategy: str, options: Sequence[Option], given: Mapping[str, object]
) -> dict[str, object]:
    """``given`` checked against ``options`` (and the common ones), with defaults for what is
    missing.

    So a recipe made from the result names every value the merge depends on, the seed included.
    :class:`MergeError` as in :func:`parse`.
    """
    known = {option.name: option for option in (*options, *COMMON)}
    for key in given:
        _known(strategy, known, key)
    result: dict[str, object] = {}
    for name, option in known.items():
        value = given.get(name, option.default)
        if value == REQUIRED:
            raise MergeError(f"{strategy} needs option {name} ({option.summary}): add -o {name}=…")
        result[name] = value if value is None and option.default is None else _check(option, value)
    return result


def for_sides(options: Mapping[str, object], sides: Sequence[int], count: int) -> dict[str, object]:
    """``options`` for a case that holds only the ``sides`` (indices) out of ``count``: lists with a
    value a side are cut to them.
    """
    result = dict(options)
    for name in PER_SIDE:
        values = result.get(name)
        if isinstance(values, tuple):
            if len(values) != count:
                raise MergeError(_miscounted(name, len(values), count))
            result[name] = tuple(values[side] for side in sides)
    return result


def per_side(options: Mapping[str, object], name: str, count: int) -> tuple[float, ...] | None:
    """The ``count`` values of a list option, or None when it was left out.

    One number for two sides is refused: reading it as (l, 1-l) would be a guess.
    """
    values = options.get(name)
    if values is None:
        return None
    if not isinstance(values, tuple) or len(values) != count:
        raise MergeError(_miscounted(name, len(values) if isinstance(values, tuple) else 1, count))
    return values


def number(options: Mapping[str, object], name: str) -> float:
    """The value of a float or int option."""
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MergeError(f"option {name} must be a number, not {display(str(value), 40)}")
    return value


def describe(strategy: MergeStrategy) -> dict[str, object]:
    """What ``git theta strategies`` shows of a strategy, as JSON values."""
    return {
        "name": strategy.name,
        "summary": strategy.summary,
        "needs_base": strategy.needs_base,
        "min_sides": strategy.min_sides,
        "max_sides": strategy.max_sides,
        "reproducible": is_reproducible(strategy),
        "order_free": is_order_free(strategy),
        "whole_model": isinstance(strategy, WholeModel),
        "options": [
            {
                "name": o.name,
                "type": o.kind,
                "default": o.default,
                "allowed": allowed(o),
                "summary": o.summary,
            }
            for o in strategy.options
        ],
    }


def lines(strategy: MergeStrategy) -> list[str]:
    """The same as text: a line for the strategy, then an indented one an option."""
    top = (
        ""
        if strategy.max_sides == strategy.min_sides
        else "+"
        if strategy.max_sides is None
        else f" to {strategy.max_sides}"
    )
    facts = [f"{strategy.min_sides}{top} sides", *(["needs a base"] if strategy.needs_base else [])]
    if not is_reproducible(strategy):
        facts.append("verified to a tolerance")
    result = [f"{strategy.name}: {strategy.summary} ({', '.join(facts)})"]
    for option in strategy.options:
        default = (
            ""
            if option.default is None
            else (
                " " + REQUIRED
                if option.default == REQUIRED
                else f" (default {_shown(option.default)})"
            )
        )
        bounds = f", {allowed(option)}" if allowed(option) else ""
        result.append(f"    {option.name}: {option.kind}{bounds}{default}: {option.summary}")
    return result


def allowed(option: Option) -> str:
    """An option's range in words; empty where anything of its type will do."""
    if option.choices:
        return " or ".join(option.choices)
    if option.minimum is not None and option.maximum is not None:
        return f"{option.minimum:g} to {option.maximum:g}"
    if option.minimum is not None:
        return f"at least {option.minimum:g}"
    return f"at most {option.maximum:g}" if option.maximum is not None else ""


def _known(strategy: str, known: Mapping[str, Option], key: str) -> Option:
    if key in known:
        return known[key]
    hint = did_you_mean(key, known) or f"; it has: {', '.join(known)}"
    raise MergeError(f"{strategy} has no option '{display(key, 60)}'{hint}")


def _read(option: Option, text: str) -> object:
    if option.kind == "str":
        return text
    if option.kind == "bool":
        if text.lower() in _BOOLS:
            return _BOOLS[text.lower()]
        raise _wrong(option, text)
    if option.kind == "floats":
        if text.count(",") >= _VALUES_LIMIT:
            raise MergeError(f"option {option.name} has more than {_VALUES_LIMIT} values")
        return tuple(_read_float(option, part.strip()) for part in text.split(","))
    if option.kind == "int":
        if _INT.match(text):
            return int(text)
        raise _wrong(option, text)
    return _read_float(option, text)


def _read_float(option: Option, text: str) -> float:
    if not _FLOAT.match(text):
        raise _wrong(option, text)
    return float(text)


def _check(option: Option, value: object) -> object:
    if option.kind == "floats":
        if not isinstance(value, (list, tuple)):
            raise _wrong(option, value)
        return tuple(_check_number(option, part, float) for part in value)
    if option.kind == "bool":
        if not isinstance(value, bool):
            raise _wrong(option, value)
        return value
    if option.kind == "str":
        if not isinstance(value, str) or (option.choices and value not in option.choices):
            raise _wrong(option, value)
        return value
    return _check_number(option, value, int if option.kind == "int" else float)


def _check_number(option: Option, value: object, kind: type[int] | type[float]) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or (kind is int and not isinstance(value, int))
    ):
        raise _wrong(option, value)
    try:
        result = kind(value)
    except OverflowError:
        raise _wrong(option, value) from None
    low = option.minimum is not None and result < option.minimum
    high = option.maximum is not None and result > option.maximum
    if low or high or not math.isfinite(result):
        raise _wrong(option, value)
    return result


def _wrong(option: Option, value: object) -> MergeError:
    wanted = (
        allowed(option)
        if option.choices
        else ", ".join(filter(None, (_KINDS[option.kind], allowed(option))))
    )
    return MergeError(
        f"option {option.name} must be {wanted}, not '{display(_shown(value)[:200], 40)}'"
    )


def _miscounted(name: str, given: int, count: int) -> str:
    return (
        f"option {name} has {given} value{'s' if given != 1 else ''} for {count} sides; give one a"
        " side, in the order of the sides"
    )


def _shown(value: object) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
