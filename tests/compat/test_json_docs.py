"""The keys of JSON that docs/stability.md promises are those that commands print."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator

import numpy as np
from gitrepo import ROOT, Repo
from small_models import safetensors_file

PAGE = (ROOT / "docs" / "stability.md").read_text("utf-8")
ROWS = {
    row[0].strip("`"): (row[1], re.findall(r"`(\w+)`", row[2]))
    for line in PAGE.partition("\n## JSON\n")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| `")
    for row in [[cell.strip() for cell in line.strip("|").split(" | ")]]
}


def model(value: float) -> bytes:
    return safetensors_file({"w": np.full((8, 8), value, np.float32), "b": np.ones(3, np.float32)})


def printed(repo: Repo) -> Iterator[tuple[str, object]]:
    """What each command of the table prints."""
    driver = f"{sys.executable} -m git_theta merge-driver %O %A %B %P"
    repo.git("config", "merge.theta.driver", driver)
    repo.write(".gitattributes", repo.read(".gitattributes") + b"*.safetensors merge=theta\n")
    repo.git("add", ".gitattributes")
    repo.commit("base", m__safetensors=model(1))
    repo.git("switch", "-q", "-c", "side")
    repo.commit("theirs", m__safetensors=model(2))
    repo.git("switch", "-q", "main")
    repo.commit("ours", m__safetensors=model(3))
    evaluate = f'{sys.executable} -c "print(1)" {{checkpoint}}'
    merge = repo.theta("merge", "side", "--eval", evaluate, "-s", "average", "--json", "--dry-run")
    yield "git theta merge --eval … --json --dry-run", json.loads(merge)
    repo.theta("merge", "side", "-s", "average", "-m", "merged")
    for command in ROWS:
        if not command.startswith("git theta merge "):
            words = command.replace("REV:PATH", "HEAD:m.safetensors").split()[2:]
            # env exits with 1 for what is not set up
            yield command, json.loads(repo.theta_run(*words).stdout)


def test_the_keys_are_those_of_the_page(repo: Repo) -> None:
    found = {}
    for command, value in printed(repo):
        kind = "an object" if isinstance(value, dict) else "a list of objects"
        items = [value] if isinstance(value, dict) else value
        assert isinstance(items, list)
        assert items, command
        found[command] = kind, list(dict.fromkeys(key for item in items for key in item))
    lines = [
        f"| `{command}` | {kind} | {', '.join(f'`{key}`' for key in keys)} |"
        for command, (kind, keys) in sorted(found.items())
    ]
    assert {name: (kind, sorted(keys)) for name, (kind, keys) in found.items()} == {
        name: (kind, sorted(keys)) for name, (kind, keys) in ROWS.items()
    }, "the rows should be:\n" + "\n".join(lines)
