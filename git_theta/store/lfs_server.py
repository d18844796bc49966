"""Asking a Git LFS server, over HTTP, which objects it has. Nothing is sent to it.

See the batch API of Git LFS
(https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md).
"""

from __future__ import annotations

import http.client
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote, urlsplit

from git_theta.core.manifest import ObjectRef
from git_theta.core.names import display
from git_theta.errors import TransferError, UsageError
from git_theta.store.web import PASSING, Limits, PassingFault, ServerFault, ServerLink, take

_TOGETHER = 100  # objects in a request; several servers take no more
_ANSWER = 4 << 20  # bytes that are read of an answer
_TYPE = "application/vnd.git-lfs+json"

# Headers that authorise the use of a URL, without and with asking for a password
Authorise = Callable[[str, bool], Mapping[str, str]]


class LfsServer:
    """The Git LFS server at ``url``, as ``lfs.url`` names it: ``https://HOST/NAME.git/info/lfs``.

    ``authorise`` gives the headers that let one use it. :class:`UsageError` for another URL.
    """

    def __init__(self, url: str, authorise: Authorise, limits: Limits | None = None) -> None:
        shown = display(url, 200)
        try:
            parts = urlsplit(url)
            host = parts.hostname
            _ = parts.port
        except ValueError:
            raise UsageError(f"'{shown}' is not a URL") from None
        if parts.scheme not in ("http", "https") or not host or not url.isascii():
            raise UsageError(
                f"'{shown}' is not the URL of a Git LFS server; it must start with https:// or"
                " http://"
            )
        if "@" in parts.netloc:
            raise UsageError(
                "the URL of a Git LFS server holds no user name or password here; git's credential"
                " helper gives them"
            )
        if parts.query or parts.fragment or url.strip() != url:
            raise UsageError(f"'{shown}' is not a plain URL")
        self._shown, self._unknown = shown, False
        self._url = url.rstrip("/")
        self._target = f"{quote(parts.path.rstrip('/'), safe='/%~:+,')}/objects/batch"
        self._link = ServerLink(f"{parts.scheme}://{parts.netloc}", limits)
        self._limits = limits or Limits()
        self._authorise = authorise
        self._headers: Mapping[str, str] | None = None
        self._asked = False

    @property
    def title(self) -> str:
        """The server for a person."""
        if self._unknown:
            return f"{self._shown} (404: it has none of them, or the URL is wrong)"
        return self._shown

    def lacking(self, refs: Sequence[ObjectRef]) -> list[ObjectRef]:
        """Those objects that the server does not offer for download.

        :class:`TransferError` if it does not answer as the batch API wants it.
        """
        absent: list[ObjectRef] = []
        for start in range(0, len(refs), _TOGETHER):
            some = refs[start : start + _TOGETHER]
            offered = self._offered(some)
            absent += [ref for ref in some if ref not in offered]
        return absent

    def _offered(self, refs: Sequence[ObjectRef]) -> set[ObjectRef]:
        question = {
            "operation": "download",
            "transfers": ["basic"],
            "objects": [{"oid": ref.oid, "size": ref.size} for ref in refs],
            "hash_algo": "sha256",
        }
        answer = self._ask(json.dumps(question).encode("ascii"))
        if answer is None:
            return set()
        try:
            found = json.loads(answer)["objects"]
            return {
                ObjectRef(str(item["oid"]), int(item["size"]))
                for item in found
                if not item.get("error") and "download" in (item.get("actions") or {})
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise TransferError(
                f"{self._shown} does not answer as a Git LFS server does; check the URL"
            ) from None

    def _ask(self, body: bytes) -> bytes | None:
        """The answer; None if the server has nothing there: no repository or, as some servers mean
        it, none of the objects.
        """
        if self._headers is None:
            self._headers = self._authorise(self._url, False)
        pauses: list[float | None] = [*self._limits.pauses, None]
        while True:
            try:
                status, answer = self._exchange(body)
            except (PassingFault, ServerFault) as error:
                pause = pauses.pop(0) if isinstance(error, PassingFault) else None
                if pause is None:
                    raise TransferError(f"{self._shown}: {display(str(error), 300)}") from None
                time.sleep(pause)
                continue
            if status == 401 and not self._asked:
                self._asked = True
                self._headers = self._authorise(self._url, True)
                continue
            if status == 404:
                self._unknown = True
                return None
            if status != 200:
                raise TransferError(self._refusal(status))
            return answer

    def _exchange(self, body: bytes) -> tuple[int, bytes]:
        headers = {
            "Accept": _TYPE,
            "Content-Type": _TYPE,
            "Content-Length": str(len(body)),
            **(self._headers or {}),
        }

        def use(response: http.client.HTTPResponse) -> tuple[int, bytes]:
            if response.status in PASSING:
                raise PassingFault(f"the server answers {response.status}")
            return response.status, bytes(take(response, _ANSWER))

        stream = cast(Any, io.BytesIO(body))
        return self._link.exchange("POST", self._target, headers, _ANSWER, use, stream)

    def _refusal(self, status: int) -> str:
        if status in (401, 403):
            return (
                f"{self._shown} does not let us in ({status}); 'git credential' must know a user"
                " who may read there"
            )
        if 300 <= status < 400:
            return f"{self._shown} redirects elsewhere ({status}), which is not followed"
        return f"{self._shown} answers {status}; check the URL"
