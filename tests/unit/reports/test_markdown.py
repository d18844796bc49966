"""A diff as Markdown: names as they are, and harmless."""

from __future__ import annotations

from making import HOSTILE, modified, report

from git_theta.reports import markdown
from git_theta.reports.report import Report


def comment(names: list[str]) -> str:
    return markdown.diff(Report("old", "new", (report(modified(names)),)))


def test_separators_are_those_of_the_name() -> None:
    names = ["encoder/layer:0/kernel", "encoder/layer:0/bias", "head.w", "opt:state/m"]
    text = comment(names)
    for name in names:
        assert f"`{name}`" in text


def test_hostile_names_stand_in_code_spans() -> None:
    names = [*HOSTILE, *(f"a/0/{name}" for name in HOSTILE), *(f"a/0:{name}" for name in HOSTILE)]
    for line in comment(names).splitlines():
        assert line.isprintable()
        if line.startswith("| ") and "`" in line:
            outside = "".join(
                part
                for number, part in enumerate(
                    line.replace("```", "`").replace("``", "`").split("`")
                )
                if number % 2 == 0
            )
            assert "<" not in outside
            assert "@" not in outside
            assert "http" not in outside
