"""Commands of ours that are killed at a chosen moment, however busy the machine is."""

from __future__ import annotations

import signal
import sys

from gitrepo import Repo

_CODE = """
import importlib, os, signal, sys
from git_theta.__main__ import main
module, name, calls = sys.argv.pop(1), sys.argv.pop(1), int(sys.argv.pop(1))
holder = importlib.import_module(module)
*outer, name = name.split(".")
for part in outer:
    holder = getattr(holder, part)
original = getattr(holder, name)
def dying(*arguments, **options):
    global calls
    result = original(*arguments, **options)
    calls -= 1
    if calls <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(holder, name, dying)
sys.exit(main())
"""


def killed(repo: Repo, module: str, function: str, calls: int, *words: str) -> None:
    """Run ``git theta WORDS``, which is killed as soon as ``function`` of ``module`` has returned
    ``calls`` times.
    """
    done = repo.run([sys.executable, "-c", _CODE, module, function, str(calls), *words])
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stderr)
