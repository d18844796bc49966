"""The documentation as a site: it builds without a warning, reads as it does on a forge, and works
from disk without a network.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from chromium import Browser, program
from gitrepo import ROOT
from markdown_it import MarkdownIt

PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    for module in ("material", "mkdocstrings"):
        pytest.importorskip(module, reason="the dependency group 'docs' is not installed")
    folder = tmp_path_factory.mktemp("site")
    build = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--config-file",
        "docs/mkdocs/mkdocs.yml",
    ]
    environment = {
        **os.environ,
        "NO_MKDOCS_2_WARNING": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [*build, "--site-dir", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Tags(HTMLParser):
    """How often each tag that stands for structure occurs; what is loaded from elsewhere."""

    STRUCTURE = ("h1", "h2", "h3", "h4", "li", "ul", "ol", "table", "tr", "pre", "strong", "em")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.count = dict.fromkeys(self.STRUCTURE, 0)
        self.loaded: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.count:
            self.count[tag] += 1
        address = {"link": "href", "script": "src", "img": "src", "iframe": "src"}.get(tag)
        self.loaded += [
            value
            for name, value in attrs
            if name == address and value and re.match("https?:|//", value)
        ]


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    assert {
        page.name: loaded for page in pages if (loaded := Tags(page.read_text("utf-8")).loaded)
    } == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_the_structure_that_a_forge_shows(site: Path, page: Path) -> None:
    """Markdown has dialects; a list or table that one of them does not see would be lost."""
    text = re.sub(r"^\[\^\w+\]: .*(\n    .*)*\n?", "", page.read_text("utf-8"), flags=re.MULTILINE)
    forge = Tags(MarkdownIt("commonmark").enable("table").render(text)).count
    html = (site / f"{page.stem}.html").read_text("utf-8")
    article = html[html.index("<article") : html.index("</article>")].partition(
        '<div class="footnote">'
    )[0]
    here = Tags(
        re.sub(
            r'<div class="[^"]*highlight.*?</pre></div>', "<pre></pre>", article, flags=re.DOTALL
        )
    ).count
    assert here == forge


def test_commands_and_names_are_there(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text("utf-8")
    for name in ("git-theta-track", "git-theta-remote-set", "git-theta-filter-process"):
        assert f'id="{name}"' in commands
    python = (site / "reference" / "python.html").read_text("utf-8")
    for name in (
        "git_theta.api.loading.load",
        "git_theta.errors.ObjectMissing",
        "git_theta.api.loading.Checkpoint.specs",
    ):
        assert f'id="{name}"' in python
    assert ":class:" not in python
    assert ":func:" not in python


def test_it_can_be_read_and_searched_from_disk(site: Path, tmp_path: Path) -> None:
    if (executable := program()) is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    with Browser(executable, tmp_path / "profile") as browser:
        browser.call("Page.navigate", url=(site / "faq.html").as_uri())
        browser.wait("document.readyState === 'complete' && document.title.includes('Questions')")
        browser.value("document.querySelector('.md-search__input').focus()")
        # Till then keys are lost
        browser.wait(
            "document.querySelector('.md-search-result__meta').textContent.includes('Type to"
            " start')"
        )
        browser.type("skeleton")
        browser.value(
            "document.querySelector('.md-search__input').dispatchEvent(new KeyboardEvent('keyup'))"
        )
        browser.wait(
            "[...document.querySelectorAll('.md-search-result__item a')].some(link =>"
            " link.href.includes('object-format.html'))"
        )
        assert browser.errors == []
        assert [
            request
            for request in browser.requests
            if not request.startswith(("file:", "data:", "blob:", "about:"))
        ] == []


EXPORT = (
    "git theta export v1.0:model.safetensors s3://my-bucket/models/v1.0   # or gs://, or a folder"
)
IMPORT = "git theta import s3://my-bucket/models/v1.0 model.safetensors --force"


@pytest.mark.parametrize(
    ("page", "typed"),
    [
        (
            "install",
            (
                "git clone URL git-theta\npip install ./git-theta\ngit theta --version\ngit theta"
                " install"
            ),
        ),
        ("merging", "git merge fine-tuned"),  # followed by six lines of output
        ("diff", "git theta diff --stat v1 v3"),
        ("clusters", f"{EXPORT}\n{IMPORT}"),  # without prompts
    ],
)
def test_the_button_copies_what_one_types(
    site: Path, tmp_path: Path, page: str, typed: str
) -> None:
    if (executable := program()) is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    block = (
        "[...document.querySelectorAll('.highlight')].find(block =>"
        f" block.innerText.includes({typed.splitlines()[0]!r}))"
    )
    with Browser(executable, tmp_path / "profile") as browser:
        browser.call("Page.navigate", url=(site / f"{page}.html").as_uri())
        browser.wait(f"document.readyState === 'complete' && location.href.includes('{page}.html')")
        browser.value(f"{block}.scrollIntoView()")
        browser.wait(f"{block}.querySelector('button[data-md-type=copy]') !== null")
        # Where nobody has clicked, a page may not write to the clipboard: what it would write is
        # looked at.
        browser.value(
            "document.execCommand = () => { window.copied = document.activeElement.value; return"
            " true }"
        )
        browser.value(f"{block}.querySelector('button[data-md-type=copy]').click()")
        browser.wait("window.copied !== undefined")
        assert browser.value("window.copied") == typed
