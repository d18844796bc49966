"""How to start this installation so that nothing around it reaches its code: see
:mod:`git_theta.start`.
"""

import os
import sys

FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OPTION = "git-theta-site"  # python -X git-theta-site=FOLDER


def words() -> list[str]:
    """The command that starts this installation, isolated: Python, its options, and the script.

    Arguments follow it.
    """
    site = second_folder()
    return [
        sys.executable,
        "-I",
        *(["-X", f"{_OPTION}={site}"] if site else []),
        os.path.join(FOLDER, "git_theta", "start.py"),
    ]


def second_folder() -> str:
    """The user's site-packages after ``pip install --user --editable``: it holds what this package
    requires, not itself. Else empty.
    """
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
    return (
        folder
        if any(name.startswith("git_theta-") and name.endswith(".dist-info") for name in names)
        else ""
    )


def again(arguments: list[str]) -> int:
    """Run ``git-theta ARGUMENTS`` isolated, in place of this process (on Windows: in a new one);
    the exit code.
    """
    python, *options = words()
    if sys.stdout is not None and sys.stdout.encoding.lower().replace("-", "") == "utf8":
        # What the user told Python by PYTHONUTF8 or PYTHONIOENCODING still holds
        options[:0] = ["-X", "utf8"]
    command = [python, *options, *arguments]
    if os.name != "nt":
        os.execv(python, command)  # noqa: S606 - without a shell
    # After execv on Windows the caller would go on before the new process has ended
    import subprocess

    return subprocess.run(command, check=False).returncode
