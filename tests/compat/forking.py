"""``git theta`` commands as forks of a process that has imported Git-Theta.

A small command takes a tenth of a second to start Python and import, and a hundredth for its work.
The tests run thousands of them, so :func:`run` has a server fork for each. A command is still a
process of its own, with its own arguments, environment, folder, umask and pipes. What git starts
(the filter, the drivers, the hook, ``git theta`` itself) starts in the ordinary way.

Only on Linux: the other systems' runs in CI start every command in the ordinary way.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Python and libraries read these when they start or are imported
_AT_START = ("PYTHON", "COVERAGE_", "OPENBLAS_", "OMP_", "LC_", "LANG", "LD_")
_LENGTH = 1 << 20  # bytes of a request, at most
_server: _Server | None = None
_lock = threading.Lock()


def run(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[bytes] | None:
    """Run ``git theta WORDS`` with empty standard input, as ``subprocess.run`` would.

    None if the command must be started in the ordinary way: on another system, while coverage is
    measured, or in an environment in which Python would start differently.
    """
    global _server
    start = {key: value for key, value in environment.items() if key.startswith(_AT_START)}
    if sys.platform != "linux" or any(key.startswith("COVERAGE_") for key in start):
        return None
    with _lock:
        if _server is None:
            _server = _Server.start(environment, start)
    return _server.run(words, folder, environment, timeout) if _server.how == start else None


@dataclass(frozen=True, slots=True)
class _Server:
    """A process that forks for each command; it ends when this process does."""

    how: Mapping[str, str]
    socket: socket.socket
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, environment: Mapping[str, str], how: Mapping[str, str]) -> _Server:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LENGTH)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=dict(environment),
                stdin=subprocess.PIPE,  # a command's streams will be pipes, too
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
        server = cls(how, mine, process)
        atexit.register(server.stop)
        return server

    def stop(self) -> None:
        self.socket.close()
        self.process.communicate()

    def run(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        asked = [[os.fspath(word) for word in words], str(folder), dict(environment), _umask()]
        stdin, nothing = os.pipe()
        os.close(nothing)
        pipes = [os.pipe() for _ in ("output", "errors", "exit code")]
        theirs = [stdin, *(write for _, write in pipes)]
        try:
            socket.send_fds(self.socket, [json.dumps(asked).encode()], theirs)
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        said = _read([read for read, _ in pipes], time.monotonic() + timeout)
        if said is None:
            self.process.kill()
            raise subprocess.TimeoutExpired(list(words), timeout)
        out, errors, code = said
        assert code, f"the server of commands ended with {self.process.poll()}"
        return subprocess.CompletedProcess(list(words), int(code), out, errors)


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


def _serve(requests: socket.socket) -> list[str] | None:
    """Fork for each request: the command's words in a child, None in the server at the end."""
    running = selectors.DefaultSelector()
    running.register(requests, selectors.EVENT_READ)
    while True:
        for key, _ in running.select():
            if key.fileobj is requests:
                text, descriptors, _, _ = socket.recv_fds(requests, _LENGTH, 4)
                if not text:
                    return None
                child = os.fork()
                if not child:
                    for other in list(running.get_map().values()):
                        if other.fileobj is not requests:  # or that pipe would stay open as long
                            os.close(other.data[1])
                    requests.close()
                    running.close()
                    return _become(descriptors, *json.loads(text))
                for descriptor in descriptors[:3]:
                    os.close(descriptor)
                process = os.pidfd_open(child)
                running.register(process, selectors.EVENT_READ, (child, descriptors[3]))
            else:
                child, report = key.data
                running.unregister(key.fd)
                os.close(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                os.write(report, str(code).encode())
                os.close(report)


def _become(
    descriptors: Sequence[int],
    words: list[str],
    folder: str,
    environment: dict[str, str],
    umask: int,
) -> list[str]:
    """Take on what the command was asked for with; return its words."""
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    os.chdir(folder)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder  # as for python -m
    return words


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
