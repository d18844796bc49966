"""The settings: every ``theta.*`` key of git's config; type, default, range and meaning."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from git_theta.core.contracts import Level
from git_theta.core.manifest import CHAIN_LIMIT
from git_theta.core.names import display
from git_theta.errors import UsageError

PATTERN = r"^(theta\..*|core\.(sharedrepository|hookspath))$"
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its name as the user writes it, what it means, the values it allows (for messages),
    and how one is read.
    """

    name: str
    summary: str
    allowed: str
    read: Callable[[str | None], Any]


def _choice(allowed: tuple[str, ...], text: str | None) -> str:
    if text is None or text.lower() not in allowed:
        raise ValueError
    return text.lower()


def _whole(low: int, high: int, text: str | None) -> int:
    match = re.fullmatch(r"([0-9]{1,18})([kmg]?)", (text or "").strip().lower())
    value = int(match[1]) * _UNITS[match[2]] if match else -1
    if not low <= value <= high:
        raise ValueError
    return value


def _text(text: str | None) -> str:
    if text is None:
        raise ValueError
    return text


def _shared(text: str | None) -> int:
    """``core.sharedRepository`` as the permission bits it adds to a file, negative where it has
    these and no others.
    """
    word = "true" if text is None else text.lower()
    named = {
        "umask": 0,
        "false": 0,
        "no": 0,
        "off": 0,
        "": 0,
        "0": 0,
        "group": 0o660,
        "true": 0o660,
        "yes": 0o660,
        "on": 0o660,
        "1": 0o660,
    }
    named |= dict.fromkeys(("all", "world", "everybody", "2"), 0o664)
    if word in named:
        return named[word]
    if not re.fullmatch("0?[0-7]{3}", word):
        raise ValueError
    return -(int(word, 8) & 0o666)


def _one_of(name: str, summary: str, *allowed: str) -> dict[str, Key]:
    return {
        "key": Key(
            name, summary, ", ".join(allowed[:-1]) + f" or {allowed[-1]}", partial(_choice, allowed)
        )
    }


def _number(name: str, summary: str, low: int, high: int) -> dict[str, Key]:
    return {
        "key": Key(
            name, summary, f"a whole number from {low} to {high}", partial(_whole, low, high)
        )
    }


def _word(name: str, summary: str) -> dict[str, Key]:
    return {"key": Key(name, summary, "a name", _text)}


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one repository, complete: what is not configured has its default."""

    compression: Level = field(
        default="default",
        metadata=_one_of(
            "theta.compression",
            "bytes or time: how hard 'git add' compresses",
            "fast",
            "default",
            "best",
        ),
    )
    max_chain: int = field(
        default=8,
        metadata=_number(
            "theta.maxChain",
            "how many updates may stand on one another before a tensor is stored whole",
            1,
            CHAIN_LIMIT,
        ),
    )
    on_invalid: str = field(
        default="refuse",
        metadata=_one_of(
            "theta.onInvalid",
            "a broken checkpoint at 'git add': refuse it, or store its bytes as they are",
            "refuse",
            "store",
        ),
    )
    on_missing: str = field(
        default="error",
        metadata=_one_of(
            "theta.onMissing",
            "a checkout whose objects cannot be had: an error, or leave the manifest in its place",
            "error",
            "manifest",
        ),
    )
    threads: int = field(
        default=0,
        metadata=_number(
            "theta.threads",
            "how many tensors are worked on at a time; 0: one per processor",
            0,
            1024,
        ),
    )
    diff_limit: int = field(
        default=4 << 30,
        metadata=_number(
            "theta.diffLimit",
            "bytes of tensors that 'git diff' reads at most to measure them (4g; m and g are"
            " units)",
            0,
            1 << 62,
        ),
    )
    merge_strategy: str = field(
        default="",
        metadata=_word(
            "theta.merge.strategy",
            "the merge strategy for tensors that several sides changed; none: a conflict",
        ),
    )
    hooks_path: str = field(
        default="",
        metadata={
            "key": Key(
                "core.hooksPath",
                "git's own: the folder of the hooks that run",
                "a path",
                lambda text: text or "",
            )
        },
    )
    shared_bits: int = field(
        default=0,
        metadata={
            "key": Key(
                "core.sharedRepository",
                "git's own: who may read and write objects",
                "as 'git help config' says",
                _shared,
            )
        },
    )
    hook: str = field(
        default="auto",
        metadata=_one_of(
            "theta.hook",
            "git's pre-push hook: looked after by Git-Theta, or by you, who calls 'git theta"
            " pre-push'",
            "auto",
            "manual",
        ),
    )
    pointers: str = field(
        default="auto",
        metadata=_one_of(
            "theta.pointers",
            "where pushes to Git LFS servers name their objects in pointers: in refs/theta/objects,"
            " in a branch or tag theta/objects, or nowhere; auto: as the host needs it",
            "auto",
            "ref",
            "branch",
            "tag",
            "off",
        ),
    )
    recent_days: int = field(
        default=7,
        metadata=_number(
            "theta.recentDays", "how many days back 'git theta fetch --recent' goes", 0, 36500
        ),
    )


def keys() -> Mapping[str, Key]:
    """Every key by the name of its field in :class:`Settings`."""
    return {item.name: item.metadata["key"] for item in fields(Settings)}


def parse(raw: bytes) -> Settings:
    """The settings in what ``git config --null --get-regexp PATTERN`` printed; of several values
    the last counts.

    Keys that are not known are left alone: a plugin's, or a newer release's. :class:`UsageError`
    names the key of a bad value and the values that are allowed.
    """
    known = {key.name.lower(): (name, key) for name, key in keys().items()}
    found: dict[str, tuple[Key, str | None]] = {}
    for record in raw.decode("utf-8", "surrogateescape").split("\0"):
        full_name, separator, value = record.partition("\n")
        if full_name.lower() in known:
            name, key = known[full_name.lower()]
            found[name] = key, value if separator else None
    return Settings(**{name: _read(key, value) for name, (key, value) in found.items()})


def _read(key: Key, value: str | None) -> Any:
    try:
        return key.read(value)
    except ValueError:
        shown = "without a value" if value is None else f"not '{display(value, 40)}'"
        raise UsageError(
            f"{key.name} must be {key.allowed}, {shown}; 'git config --show-origin {key.name}'"
            " tells where it is set"
        ) from None
