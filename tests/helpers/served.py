"""HTTP servers of tests, in a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TypeVar

Made = TypeVar("Made", bound=ThreadingHTTPServer)


class ManyConnections(ThreadingHTTPServer):
    """A server that keeps nobody waiting who asks for many things at once."""

    daemon_threads = True
    request_queue_size = 128


@contextmanager
def served(server: Made) -> Iterator[Made]:
    """Answer requests until the block is left."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
