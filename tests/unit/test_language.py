"""The English of code, messages and docs: phrases that may not come back.

The number beside a phrase says how often it still stands in older text. It only goes down.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLACK = 5  # a change that rewrites a few sentences need not touch the table

# A pattern: what to write instead, and how often it still stands.
PHRASES: dict[str, tuple[str, int]] = {
    r"\bas ever\b": ("'as usual'", 4),
    r"\bSo it is where\b": ("'Implied if'", 2),
    r"\b[Ww]hoever\b": ("who does it", 28),
    r"\b[Rr]ooms\b": ("'layers'", 2),
    r"\bis no [a-z]": ("'is not a'", 122),
    r"\bare no [a-z]": ("'are not'", 12),
    r"\bpour(s|ed|ing)?\b": ("'stream'", 5),
    r"\b_?PATIENCE\b": ("'TIMEOUT'", 11),
    r"\b(is|are|was) said\b": ("'is reported'", 2),
    r"\btells\b": ("'shows' or 'reports'", 51),
    r"\b[Bb]eside (it|them)\b": ("'companion file', or 'next to it'", 28),
    r"\bwhere (there|it|they|nothing|nobody|somebody) ": ("'if' or 'when'", 131),
    r"\bto be one\b": ("what it is not", 2),
    r"\bso many\b": ("the number's name", 16),
    r"\bgives? back\b": ("'round-trips' or 'returns'", 5),
    r"\b[Ww]hat (is|was) not [a-z]+ is\b": ("a subject that is a noun", 3),
    r"\bSay nothing\b": ("'Do not list'", 2),
    r"\b(has|have) it not\b|\bhave not\b(?! been)": ("'lacks'", 1),
    r"\bin vain\b": ("'without effect'", 1),
    r"\bof no use\b": ("'cannot be used'", 1),
    r"\bby now\b": ("'already' or nothing", 2),
    r"\banother (one )?than\b": ("'instead of'", 2),
    r"\bnone but\b": ("'only'", 0),
    r"\bnot to be had\b|\bcannot be had\b|\bcan be had\b": ("'unavailable', 'available'", 17),
}


def _texts() -> dict[Path, str]:
    folders = ("git_theta", "docs", "examples", "benchmarks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    chosen = [*ROOT.glob("*.md"), *(path for path in files if path.suffix in (".py", ".md"))]
    return {
        path: path.read_text(encoding="utf-8")
        for path in sorted(chosen)
        if path.is_file() and "tests" not in path.relative_to(ROOT).parts
    }


TEXTS = _texts()


def _places(pattern: str) -> list[str]:
    """File and line of each place where the pattern stands."""
    return [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
        for path, text in TEXTS.items()
        for match in re.finditer(pattern, text)
    ]


@pytest.mark.parametrize("pattern", PHRASES)
def test_a_phrase_does_not_come_back(pattern: str) -> None:
    instead, limit = PHRASES[pattern]
    found = _places(pattern)
    assert len(found) <= limit, f"{len(found)} places, {limit} allowed. Write {instead}: {found}"


def test_the_numbers_follow_what_is_left() -> None:
    counts = {pattern: len(_places(pattern)) for pattern in PHRASES}
    lower = {
        pattern: count for pattern, count in counts.items() if count < PHRASES[pattern][1] - SLACK
    }
    assert lower == {}, "lower these numbers in PHRASES"
