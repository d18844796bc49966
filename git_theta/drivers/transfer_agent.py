"""A transfer agent for git-lfs that needs no server: ordinary LFS files in the object storage that
a remote's models are in.

Speaks git-lfs's protocol for custom transfer agents: one JSON object a line, on standard input and
output. git-lfs starts as many of these as it makes transfers at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from git_theta.core.digest import HEX
from git_theta.core.manifest import ObjectRef
from git_theta.errors import ThetaError, TransferError, UsageError
from git_theta.git.config.config_file import load_settings
from git_theta.git.lfs_program import lfs_folder
from git_theta.git.repository import discover
from git_theta.store import kvstore
from git_theta.terminal.bars import Bars
from git_theta.workflows.session import Session
from git_theta.workflows.sharing.routes import Routes


class FileTransport(Protocol):
    """Where single files go to and come from."""

    def upload(self, path: Path, ref: ObjectRef) -> None:
        """Deliver one file, if it is not there already."""

    def download(self, ref: ObjectRef, path: Path) -> None:
        """Fetch one object into a new file."""


def serve(
    lines: Iterable[bytes], answer: Callable[[bytes], None], say: Callable[[str], None]
) -> int:
    """Serve git-lfs until it says 'terminate'; the exit code."""
    repository = discover()
    with Session(repository, load_settings(repository), say, progress=Bars()) as session:

        def place_of(name: str) -> FileTransport:
            return storage_of(session, name)

        return converse(
            lines, answer, Agent(place_of, lfs_folder(repository.common_dir).with_name("tmp"))
        )


def storage_of(session: Session, name: str) -> FileTransport:
    """The object storage of the remote that git-lfs calls ``name``; :class:`TransferError` where it
    has none, or none agreed to.
    """
    routes = Routes(session)
    remote = routes.remotes.named(name) if name else routes.remotes.default
    if remote is None:
        raise TransferError("this repository has no remote")
    url = routes.storage(remote)
    if not url:
        raise TransferError(
            f"{remote.title} has no object storage; 'git theta remote set {remote.title} URL' gives"
            " it one"
        )
    return kvstore.place(url)


def converse(lines: Iterable[bytes], answer: Callable[[bytes], None], agent: Agent) -> int:
    """Answer each line until one says 'terminate'; the exit code."""
    for line in lines:
        if not line.strip():
            continue
        request = _parse(line)
        if request.get("event") == "terminate":
            return 0
        for reply in agent.reply(request):
            answer(json.dumps(reply).encode("ascii") + b"\n")
    return 0


def _parse(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise UsageError("this command is for git-lfs to run; see 'git theta remote set --help'")
    return request


@dataclass(slots=True)
class Agent:
    """What git-lfs talks to: finds the remote's storage by ``place_of`` when told its name, puts
    what it fetches into ``folder``.
    """

    place_of: Callable[[str], FileTransport]
    folder: Path
    _place: FileTransport | None = field(default=None, init=False)

    def reply(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The answers to one request. What goes wrong is an answer, too: git-lfs shows it."""
        event = request.get("event")
        if event == "init":
            yield self._init(request.get("remote", ""))
        elif event in ("upload", "download"):
            yield from self._transfer(event, request)
        else:
            yield {
                "error": {
                    "code": 1,
                    "message": f"git-theta does not know the event {str(event)[:40]!a}",
                }
            }

    def _init(self, name: object) -> dict[str, Any]:
        try:
            self._place = self.place_of(name if isinstance(name, str) else "")
        except ThetaError as error:
            return {"error": {"code": 2, "message": str(error)}}
        return {}

    def _transfer(self, event: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        oid, size, path = (request.get(key) for key in ("oid", "size", "path"))
        done: dict[str, Any] = {"event": "complete", "oid": oid if isinstance(oid, str) else ""}
        try:
            if (
                self._place is None
                or not isinstance(oid, str)
                or not HEX.match(oid)
                or type(size) is not int
                or size < 0
            ):
                raise UsageError("git-lfs asked for a transfer that makes no sense")
            ref = ObjectRef(oid, size)
            if event == "download":
                done["path"] = str(self._download(self._place, ref))
            elif isinstance(path, str) and path and "\0" not in path:
                self._place.upload(Path(path), ref)
            else:
                raise UsageError("git-lfs named no file to upload")
        except (ThetaError, OSError) as error:
            yield {**done, "error": {"code": 3, "message": " ".join(str(error).split())}}
            return
        yield {"event": "progress", "oid": oid, "bytesSoFar": size, "bytesSinceLast": size}
        yield done

    def _download(self, place: FileTransport, ref: ObjectRef) -> Path:
        """A new file with the object, in the file system of git-lfs's own, which moves it to its
        place.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{ref.oid}-{os.getpid()}-{os.urandom(6).hex()}"
        try:
            place.download(ref, target)
        except BaseException:
            with contextlib.suppress(OSError):
                target.unlink()
            raise
        return target
