"""Numbers as a person reads them, in few characters."""

from __future__ import annotations

import math
from collections.abc import Mapping

from git_theta.core.manifest import Entry
from git_theta.core.names import display

_BARS = "▁▂▃▄▅▆▇█"


def size(count: int) -> str:
    """A number of bytes for a person, in decimal units as disks and forges count them."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"


def plural(count: int, what: str) -> str:
    """For example ``1 file``, ``3 files``, ``12,000 objects``."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def percent(fraction: float) -> str:
    """A share: ``0``, ``0.50 %``, ``12.3 %``, ``100 %``; what is nearly nothing or nearly all says
    so.
    """
    value = 100 * fraction
    if value in (0, 100):
        return "0" if value == 0 else "100 %"
    if value < 0.01:
        return "<0.01 %"
    if value > 99.95:
        return ">99.9 %"
    return f"{value:.2f} %" if value < 9.995 else f"{value:.1f} %"


def metrics(values: Mapping[str, float]) -> str:
    """Named numbers with six digits: ``eval_loss 0.25, epoch 3``."""
    return ", ".join(f"{display(name, 60)} {value:.6g}" for name, value in values.items())


def short(value: float | None, infinity: str = "inf") -> str:
    """Two digits and a power of ten: ``3.7e-2``; nothing for None."""
    if value is None:
        return ""
    if value == 0 or math.isnan(value):
        return "0" if value == 0 else "nan"
    if math.isinf(value):
        return infinity
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits}e{int(exponent)}"


def cosine(distance: float | None) -> str:
    """A cosine from its distance from 1: ``0.999307``, and ``1-2.3e-9`` where six digits would all
    be nines.
    """
    if distance is None:
        return ""
    if math.isnan(distance):
        return "nan"
    if distance == 0:
        return "1"
    return f"1-{short(distance)}" if distance < 5e-6 else f"{1 - distance:.6f}"


def level(relative: float | None, steps: int = 8) -> int:
    """A relative change on a logarithmic scale of ``steps``: 0 below 1e-5, the highest from 1 on;
    -1 for none.
    """
    if not relative or math.isnan(relative):
        return -1
    if math.isinf(relative):
        return steps - 1
    return max(0, min(steps - 1, int((math.log10(relative) + 5) * steps / 5)))


def bar(relative: float | None) -> str:
    """A relative change as a bar of one character."""
    step = level(relative)
    return _BARS[step] if step >= 0 else " "


def update(entry: Entry) -> str:
    """How a tensor is stored: the newest update with its note; ``inline`` in the manifest; nothing
    when it is not stored yet.
    """
    if not entry.chain:
        return "inline" if entry.inline is not None else ""
    link = entry.chain[0]
    return f"{link.update}({link.note})" if link.note else link.update
