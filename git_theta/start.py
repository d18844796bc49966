"""Start Git-Theta isolated from the Python settings of its surroundings: ``python -I
…/git_theta/start.py ARGUMENTS``.

This is the command that ``git theta install`` records for git. ``-I`` makes Python ignore all
``PYTHON*`` variables, the current folder, and the user's site-packages with their start-up files.
Only the folder of this installation is added, between Python's own library and its site-packages,
where Python itself would look for ``pip install --user``.

The programs ``git-theta`` and ``git-merge-theta``, which git finds on PATH, start in the same way:
once more, isolated.
"""

import os
import sys


def git_theta() -> int:
    """The program ``git-theta``: its exit code."""
    return _program([])


def git_merge_theta() -> int:
    """The program ``git-merge-theta``, which ``git merge -s theta`` runs: its exit code."""
    return _program(["merge-strategy"])


def _program(arguments: list[str]) -> int:
    if not sys.flags.isolated:
        from git_theta.isolation import again

        return again([*arguments, *sys.argv[1:]])
    sys.argv[1:1] = arguments
    return _run()


def _run() -> int:
    from git_theta.__main__ import main

    return main()


def _find_modules() -> None:
    """Have modules of this installation found: after Python's own library, before its
    site-packages.
    """
    _add(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if len(sys._xoptions):
        from git_theta.isolation import second_folder

        _add(second_folder())


def _add(folder: str) -> None:
    if folder and folder not in sys.path:
        ends = ("site-packages", "dist-packages")
        position = next(
            (number for number, entry in enumerate(sys.path) if entry.endswith(ends)), len(sys.path)
        )
        sys.path.insert(position, folder)


if __name__ == "__main__":
    _find_modules()
    sys.exit(_run())
