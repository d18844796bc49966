"""Blocks that show a terminal: the copy button gives the commands alone, without prompts and
output.
"""

from __future__ import annotations

import html
import re

_PROMPT = '<span class="gp">$ </span>'
_BLOCK = re.compile(r'<div class="[^"]*highlight[^"]*">(?=<pre.*?</pre>)', re.DOTALL)
_PRE = re.compile(r"<pre.*?</pre>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_COMMENT = re.compile(r'<span class="c1">.*?</span>')  # some shells take it for words


def copyable(page: str) -> str:
    """The HTML of ``page``; each block with prompts says in ``data-copy``, which the theme's button
    reads, what to copy.
    """

    def marked(match: re.Match[str]) -> str:
        block = _PRE.match(page, match.end())
        if block is None or _PROMPT not in block[0]:
            return match[0]
        return f'{match[0][:-1]} data-copy="{html.escape(typed(block[0]))}">'

    return _BLOCK.sub(marked, page)


def typed(block: str) -> str:
    """The commands in the HTML of a block, a line each."""
    lines = [line.partition(_PROMPT)[2] for line in block.split("\n") if _PROMPT in line]
    return "\n".join(html.unescape(_TAG.sub("", _COMMENT.sub("", line))).rstrip() for line in lines)
