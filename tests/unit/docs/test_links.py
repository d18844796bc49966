"""Links between the files of the project lead somewhere, on a forge and on the site."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).parents[3]
FILES = [
    *PROJECT.glob("*.md"),
    *(PROJECT / "docs").glob("*.md"),
    *(PROJECT / "examples").glob("*/*.md"),
    *(PROJECT / "benchmarks").glob("*.md"),
]


def site_module(name: str) -> ModuleType:
    """A module that builds the site."""
    spec = importlib.util.spec_from_file_location(
        f"site_{name}", PROJECT / "docs" / "mkdocs" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


outside = site_module("outside")


def anchors(text: str) -> set[str]:
    """The anchors that a forge gives the headings of a Markdown file."""
    plain = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.*?) *#*$", plain, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PROJECT).as_posix())
def test_links_lead_to_what_is_there(file: Path) -> None:
    text = file.read_text("utf-8")
    broken = []
    for path, anchor in [
        *outside.links(text),
        *(("", anchor) for anchor in re.findall(r"\]\(#([^)\s]+)\)", text)),
    ]:
        target = (file.parent / path).resolve() if path else file
        if not target.exists() or not target.is_relative_to(PROJECT):
            broken.append(path)
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text("utf-8")):
            broken.append(f"{path}#{anchor}")
    assert not broken


def test_a_link_out_of_docs_leads_to_the_page_of_that_file(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "examples" / "demo").mkdir(parents=True)
    (tmp_path / "examples" / "demo" / "demo.py").write_text("print('hello')\n")
    (tmp_path / "CHANGELOG.md").write_text("See [the guide](docs/guide.md#start).\n")
    (tmp_path / "CONTRIBUTING.md").write_text("[above](CHANGELOG.md)\n")
    (tmp_path / "docs" / "guide.md").write_text("")
    text = (
        "[a](../examples/demo/demo.py)"
        " [b](../examples/demo)\n```\n[c](../CHANGELOG.md)\n```\n[d](other.md)"
        " [e](https://example.com)\n"
    )
    made = outside.pages(tmp_path, [("guide.md", text)])
    assert set(made) == {
        f"project/{name}.md"
        for name in ("CHANGELOG", "CONTRIBUTING", "examples/demo/demo.py", "examples/demo/files")
    }
    assert "print('hello')" in made["project/examples/demo/demo.py.md"]
    assert "(demo.py.md)" in made["project/examples/demo/files.md"]
    assert made["project/CHANGELOG.md"] == "See [the guide](../guide.md#start).\n"
    assert (
        outside.relinked(tmp_path, "docs/guide.md", text)
        == "[a](project/examples/demo/demo.py.md) [b](project/examples/demo/files.md)\n"
        "```\n[c](../CHANGELOG.md)\n```\n[d](other.md) [e](https://example.com)\n"
    )


@pytest.mark.parametrize("link", ["../../secret", "/etc/passwd", "../nothing.md", ".."])
def test_a_link_to_anything_else_is_left_alone(tmp_path: Path, link: str) -> None:
    (tmp_path / "project" / "docs").mkdir(parents=True)
    (tmp_path / "secret").write_text("no")
    text = f"[it]({link})\n"
    assert outside._targets(tmp_path / "project", "docs/a.md", text) == []
    assert outside.relinked(tmp_path / "project", "docs/a.md", text) == text


def test_the_command_reference_escapes_what_is_markup() -> None:
    prose = site_module("command_pages").prose
    assert (
        prose("<tensor>/R with 'git add' & --force")
        == "<code>&lt;tensor&gt;/R</code> with <code>git add</code> &amp; <code>--force</code>"
    )
    assert (
        prose("'*.pt' matches; PATH does not")
        == "<code>*.pt</code> matches; <code>PATH</code> does not"
    )


def test_the_button_of_a_console_copies_commands_alone() -> None:
    consoles = site_module("consoles")
    prompt = '<a id="x"></a><span class="gp">$ </span>'
    block = (
        f'<pre id="a"><code>{prompt}git<span class="w"> </span>add<span class="w">'
        ' </span>&quot;*.pt&quot;  <span class="c1"># all</span>\n'
    )
    block += (
        f'<span class="go">output</span>\n{prompt}git<span class="w"> </span>commit\n</code></pre>'
    )
    other = '<div class="highlight"><pre><code>plain</code></pre></div>'
    page = f'<p>text</p><div class="highlight">{block}</div>{other}'
    expected = '<div class="highlight" data-copy="git add &quot;*.pt&quot;\ngit commit">'
    assert consoles.copyable(page) == f"<p>text</p>{expected}{block}</div>{other}"
