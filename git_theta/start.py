"""Start Git-Theta isolated from the Python settings of its surroundings: ``python -I …/git_theta/start.py ARGUMENTS``.

This is the command that ``git theta install`` records for git. ``-I`` makes Python ignore all ``PYTHON*`` variables, the current folder,
and the user's site-packages with their start-up files. Only the folder of this installation is added, between Python's own library and
its site-packages, which is where Python itself would look for ``pip install --user``.

The programs ``git-theta`` and ``git-merge-theta``, which git finds on PATH, start in the same way: once more, isolated.
"""

import os
import sys

FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OPTION = "git-theta-site"  # python -X git-theta-site=FOLDER: a second folder to add


def git_theta() -> int:
    """The program ``git-theta``: its exit code."""
    return _again([])


def git_merge_theta() -> int:
    """The program ``git-merge-theta``, which ``git merge -s theta`` runs: its exit code."""
    return _again(["merge-strategy"])


def words() -> list[str]:
    """The command that starts this installation, isolated; arguments follow it."""
    site = _second_folder()
    return [sys.executable, "-I", *(["-X", f"{_OPTION}={site}"] if site else []), os.path.abspath(__file__)]


def _second_folder() -> str:
    """The user's site-packages when our requirements are there, but not this package: ``pip install --user --editable``."""
    if sys.flags.isolated:
        return str(sys._xoptions.get(_OPTION, ""))
    site = sys.modules.get("site")
    folder = getattr(site, "USER_SITE", None)
    if not folder or not getattr(site, "ENABLE_USER_SITE", False) or folder == FOLDER:
        return ""
    try:
        names = os.listdir(folder)
    except OSError:
        return ""
    return folder if any(name.startswith("git_theta-") and name.endswith(".dist-info") for name in names) else ""


def _again(arguments: list[str]) -> int:
    """Run in this process if it is isolated, else in a new one."""
    if sys.flags.isolated:
        sys.argv[1:1] = arguments
        return _run()
    python, *options = words()
    if sys.stdout is not None and sys.stdout.encoding.lower().replace("-", "") == "utf8":
        options[:0] = ["-X", "utf8"]  # what the user told Python by PYTHONUTF8 or PYTHONIOENCODING still holds
    command = [python, *options, *arguments, *sys.argv[1:]]
    if os.name != "nt":
        os.execv(python, command)  # noqa: S606 - no shell is what is wanted
    import subprocess  # execv on Windows lets the caller go on before the new process has ended

    return subprocess.run(command, check=False).returncode


def _run() -> int:
    from git_theta.__main__ import main

    return main()


def _add(folder: str) -> None:
    """Have modules of ``folder`` found: after Python's own library, before its site-packages."""
    if folder and folder not in sys.path:
        ends = ("site-packages", "dist-packages")
        position = next((number for number, entry in enumerate(sys.path) if entry.endswith(ends)), len(sys.path))
        sys.path.insert(position, folder)


if __name__ == "__main__":
    _add(_second_folder())
    _add(FOLDER)
    sys.exit(_run())
