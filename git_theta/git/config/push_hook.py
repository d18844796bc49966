"""Git's pre-push hook: putting ours in beside whatever is there, and taking it out without a trace.

A shell script keeps its place, and its ``$0``: a few marked lines behind its first line run ours
and hand what git writes to standard input on to the rest of the script. They run the program that
'git theta install' recorded; without one, that on PATH. Anything else (another language, a symbolic
link, a file that is switched off) is moved aside and called from a script of ours. Both are undone
byte for byte. Where hooks are is git's answer, so ``core.hooksPath`` counts.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from git_theta.errors import GitError
from git_theta.git.command import run
from git_theta.git.config.remotes import base_folder
from git_theta.git.repository import Repository

NAME = "pre-push"
ASIDE = f"{NAME}.before-git-theta"
_BEGIN = (
    "# >>> git-theta: sends the objects of models before git sends their commits; 'git theta"
    " uninstall' removes these lines"
)
_END = "# <<< git-theta"
_BLOCK = f"""{_BEGIN}
git_theta_input=$(cat; echo .)
git_theta_run=$(git config alias.theta || :)
case $git_theta_run in '!: written by git theta install; '*) ;; *) \
git_theta_run='!git theta' ;; esac
printf %s "${{git_theta_input%.}}" | git -c "alias.theta-hook=$git_theta_run" theta-hook \
pre-push "$@" || {{
  command -v git-theta >/dev/null || git config alias.theta >/dev/null ||
    echo "git-theta is not installed: install it, or remove its lines from \
$0 to push models without their objects" >&2
  exit 1
}}
case $git_theta_input in .) exec </dev/null ;; *) exec <<GIT_THETA_END
${{git_theta_input%?.}}
GIT_THETA_END
;; esac
{_END}
"""
_OWN = f"#!/bin/sh\n{_BLOCK}"
_WRAPPER = f"""{_OWN}# The hook that was here before, called as git called it.
if test -x "$(dirname -- "$0")/{ASIDE}"; then exec "$(dirname -- "$0")/{ASIDE}" "$@"; fi
"""
_SHELLS = re.compile(
    rb"#![ \t]*(?:\S*/)?(?:env[ \t]+)?(?:-\S+[ \t]+)*(?:ba|da|a|k|z)?sh(?:[ \t].*)?\r?\Z"
)
_CALLS = re.compile(rb"^[^#\n]*\btheta pre-push\b", re.MULTILINE)
_GIT_LFS = re.compile(rb"#!/bin/sh\n(?:command -v git-lfs[^\n]*\n)?git lfs pre-push \"\$@\"\n?\Z")


class State(Enum):
    """What the pre-push hook is."""

    ABSENT = "there is none"
    OURS = "ours, alone"
    BOTH = "ours and another one"
    CALLS = "someone else's, which calls ours"
    GIT_LFS = "git-lfs's own"
    OTHER = "someone else's"


@dataclass(frozen=True, slots=True)
class Hook:
    """The hook of one repository: where it is, what it is, whether its folder is the user's own
    choice (``core.hooksPath``), and in the working tree. Git ignores one that is ``off``: the file
    is not executable.
    """

    path: Path
    state: State
    chosen: bool
    in_worktree: bool = False
    off: bool = False

    @property
    def present(self) -> bool:
        """Whether ours runs at a push."""
        return self.state in (State.OURS, State.BOTH, State.CALLS) and not self.off

    @property
    def needs_consent(self) -> bool:
        """Whether ours is not run, and may be added only by 'git theta install': the user chose the
        folder, and something would change.
        """
        free = self.state is State.ABSENT or (self.state is State.GIT_LFS and not self.chosen)
        return not self.present and (self.in_worktree or (self.chosen and not free))


def look(repository: Repository) -> Hook:
    """The pre-push hook in force."""
    base = base_folder(repository)
    named = run(["rev-parse", "--git-path", f"hooks/{NAME}"], cwd=base)
    path = base / named.decode("utf-8", "surrogateescape").rstrip("\n")
    chosen = Path(os.path.normpath(path.parent)) != Path(
        os.path.normpath(repository.common_dir / "hooks")
    )
    inside = (
        chosen
        and repository.worktree is not None
        and path.resolve().is_relative_to(repository.worktree.resolve())
    )
    return Hook(path, _state(path), chosen, inside, path.exists() and not os.access(path, os.X_OK))


def _state(path: Path) -> State:
    if not os.path.lexists(path):
        return State.ABSENT
    try:
        text = path.read_bytes()
    except OSError:
        return State.OTHER
    if _BEGIN.encode() in text:
        return State.OURS if _without_block(text) == b"#!/bin/sh\n" else State.BOTH
    if _CALLS.search(text):
        return State.CALLS
    return State.GIT_LFS if _GIT_LFS.match(text) else State.OTHER


def install(repository: Repository) -> Hook:
    """Make ours run at every push, beside what is there.

    :class:`GitError` when the file cannot be written.
    """
    hook = look(repository)
    if hook.state in (State.OURS, State.BOTH) and (hook.off or not _is_current(hook.path)):
        uninstall(repository)
        hook = look(repository)
    if hook.present:
        return hook
    try:
        hook.path.parent.mkdir(parents=True, exist_ok=True)
        if hook.state is State.ABSENT:
            _write(hook.path, _OWN.encode(), None)
        elif _takes_lines(hook.path):
            text = hook.path.read_bytes()
            if _BEGIN.encode() in text:  # another git command was faster
                return look(repository)
            first, newline, rest = (
                text.partition(b"\n") if text.startswith(b"#!") else (b"", b"", text)
            )
            _write(hook.path, first + newline + _BLOCK.encode() + rest, hook.path.stat())
        else:
            _chain(hook.path)
    except OSError as error:
        if isinstance(error, GitError):
            raise
        raise GitError(
            f"the hook {hook.path} cannot be written: {error.strerror or error}"
        ) from None
    return look(repository)


def _chain(path: Path) -> None:
    """Move the hook at ``path`` aside and put ours in its place, which calls it."""
    aside = path.with_name(ASIDE)
    try:
        # Unlike a rename it never replaces what another process has put there
        os.link(path, aside, follow_symlinks=False)
    except FileExistsError:
        if _BEGIN.encode() in path.read_bytes():
            return  # another git command was faster
        raise GitError(
            f"{path} cannot be chained: {aside} exists already; move it away first"
        ) from None
    except (OSError, NotImplementedError):  # a file system without links
        path.rename(aside)
        try:
            _write(path, _WRAPPER.encode(), None)
        except OSError:
            aside.rename(path)
            raise
        return
    try:
        _write(path, _WRAPPER.encode(), None)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def ensure(repository: Repository, say: Callable[[str], None]) -> None:
    """Have ours run at pushes from now on, as far as that needs nobody's consent; else say what to
    do.

    Called when a model passes through the filter: whoever cloned a repository never ran 'install'
    in it. A script in the repository's own hooks folder is chained. A folder that the user chose is
    added to only where nothing there changes.
    """
    hook = look(repository)
    if hook.present:
        return
    if hook.needs_consent:
        say(silence(hook))
        return
    install(repository)
    if hook.state is State.OTHER:
        say(
            f"added itself to {hook.path}, which runs as before; 'git theta uninstall' takes it out"
            " again"
        )


def silence(hook: Hook) -> str:
    """Why 'git push' would send no objects, and what to do about it; empty when ours runs."""
    if hook.present:
        return ""
    if hook.state is State.ABSENT:
        what = f"there is no hook {hook.path}"
    elif hook.off:
        what = f"git ignores {hook.path}, which is not executable"
    else:
        what = (
            f"{hook.path}{' is the one of git-lfs and' if hook.state is State.GIT_LFS else ''} does"
            " not call Git-Theta"
        )
    return (
        f"pushes would leave the models' objects behind: {what}; run 'git theta install', or let"
        " the hook run 'git theta pre-push \"$@\"' with git's input ('git config theta.hook"
        " manual' ends this message)"
    )


def uninstall(repository: Repository) -> bool:
    """Take ours out again; what was there before is as it was.

    Whether there was anything to take out.
    """
    hook = look(repository)
    if hook.state not in (State.OURS, State.BOTH):
        return False
    try:
        text = hook.path.read_bytes()
        aside = hook.path.with_name(ASIDE)
        rest = _without_block(text)
        if rest == b"#!/bin/sh\n":
            hook.path.unlink()
        elif text.endswith(_WRAPPER.encode()[len(_OWN.encode()) :]) and os.path.lexists(aside):
            aside.replace(hook.path)
        else:
            _write(hook.path, rest, hook.path.stat())
    except OSError as error:
        raise GitError(
            f"the hook {hook.path} cannot be restored: {error.strerror or error}"
        ) from None
    return True


def _is_current(path: Path) -> bool:
    return _BLOCK.encode() in path.read_bytes()


def _takes_lines(path: Path) -> bool:
    """Whether the file is a shell script that git runs: then lines may stand before its own."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or (os.name != "nt" and not status.st_mode & 0o100):
        return False
    text = path.read_bytes()
    return (
        b"\0" not in text
        and b"\r\n" not in text
        and (not text.startswith(b"#!") or bool(_SHELLS.match(text.partition(b"\n")[0])))
    )


def _without_block(text: bytes) -> bytes:
    begin = text.find(_BEGIN.encode())
    end = text.find(_END.encode() + b"\n", begin)
    return text if begin < 0 or end < 0 else text[:begin] + text[end + len(_END) + 1 :]


def _write(path: Path, text: bytes, like: os.stat_result | None) -> None:
    """Replace the file at once, with the permissions it had (or an executable's)."""
    import tempfile

    handle, name = tempfile.mkstemp(prefix=f".{NAME}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text)
        if like is not None:
            temporary.chmod(stat.S_IMODE(like.st_mode))
        else:
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o777 & ~umask)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
