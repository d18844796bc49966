"""The English of code, messages and docs: phrases that may not come back.

``BASELINE`` says how often each still stands in older text. A number may only go down: whoever
rewrites a sentence lowers it here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SLACK = 10  # so that rewriting a page does not collide with everybody else's

# A pattern, what to write instead, and how often it still stands.
PHRASES: dict[str, tuple[str, int]] = {
    r"\bas ever\b": ("'as usual'", 4),
    r"\bSo it is where\b": ("'Implied if'", 2),
    r"\b[Ww]hoever\b": ("who does it", 29),
    r"\b[Rr]ooms\b": ("'layers'", 2),
    r"\bis no [a-z]": ("'is not a'", 117),
    r"\bare no [a-z]": ("'are not'", 12),
    r"\bpour(s|ed|ing)?\b": ("'stream'", 5),
    r"\b_?PATIENCE\b": ("'TIMEOUT'", 11),
    r"\b(is|are|was) said\b": ("'is reported'", 2),
    r"\btells\b": ("'shows' or 'reports'", 49),
    r"\b[Bb]eside (it|them)\b": ("'companion file', or 'next to it'", 28),
    r"\bwhere (there|it|they|nothing|nobody|somebody) ": ("'if' or 'when'", 129),
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
    files += list(ROOT.glob("*.md"))
    chosen = [path for path in files if path.suffix in (".py", ".md") and path.is_file()]
    return {path: path.read_text(encoding="utf-8") for path in sorted(chosen)}


TEXTS = _texts()


@pytest.mark.parametrize("pattern", PHRASES)
def test_phrase_does_not_come_back(pattern: str) -> None:
    instead, baseline = PHRASES[pattern]
    found = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
        for path, text in TEXTS.items()
        for match in re.finditer(pattern, text)
    ]
    assert len(found) <= baseline, f"write {instead}: {found}"
    assert len(found) > baseline - SLACK, f"{len(found)} of {baseline} are left: lower the number"
