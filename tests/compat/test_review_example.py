"""The workflow in ``examples/review``: its scripts, run as GitHub would run them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from gitrepo import ROOT, Repo
from seeing import install, story

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the scripts are POSIX shell")
GH = """#!{python}
import json, os, sys
from pathlib import Path
words = sys.argv[1:]
given = (w.split("=@")[1] for w in words if w.startswith("body=@"))
body = next((Path(name).read_text("utf-8") for name in given), None)
with open(os.environ["GH_LOG"], "a", encoding="utf-8") as log:
    log.write(json.dumps([words, body]) + "\\n")
if "--jq" in words:
    print(os.environ["GH_EARLIER"], end="")
elif os.environ.get("GH_FAILS"):
    sys.exit("HTTP 403")
"""


def scripts() -> dict[str, str]:
    """Each step's script, by its name.

    The file is plain enough to be read without a YAML parser.
    """
    found, name, block = {}, "", None
    for line in (ROOT / "examples/review/model-review.yml").read_text("utf-8").splitlines():
        indent = len(line) - len(line.lstrip())
        if block is not None and (indent >= 10 or not line.strip()):
            found[name] += line[10:] + "\n"
            continue
        block = None
        if line.strip().startswith("- name: "):
            name = line.strip().removeprefix("- name: ")
        elif line.strip() == "run: |":
            block, found[name] = True, ""
    return found


def test_the_steps(repo: Repo, tmp_path: Path) -> None:
    install(repo)
    first, _, third = story(repo)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gh").write_text(GH.format(python=sys.executable))
    (programs / "gh").chmod(0o755)
    log, summary = tmp_path / "log", tmp_path / "summary"
    variables = {
        "PATH": f"{programs}{os.pathsep}{repo.environment['PATH']}",
        "BASE": first,
        "HEAD": third,
        "GITHUB_STEP_SUMMARY": str(summary),
        "GH_LOG": str(log),
        "GH_EARLIER": "",
        "REPOSITORY": "someone/models",
        "NUMBER": "7",
    }
    steps = scripts()
    assert list(steps) == ["Install Git-Theta", "Compare the models", "Post the comment"]

    def run(step: str, **more: str) -> str:
        words = ["bash", "-e", "-o", "pipefail", "-c", steps[step]]
        done = repo.under({**variables, **more}).run(words)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    run("Compare the models")
    comment = (repo.path / "comment.md").read_text("utf-8")
    assert comment.startswith("<!-- git-theta diff -->\n### Models: ")
    assert "6 modified of 14 tensors" in comment
    assert summary.read_text("utf-8") == comment
    run("Post the comment")
    run("Post the comment", GH_EARLIER="4711\n")
    assert "::warning::" in run("Post the comment", GH_FAILS="1")
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    assert [
        words[words.index("--method") + 1 :][:2] for words, _ in calls if "--method" in words
    ] == [
        ["POST", "repos/someone/models/issues/7/comments"],
        ["PATCH", "repos/someone/models/issues/comments/4711"],
        ["POST", "repos/someone/models/issues/7/comments"],
    ]
    assert {body for words, body in calls if "--method" in words} == {comment}
    log.unlink()
    run("Compare the models", BASE=third)
    run("Post the comment")
    assert all("--method" not in json.loads(line)[0] for line in log.read_text().splitlines()), (
        "nothing changed: nothing is posted"
    )
