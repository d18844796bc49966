"""Git-Theta's commands and filter as forks of a process that has imported Git-Theta.

Starting Python and importing takes ten times as long as most commands' work, and the tests run
thousands of them. :func:`run` has a server fork for each ``git theta``; with :func:`quick`, git
starts :mod:`asking`, which does the same for the filter and the merge driver. A fork is a process
of its own, with the arguments, environment, folder, umask and pipes of whoever asked for it.

This is for tests of what a command does, not of how it starts or ends: those that kill processes,
race, or look at the installation let git start Git-Theta itself. And only on Linux: in the runs of
the other systems every command is started in the ordinary way.
"""

from __future__ import annotations

import atexit
import os
import re
import selectors
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import asking

# As "git theta install" records it, but the tests' PYTHON* variables have an effect. Starting it
# with -m would take a quarter longer.
PROGRAM = (
    Path(sys.executable).as_posix(),
    "-P",
    (Path(__file__).resolve().parents[2] / "git_theta" / "start.py").as_posix(),
)
# Python and libraries read these when they start or are imported
_AT_START = ("PYTHON", "COVERAGE_", "OPENBLAS_", "OMP_", "LC_", "LANG", "LD_")
_VARIABLE = "TESTS_OF_THETA_SERVER"  # set by quick(): the server's name
_start: Mapping[str, str] = {}
_server: _Server | None = None
_lock = threading.Lock()


def serve(environment: Mapping[str, str]) -> None:
    """From now on fork for commands that would start as in ``environment``.

    Not on other systems, nor while coverage is measured.
    """
    global _start
    if sys.platform == "linux" and not any(key.startswith("COVERAGE_") for key in environment):
        _start = dict(environment)


def run(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[bytes] | None:
    """Run ``git theta WORDS`` with empty standard input, as ``subprocess.run`` would.

    None if nothing is forked, or in an environment in which Python would start differently.
    """
    server = _started(environment)
    return server.run(words, folder, environment, timeout) if server else None


def quick(environment: Mapping[str, str], config: Path) -> Mapping[str, str]:
    """``environment`` in which git has the server fork where its configuration starts Git-Theta.

    Writes that configuration into the file ``config``.
    """
    server = _started(environment)
    if server is None:
        return environment
    old = Path(environment["GIT_CONFIG_GLOBAL"]).read_text(encoding="utf-8")
    asked = {**environment, "GIT_CONFIG_GLOBAL": str(config), _VARIABLE: server.name}
    new = old.replace(shlex.join(PROGRAM), shlex.join(program(asked)))
    assert new != old
    config.write_text(new, encoding="utf-8")
    return asked


def program(environment: Mapping[str, str]) -> tuple[str, ...]:
    """What starts Git-Theta in the configuration of ``environment``, or has the server fork."""
    name = environment.get(_VARIABLE)
    return (sys.executable, "-I", "-S", asking.__file__, name) if name else PROGRAM


def _started(environment: Mapping[str, str]) -> _Server | None:
    global _server
    if not _start or _how(environment) != _how(_start):
        return None
    with _lock:
        _server = _server or _Server.start(_start)
    return _server


def _how(environment: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key.startswith(_AT_START)}


@dataclass(frozen=True, slots=True)
class _Server:
    """A process that forks for whoever asks; it ends when this process does."""

    name: str
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, environment: Mapping[str, str]) -> _Server:
        name = f"git-theta-tests-{os.getpid()}-{os.urandom(8).hex()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(f"\0{name}")
            listening.listen(64)
            process = subprocess.Popen(
                [sys.executable, __file__, str(listening.fileno())],
                env=dict(environment),
                stdin=subprocess.PIPE,  # its end is the server's
                stdout=subprocess.PIPE,  # a command's streams will be pipes, too
                stderr=subprocess.PIPE,
                pass_fds=[listening.fileno()],
            )
        atexit.register(process.communicate)
        return cls(name, process)

    def run(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        stdin, nothing = os.pipe()
        os.close(nothing)
        pipes = [os.pipe() for _ in ("output", "errors")]
        theirs = [stdin, *(write for _, write in pipes)]
        asked = [os.fspath(word) for word in words]
        try:
            connection = asking.ask(
                self.name, asked, str(folder), dict(environment), _umask(), theirs
            )
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        try:
            said = _read([read for read, _ in pipes], time.monotonic() + timeout)
            if said is None:
                self.process.kill()
                raise subprocess.TimeoutExpired(asked, timeout)
            code = connection.recv(16)
            assert code, f"the server of commands ended with {self.process.poll()}"
            return subprocess.CompletedProcess(asked, int(code), *said)
        finally:
            connection.close()


def _umask() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"^Umask:\s*(\d+)$", status, re.MULTILINE)[0], 8)


def _read(descriptors: Sequence[int], deadline: float) -> list[bytes] | None:
    """What each pipe gives until its end; closes them. None when the deadline has passed."""
    parts: dict[int, list[bytes]] = {descriptor: [] for descriptor in descriptors}
    with selectors.DefaultSelector() as selector:
        for descriptor in descriptors:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready and time.monotonic() > deadline:
                return None
            for key, _ in ready:
                if part := os.read(key.fd, 1 << 16):
                    parts[key.fd].append(part)
                else:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return [b"".join(part) for part in parts.values()]


# In the server


def _serve(listening: socket.socket) -> list[str] | None:
    """Fork for each request: the command's words in a child, None in the server at the end."""
    how = _how(os.environ)
    waiting = selectors.DefaultSelector()
    waiting.register(0, selectors.EVENT_READ)
    waiting.register(listening, selectors.EVENT_READ)
    children: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for key, _ in waiting.select():
            if key.fd == 0:
                return None
            if key.fd in children:
                child, connection = children.pop(key.fd)
                waiting.unregister(key.fd)
                os.close(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with suppress(BrokenPipeError), connection:
                    connection.send(str(code).encode())
                continue
            connection, _ = listening.accept()
            data, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
            umask, asker, folder, count, *rest = os.fsdecode(data).split("\0")
            words, pairs = rest[: int(count)], rest[int(count) :]
            variables = dict(pair.split("=", 1) for pair in pairs)
            child = os.fork() if _how(variables) == how else -1
            if not child:
                for other in (listening, connection, *(one for _, one in children.values())):
                    other.close()
                for number, file in enumerate(files):
                    os.dup2(file, number)
                    os.close(file)
                os.getppid = partial(int, asker)  # who asked, not this server
                os.chdir(folder)
                os.umask(int(umask))
                os.environ.clear()
                os.environ.update(variables)
                sys.path[0] = folder  # as for python -m
                return words
            for file in files:
                os.close(file)
            if child < 0:
                connection.close()
            else:
                process = os.pidfd_open(child)
                children[process] = child, connection
                waiting.register(process, selectors.EVENT_READ)


def _main() -> int:
    import gc
    import pkgutil
    from importlib import import_module

    import numpy as np  # noqa: F401
    import rich.table  # noqa: F401

    import git_theta
    from git_theta import __main__ as program

    for module in pkgutil.walk_packages(git_theta.__path__, "git_theta."):
        if not module.name.startswith("git_theta.training."):  # they import their frameworks
            import_module(module.name)
    gc.collect()
    gc.freeze()  # or the children would copy all of it as soon as they look for garbage
    words = _serve(socket.socket(fileno=int(sys.argv[1])))
    if words is None:
        return 0
    sys.argv = [program.__file__, *words]
    code = program.main()
    # As at the end of Python, which would also take all modules apart and so copy them
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(_main())
