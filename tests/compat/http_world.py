"""A remote whose objects are at a real Git LFS server over HTTP, and the collectors of forges."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from gitrepo import Repo
from served import ManyConnections, served
from serving import Proxy
from sharing import World

from git_theta.core.manifest import parse

SECRET = "a-secret-of-the-servers-that-is-long-enough"


class HttpWorld(World):
    """A remote whose objects are at a Git LFS server over HTTP, behind a proxy."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], between: Proxy, storage: Path
    ) -> None:
        super().__init__(folder, environment, server=False)
        self.between = between
        self.name = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        self.storage = storage / "org" / self.name
        self.credentials = folder / "credentials"
        self.let_in(SECRET)
        config = folder / "gitconfig"
        config.write_text(
            Path(environment["GIT_CONFIG_GLOBAL"]).read_text() + "[lfs]\n\turl ="
            f" http://127.0.0.1:{between.port}/org/{self.name}.git/info/lfs\n\tlocksverify ="
            " false\n"
            + '\tbasicTransfersOnly = true\n[lfs "transfer"]\n\tmaxRetries = 3\n\tmaxRetryDelay'
            " = 1\n"
            + f'[credential]\n\thelper = "store --file={self.credentials}"\n'
            + '[filter "lfs"]\n\tprocess = git-lfs filter-process\n\trequired = true\n\tclean ='
            " git-lfs clean -- %f\n"
        )
        self.environment["GIT_CONFIG_GLOBAL"] = str(config)

    def let_in(self, secret: str) -> None:
        """Have git know a token that is signed with ``secret``."""
        import jwt

        words = {"exp": int(time.time()) + 3600, "scopes": f"obj:org/{self.name}/*:read,write"}
        token = jwt.encode(words, secret, algorithm="HS256")
        self.credentials.write_text(f"http://_jwt:{token}@127.0.0.1:{self.between.port}\n")

    def objects(self) -> set[str]:
        found = set()
        for path in self.storage.rglob("*"):
            if path.is_file():
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
                found.add(path.name)
        return found

    def healed(self) -> None:
        self.between.fault = lambda method, path, number: ""


def collected_by_gitlab(bare: Repo, objects: set[str]) -> set[str]:
    """The objects that no pointer reachable from a ref names."""
    listed = bare.git("rev-list", "--objects", "--no-object-names", "--all")
    text = bare.git("cat-file", "--batch", stdin=listed)
    form = rb"(?m)^\S+ blob \d+\nversion https://git-lfs.github.com/spec/v1\noid sha256:(\w{64})\n"
    return objects - {oid.decode() for oid in re.findall(form, text)}


def collected_by_gitea(bare: Repo, sizes: Mapping[str, int]) -> set[str]:
    """The objects whose exact pointer is not a blob of the repository, reachable or not."""
    algorithm = bare.git("rev-parse", "--show-object-format").decode().strip()
    listed = bare.git("cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
    there = set(listed.decode().split())

    def blob(oid: str, size: int) -> str:
        text = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
            oid.encode(),
            size,
        )
        return hashlib.new(algorithm, b"blob %d\0%s" % (len(text), text)).hexdigest()

    return {oid for oid, size in sizes.items() if blob(oid, size) not in there}


def needed_sizes(repo: Repo, *revisions: str) -> dict[str, int]:
    """The objects that all manifests of the history of revisions need, with their sizes."""
    found: dict[str, int] = {}
    listed = repo.git("rev-list", "--objects", "--no-object-names", *(revisions or ("--all",)))
    for name in listed.decode().split():
        if repo.git("cat-file", "-t", name).strip() == b"blob":
            text = repo.git("cat-file", "blob", name)
            if text.startswith(b"git-theta manifest "):
                found |= parse(text).objects()
    return found


@dataclass(frozen=True)
class GitServer:
    """A server of git over HTTP that wants a password."""

    port: int
    folder: Path
    user: str = "somebody"
    password: str = "a-password"

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def header(self) -> str:
        word = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return f"Authorization: Basic {word}"

    def url(self, repository: Path) -> str:
        return f"{self.root}{repository.relative_to(self.folder)}"


@contextmanager
def git_server(folder: Path) -> Iterator[GitServer]:
    """Serve the repositories below ``folder`` by git's own program."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def answer(self) -> None:
            given = self.headers.get("Authorization")
            if given is None or f"Authorization: {given}" != state[0].header:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            variables = {
                "GIT_PROJECT_ROOT": str(folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REMOTE_USER": state[0].user,
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            }
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            done = subprocess.run(
                ["git", "http-backend"],
                input=body,
                capture_output=True,
                env={"PATH": os.environ["PATH"], "CONTENT_LENGTH": str(len(body)), **variables},
                check=True,
            )
            head, _, data = done.stdout.partition(b"\r\n\r\n")
            lines = [line.split(": ", 1) for line in head.decode().split("\r\n")]
            status = next((text for name, text in lines if name == "Status"), "200 OK")
            self.send_response(int(status.split()[0]))
            for name, text in lines:
                if name != "Status":
                    self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = answer

    state: list[GitServer] = []
    with served(ManyConnections(("127.0.0.1", 0), Handler)) as server:
        state.append(GitServer(server.server_port, folder))
        yield state[0]
