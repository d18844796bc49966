"""git-theta with its windows held open: a program for the tests of races, run in place of
``git-theta``.

``GIT_THETA_TEST_PAUSES`` names a JSON file: ``pauses`` are functions (``module:Class.name``) before
or after whose call a process waits for the file ``go`` in a folder, once it has made the file
``reached`` there; ``jitter`` are functions around which it sleeps for a moment; what is older than
``began`` (seconds since the epoch) counts as older than a day; ``patience`` is how long a lock is
waited for.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

VARIABLE = "GIT_THETA_TEST_PAUSES"
_DEADLINE = 600.0  # seconds, as everywhere: only what hangs is ended
_PRUNE, _FOLDER = "git_theta.workflows.maintenance.prune", "git_theta.store.folder"
# Importing these would only take time
_UNUSED = {"filter-process": (_PRUNE, _FOLDER), "pre-push": (_PRUNE,)}


def arrange(asked: Mapping[str, Any], command: str = "") -> None:
    """Change the modules of this process, which runs ``command``, as ``asked``."""
    for pause in asked.get("pauses", ()):
        _wrap(pause["at"], _pausing(Path(pause["folder"]), pause["when"]))
    for place in asked.get("jitter", ()):
        if place.partition(":")[0] not in _UNUSED.get(command, ()):
            _wrap(place, _jittering)
    if "began" in asked:
        _begin(asked["began"], command)
    if "patience" in asked:
        importlib.import_module("git_theta.store.guard").__dict__["_PATIENCE"] = asked["patience"]


def _wrap(place: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    module, _, name = place.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, last = name.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, last, wrapper(getattr(owner, last)))


def _pausing(folder: Path, when: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def pause() -> None:
        try:
            (folder / "reached").open("xb").close()
        except FileExistsError:
            return  # the first one waits
        deadline = time.monotonic() + _DEADLINE
        while not (folder / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.005)

    def wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            if when == "before":
                pause()
            outcome = function(*arguments, **named)
            if when == "after":
                pause()
            return outcome

        return wrapped

    return wrapper


def _jittering(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **named: Any) -> Any:
        time.sleep(random.random() ** 4 * 0.05)
        outcome = function(*arguments, **named)
        time.sleep(random.random() ** 4 * 0.05)
        return outcome

    return wrapped


def _begin(began: float, command: str) -> None:
    """Let the clock of what decides by age stand still: all that was there at ``began`` is old, all
    that came since is young.
    """
    from git_theta.store import local

    clock = SimpleNamespace(time=lambda: began + local._FRESH, monotonic=time.monotonic)
    vars(local)["time"] = clock
    if _PRUNE not in _UNUSED.get(command, ()):
        from git_theta.workflows.maintenance import prune

        clock = SimpleNamespace(time=lambda: began + prune.GRACE, monotonic=time.monotonic)
        vars(prune)["time"] = clock


def main() -> int:
    from git_theta import __main__ as program

    name = os.environ.get(VARIABLE)
    if name:
        arrange(json.loads(Path(name).read_text("utf-8")), sys.argv[1])
    return program.main()


if __name__ == "__main__":
    sys.exit(main())
