"""A transfer agent for git-lfs that needs no server: ordinary LFS files in the object storage that a remote's models are in.

Speaks git-lfs's protocol for custom transfer agents: one JSON object a line, on standard input and output. git-lfs starts as many of
these as it makes transfers at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from git_theta.core.digest import HEX
from git_theta.core.manifest import ObjectRef
from git_theta.errors import ThetaError, TransferError, UsageError
from git_theta.git.config import load_settings
from git_theta.git.repository import discover
from git_theta.store import kvstore
from git_theta.workflows.session import Session
from git_theta.workflows.transfer import Routes


class Place(Protocol):
    """Where single files go to and come from."""

    def upload(self, path: Path, ref: ObjectRef) -> None:
        """Deliver one file."""

    def download(self, ref: ObjectRef, path: Path) -> None:
        """Fetch one object into a new file."""


def serve(lines: Iterable[bytes], answer: Callable[[bytes], None], say: Callable[[str], None]) -> int:
    """Serve git-lfs until it says 'terminate'; the exit code."""
    with Session(discover(), load_settings(), say) as session:
        agent = _Agent(session)
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
    except ValueError:
        request = None
    if not isinstance(request, dict):
        raise UsageError("this command is for git-lfs to run; see 'git theta remote set --help'")
    return request


@dataclass(slots=True)
class _Agent:
    session: Session
    place: Place | None = field(default=None)

    def reply(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        event = request.get("event")
        if event == "init":
            yield self._init(str(request.get("remote", "")))
        elif event in ("upload", "download"):
            yield from self._transfer(event, request)
        else:
            yield {"error": {"code": 1, "message": f"git-theta does not know the event {str(event)[:40]!a}"}}

    def _init(self, name: str) -> dict[str, Any]:
        try:
            routes = Routes(self.session)
            remote = routes.remotes.named(name)
            url = routes.storage(remote)
            if not url:
                raise TransferError(f"{remote.title} has no object storage; 'git theta remote set {remote.title} URL' gives it one")
            self.place = kvstore.place(url)
        except ThetaError as error:
            return {"error": {"code": 2, "message": str(error)}}
        return {}

    def _transfer(self, event: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        oid, size = str(request.get("oid", "")), request.get("size", -1)
        try:
            if self.place is None or not HEX.match(oid) or type(size) is not int or size < 0:
                raise UsageError("git-lfs asked for a transfer that makes no sense")
            done: dict[str, Any] = {"event": "complete", "oid": oid}
            if event == "upload":
                self.place.upload(Path(str(request["path"])), ObjectRef(oid, size))
            else:
                target = self.session.store.temporary_path()
                self.place.download(ObjectRef(oid, size), target)
                done["path"] = str(target)
        except (ThetaError, OSError, KeyError) as error:
            yield {"event": "complete", "oid": oid, "error": {"code": 3, "message": " ".join(str(error).split())}}
            return
        yield {"event": "progress", "oid": oid, "bytesSoFar": size, "bytesSinceLast": size}
        yield done
