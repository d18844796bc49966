"""What 'make docs' adds to the pages in docs/: the commands, the API, and the files of the project
that pages link to.
"""

from __future__ import annotations

from pathlib import Path

import api_pages
import command_pages
import consoles
import outside
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).resolve().parents[2]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    for path, text in {**command_pages.pages(), **api_pages.pages()}.items():
        files.append(File.generated(config, path, content=text))
    written = [
        (file.src_uri, file.content_string)
        for file in files.documentation_pages()
        if file.abs_src_path is not None
    ]
    for path, text in outside.pages(PROJECT, written).items():
        files.append(
            File.generated(config, path, content=text, inclusion=InclusionLevel.NOT_IN_NAV)
        )
    return files


# Names are mkdocs's
def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files of the project to their pages."""
    if page.file.abs_src_path is None:
        return markdown
    return outside.relinked(PROJECT, f"docs/{page.file.src_uri}", markdown)


# Names are mkdocs's
def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have blocks of a terminal copied without prompts and output."""
    return consoles.copyable(html)
