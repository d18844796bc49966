"""What git starts in place of Git-Theta in many tests: it asks the server of :mod:`forking` for a
fork, and ends as that does.

``python -I -S asking.py SOCKET WORDS...``: it imports nothing that takes time.
"""

import _socket
import os
import sys

_START = os.path.join(os.path.dirname(__file__), "..", "..", "git_theta", "start.py")


def ask(
    name: str,
    words: list[str],
    folder: str,
    variables: dict[str, str],
    umask: int,
    files: list[int],
) -> _socket.socket:
    """Ask the server for ``git theta WORDS`` with ``files`` as its standard streams. From what is
    returned the exit code can be read when it has ended; nothing if the server refuses.
    """
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    connection.connect(f"\0{name}")
    parts = [f"{umask}", f"{os.getpid()}", folder, f"{len(words)}", *words]
    parts += [f"{key}={value}" for key, value in variables.items()]
    numbers = b"".join(file.to_bytes(4, sys.byteorder) for file in files)
    connection.sendmsg(
        [os.fsencode("\0".join(parts))], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)]
    )
    return connection


def main() -> None:
    umask = os.umask(0)
    os.umask(umask)
    name, *words = sys.argv[1:]
    code = ask(name, words, os.getcwd(), dict(os.environ), umask, [0, 1, 2]).recv(16)
    if not code:
        os.execv(sys.executable, [sys.executable, "-P", _START, *words])
    os._exit(int(code))


if __name__ == "__main__":
    main()
