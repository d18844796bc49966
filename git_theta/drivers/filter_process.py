"""The long-running filter: git starts it once a command and sends it every tracked file to clean or
smudge.

What it imports at the top is what git waits for before the first file; everything heavier comes
with the first file that needs it.
"""

from __future__ import annotations

import os
import sys
import time
from io import FileIO
from typing import TYPE_CHECKING

from git_theta.drivers import blas
from git_theta.drivers.pipes import Input, enlarge, say, write_all
from git_theta.errors import ThetaError, damaged
from git_theta.git import pktline

if TYPE_CHECKING:
    from git_theta.drivers.filter_work import FilterWork
    from git_theta.git.repository import Repository


def main(arguments: list[str] | None = None) -> int:
    """Serve git on standard input and output until it closes them; the exit code."""
    blas.keep_to_one_thread()
    skip = "--skip" in (arguments or ()) or os.environ.get("GIT_THETA_SKIP_SMUDGE", "") not in (
        "",
        "0",
    )
    stdin, stdout = _open_streams()
    try:
        source = Input(stdin)
        _handshake(source, stdout)
        _serve(source, stdout, skip)
    except (EOFError, BrokenPipeError):
        pass
    except KeyboardInterrupt:
        return 130
    except ThetaError as error:
        say(str(error))
        return 1
    return 0


def _open_streams() -> tuple[FileIO, FileIO]:
    """Unbuffered ends of git's pipes, made as large as the system lets them be: fewer switches
    between git and us.
    """
    if sys.platform == "win32":
        import msvcrt

        for stream in (sys.stdin, sys.stdout):
            msvcrt.setmode(stream.fileno(), os.O_BINARY)
    for descriptor in (0, 1):
        enlarge(descriptor)
    return open(0, "rb", buffering=0, closefd=False), open(1, "wb", buffering=0, closefd=False)


def _handshake(source: Input, stdout: FileIO) -> None:
    hello = pktline.read_list(source)
    if hello[:1] != ["git-filter-client"] or "version=2" not in hello:
        raise ThetaError("this command is for git to run; see 'git theta install --help'")
    write_all(stdout, pktline.text("git-filter-server") + pktline.text("version=2") + pktline.FLUSH)
    offered = pktline.read_list(source)
    wanted = [
        f"capability={name}"
        for name in ("clean", "smudge", "delay")
        if f"capability={name}" in offered
    ]
    write_all(stdout, b"".join(map(pktline.text, wanted)) + pktline.FLUSH)


def _serve(source: Input, stdout: FileIO, skip: bool) -> None:
    work = None
    try:
        while True:
            request = dict(line.partition("=")[::2] for line in pktline.read_list(source))
            asked_at = time.time_ns()
            if work is None:
                try:
                    work = _start(source, stdout, skip)
                except (ThetaError, ImportError) as error:
                    say(damaged(error) if isinstance(error, ImportError) else str(error))
                    _refuse(source, stdout)
                    continue
            work.answer(request, asked_at)
    finally:
        if work is not None:
            work.close()


def _refuse(source: Input, stdout: FileIO) -> None:
    """Fail the request whose header was read, and have git ask for no more.

    If we just ended, git would quote our whole command line.
    """
    while pktline.read_packet(source) is not None:
        pass
    write_all(stdout, pktline.text("status=abort") + pktline.FLUSH)


def _start(source: Input, stdout: FileIO, skip: bool) -> FilterWork:
    """Ask git about the repository while the modules that do the work are being imported."""
    from threading import Thread

    facts: list[object] = []
    asking = Thread(target=_ask, args=(facts,))
    asking.start()
    failures: list[BaseException] = []
    try:
        from git_theta.drivers.filter_work import FilterWork
        from git_theta.workflows.storing import clean  # noqa: F401 - meanwhile git answers
    except ImportError as error:
        failures.append(error)
    asking.join()
    if isinstance(facts[-1], BaseException):
        failures.append(facts[-1])
    for failure in sorted(failures, key=lambda error: not isinstance(error, ModuleNotFoundError)):
        raise failure  # of two threads that import the same module, only one is told what it lacks
    repository, settings = facts
    return FilterWork(source, stdout, repository, settings, skip, say)  # type: ignore[arg-type]  # see _ask


def _ask(facts: list[object]) -> None:
    try:
        from git_theta.git.config.config_file import load_settings
        from git_theta.git.repository import discover

        repository, settings = discover(), load_settings()
        if settings.hook == "auto":
            _look_after_hook(repository, settings.hooks_path)
        facts += [repository, settings]
    except BaseException as error:
        facts.append(error)


def _look_after_hook(repository: Repository, chosen: str) -> None:
    """Whoever has models here will push them one day; trouble with the hook must not keep anyone
    from adding them.
    """
    if not chosen and _is_called(repository):
        return
    from git_theta.git.config import push_hook

    try:
        push_hook.ensure(repository, say)
    except ThetaError as error:
        say(f"warning: {error}")


def _is_called(repository: Repository) -> bool:
    """Whether the hook in its usual place is seen at a glance to run ours: then there is nothing to
    ask git.
    """
    path = repository.common_dir / "hooks" / "pre-push"
    try:
        with open(path, "rb") as file:
            return b"\n# >>> git-theta: " in file.read(4096) and os.access(path, os.X_OK)
    except OSError:
        return False
