"""Object storage as the place of a remote's objects, through TensorStore's key-value stores.

No server of ours, no git-lfs.

Objects are keys laid out as everywhere else: ``PREFIX/aa/bb/<id>``. They are immutable and named by
their content, so that several people may write at once, an interrupted transfer goes on where it
stopped, and what is read can be checked. See :mod:`.storage_url` for the URLs.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from git_theta.core.manifest import ObjectRange, ObjectRef
from git_theta.core.names import display
from git_theta.errors import ObjectDamaged, ThetaError, TransferError
from git_theta.store.folder import FolderPlace
from git_theta.store.local import LocalStore
from git_theta.store.storage_url import StorageUrl, parse_url

if TYPE_CHECKING:
    import tensorstore

    from git_theta.store.gateway import Gateway
    from git_theta.store.web import Limits, Web

Item = TypeVar("Item")

_IN_FLIGHT_BYTES = 256 << 20
_IN_FLIGHT = 64  # requests; TensorStore itself opens fewer connections
_FLUSH_COUNT, _FLUSH_BYTES = 256, 1 << 30
# Failures one after another, after which a place is taken to be down: each has been retried for
# half a minute
_ENOUGH = 8
_PIECE = 32 << 20  # what is read at a time of a single large file
_LARGEST = 5 << 30  # the most that S3 takes in one request, in bytes
# Longer than web.Limits, which hold for what goes through the gateway
_PATIENCE = {
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "90",
    "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1024",
}


def place(
    url: str, environment: Mapping[str, str] | None = None, limits: Limits | None = None
) -> BucketPlace | FolderPlace:
    """The place that ``url`` names, with ``limits`` for a web server.

    :class:`UsageError` if it names none, :class:`TransferError` for a folder that is not there.

    Otherwise nothing is contacted yet. A folder is read and written directly.
    """
    storage = parse_url(url)
    if storage.scheme == "file":
        return _folder(Path(storage.path))
    return BucketPlace(storage, url, os.environ if environment is None else environment, limits)


def _folder(folder: Path) -> FolderPlace:
    try:
        mode = folder.stat().st_mode
        if not folder.is_dir():
            raise NotADirectoryError
    except OSError:  # not made here: a disk that is not mounted would be filled up in its place
        raise TransferError(
            f"the folder {display(str(folder), 200)} is not there; mount it, or make it if it"
            " is new"
        ) from None
    # Others may write where the folder's mode lets them, as in a repository that 'git init
    # --shared' made.
    shared = (
        0o666 if mode & 0o002 else 0o664 if mode & 0o024 == 0o024 else 0o660 if mode & 0o020 else 0
    )
    return FolderPlace(
        [folder],
        LocalStore(folder, (), shared, folder / ".git-theta"),
        display(folder.as_uri(), 200),
    )


class BucketPlace:
    """Object storage behind a network."""

    # Every object is hashed before it is sent, and what is sent is signed or checked on its way
    verifies = True

    def __init__(
        self,
        storage: StorageUrl,
        title: str,
        environment: Mapping[str, str],
        limits: Limits | None = None,
    ) -> None:
        self._storage = storage
        self._limits = limits
        self._environment = environment
        self.title = display(title, 200)
        self._opened: OpenedStore | None = None
        self._web: Web | None = None

    def lacking(self, refs: Sequence[ObjectRef]) -> list[ObjectRef]:
        """Those objects that are not there, or cut short: the last byte of each is asked for."""
        absent = []
        for ref, outcome in self._each(
            refs, lambda there, ref: there.read(_key(ref), byte_range=_last_byte(ref)), lambda _: 1
        ):
            if not self._is_there(outcome):
                absent.append(ref)
        return absent

    def send(
        self, store: LocalStore, refs: Sequence[ObjectRef], advance: Callable[[int], None]
    ) -> None:
        """Deliver objects of ``store``; :class:`ObjectDamaged` or :class:`TransferError` unless
        every one has arrived.
        """

        def write(there: tensorstore.KvStore, ref: ObjectRef) -> Any:
            return there.write(_key(ref), _checked(store.read(ref), ref))

        if not refs:
            return
        self._writable()
        for ref, outcome in self._each(refs, write, lambda ref: ref.size, write=True):
            self._arrived(ref, outcome)
            advance(ref.size)

    def bring(
        self, store: LocalStore, refs: Sequence[ObjectRef], advance: Callable[[int], None]
    ) -> None:
        """Fetch what is there into ``store``.

        :class:`TransferError` with the first reason where something could not be had.
        """
        problem, failed, count, size, in_a_row = "", 0, 0, 0, 0
        try:
            for ref, outcome in self._each(refs, _read, lambda ref: ref.size):
                reason = _fault(ref, outcome)
                in_a_row = in_a_row + 1 if reason and not reason.startswith(_OF_THE_OBJECT) else 0
                if reason:
                    problem, failed = problem or f"object {ref.oid}: {reason}", failed + 1
                    if in_a_row == _ENOUGH:
                        break
                    continue
                store.put([outcome.value])
                advance(ref.size)
                count, size = count + 1, size + ref.size
                if count >= _FLUSH_COUNT or size >= _FLUSH_BYTES:
                    store.flush()
                    count = size = 0
        finally:
            store.flush()
        if problem:
            more = f" (and {failed - 1:,} more)" if failed > 1 else ""
            raise TransferError(f"{self.title}: {problem}{more}")

    def bring_ranges(
        self, store: LocalStore, places: Sequence[ObjectRange], advance: Callable[[int], None]
    ) -> None:
        """Fetch ranges of objects that are there into ``store``; errors as of :meth:`bring`."""
        problem = ""
        for place, outcome in self._each(places, _read_range, lambda place: place.length):
            reason = _unreadable(outcome)
            if not reason and len(outcome.value) != place.length:
                reason = _DAMAGED
            if reason:
                problem = problem or f"object {place.oid}: {reason}"
                break
            store.put_part(place, outcome.value)
            advance(place.length)
        store.flush()
        if problem:
            raise TransferError(f"{self.title}: {problem}")

    def audit(self, refs: Sequence[ObjectRef]) -> Iterator[tuple[ObjectRef, str]]:
        """Read objects there; those that are missing or not what their name says, with the reason.

        :class:`TransferError` when that cannot be told.
        """
        for ref, outcome in self._each(refs, _read, lambda ref: ref.size):
            reason = _fault(ref, outcome)
            if reason.startswith(_OF_THE_OBJECT):
                yield ref, reason
            elif reason:
                raise TransferError(f"{self.title}: object {ref.oid}: {reason}")

    def upload(self, path: Path, ref: ObjectRef) -> None:
        """Deliver a file, if it is not there already.

        It is held in memory: the storage takes it in one request.
        """
        self._writable()
        if ref.size > _LARGEST:
            raise TransferError(
                f"{self.title} takes files of at most {_LARGEST >> 30} GiB; this one has"
                f" {ref.size:,} bytes"
            )
        if ref.size and not self.lacking([ref]):
            return
        data = _checked(path.read_bytes(), ref)
        for _, outcome in self._each(
            [ref], lambda there, ref: there.write(_key(ref), data), lambda ref: ref.size, write=True
        ):
            self._arrived(ref, outcome)

    def download(self, ref: ObjectRef, path: Path) -> None:
        """Fetch an object into a new file, piece by piece; :class:`TransferError` if it cannot be
        had as its name says.
        """
        pieces = [
            slice(start, min(start + _PIECE, ref.size)) for start in range(0, ref.size, _PIECE)
        ]
        hasher, size = hashlib.sha256(), 0
        with path.open("xb") as file:
            for _, outcome in self._each(
                pieces,
                lambda there, piece: there.read(_key(ref), byte_range=piece),
                lambda piece: piece.stop - piece.start,
            ):
                reason = _unreadable(outcome)
                if reason:
                    raise TransferError(f"{self.title}: object {ref.oid}: {reason}")
                hasher.update(outcome.value)
                size += file.write(outcome.value)
        if size != ref.size or hasher.hexdigest() != ref.oid:
            raise TransferError(f"{self.title}: object {ref.oid}: {_DAMAGED}")

    def _writable(self) -> None:
        if self._storage.read_only:
            raise TransferError(
                f"{self.title} is read-only; objects can only be fetched from there"
            )

    def _arrived(self, ref: ObjectRef, outcome: Any) -> None:
        if isinstance(outcome, Exception):
            raise TransferError(
                f"object {ref.oid} could not be delivered to {self.title}: {_reason(outcome)}"
            )

    def _is_there(self, outcome: Any) -> bool:
        if not isinstance(outcome, Exception):
            return bool(outcome.state == "value" and len(outcome.value) == 1)
        # S3 denies who may not list a bucket what is not in it
        if _code(outcome) in ("OUT_OF_RANGE", "PERMISSION_DENIED"):
            return False
        # A plain web server, which sends the whole or nothing
        if "was ignored by server" in str(outcome):
            return True
        raise TransferError(f"{self.title}: {_reason(outcome)}")

    def _reader(self) -> tensorstore.KvStore | Web:
        """What reads: of a web server, without TensorStore."""
        if not self._storage.read_only:
            return self._store()
        if self._web is None:
            from git_theta.store.web import Web

            self._web = Web(self._storage.address, self._limits)
        return self._web

    def _store(self) -> tensorstore.KvStore:
        if self._opened is None:
            self._opened = open_store(self._storage, self._environment, self.title, self._limits)
        return self._opened.store

    def _finish(self, future: Any) -> Any:
        try:
            return future.result()
        except ThetaError:
            raise
        except ERRORS as error:
            return error if self._opened is None else self._opened.explain(error)

    def _each(
        self,
        items: Iterable[Item],
        begin: Callable[[Any, Item], Any],
        weight: Callable[[Item], int],
        write: bool = False,
    ) -> Iterator[tuple[Item, Any]]:
        """Begin a request for each item, several under way at a time, and give the outcomes in
        order: a result or what went wrong.
        """
        store = self._store() if write else self._reader()
        under_way: deque[tuple[Item, Any]] = deque()
        size = 0
        try:
            for item in items:
                while under_way and (
                    len(under_way) >= _IN_FLIGHT or size + weight(item) > _IN_FLIGHT_BYTES
                ):
                    first, future = under_way.popleft()
                    size -= weight(first)
                    yield first, self._finish(future)
                under_way.append((item, begin(store, item)))
                size += weight(item)
            while under_way:
                first, future = under_way.popleft()
                yield first, self._finish(future)
        finally:
            for _, future in under_way:
                future.cancel()


_OPENING = threading.Lock()
# What TensorStore's errors become in Python
ERRORS = (ValueError, OSError, RuntimeError, KeyError, IndexError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class OpenedStore:
    """A store of TensorStore's, whose requests go through a gateway that keeps to the limits.

    ``gateway`` is None for one that was opened while Python ended.
    """

    store: tensorstore.KvStore
    context: tensorstore.Context
    gateway: Gateway | None

    def explain(self, error: Exception) -> Exception:
        """What the server did wrong, if that is behind TensorStore's ``error``."""
        reason = self.gateway.reason() if self.gateway else ""
        return OSError(reason) if reason else error


def open_store(
    storage: StorageUrl, environment: Mapping[str, str], title: str, limits: Limits | None = None
) -> OpenedStore:
    """Open object storage with the user's own credentials, which TensorStore finds.

    :class:`TransferError` if nobody answers at its address: TensorStore would go on trying for
    half a minute, and its libraries would write to standard error about credentials meanwhile.
    """
    # One at a time: while Google's is opened, the environment names the gateway as its server
    with _OPENING:
        return _open(storage, environment, title, limits)


def _open(
    storage: StorageUrl, environment: Mapping[str, str], title: str, limits: Limits | None
) -> OpenedStore:
    from git_theta.store import gateway, web

    try:
        web.reach(storage.server(environment), limits)
        if storage.scheme == "s3" and not storage.region(environment):
            link = web.ServerLink(storage.server(environment), limits)
            region = gateway.region_of(storage.host, link)
            if not region:
                raise OSError(
                    "there is no such bucket; if there is, put ?region=NAME behind its URL"
                )
            storage = replace(storage, options={**storage.options, "region": region})
    except OSError as fault:
        raise TransferError(f"{title}: {_reason(fault)}") from None
    made = context(limits)
    import tensorstore

    try:
        between = gateway.Gateway(storage.server(environment), limits)
    except RuntimeError:  # Python ends, and starts no more threads
        between = None
    spec = storage.spec(environment, between.address if between else "")
    try:
        with between.in_force() if between else nullcontext():
            store = tensorstore.KvStore.open(spec, context=made).result()
    except ERRORS as error:
        raise TransferError(f"{title} cannot be opened: {_reason(error)}") from None
    return OpenedStore(store, made, between)


def context(limits: Limits | None = None) -> tensorstore.Context:
    """How long TensorStore is to try: left to itself, it goes on for a quarter of an hour."""
    from git_theta.store.gateway import exempt_from_proxies
    from git_theta.store.web import Limits

    exempt_from_proxies()
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    import tensorstore

    pauses = (limits or Limits()).pauses
    retries = {
        "max_retries": len(pauses),
        "initial_delay": f"{pauses[0] * 1000:g}ms",
        "max_delay": f"{pauses[-1] * 1000:g}ms",
    }
    return tensorstore.Context(
        {f"{kind}_request_retries": retries for kind in ("s3", "gcs", "http")}
    )


_DAMAGED = "damaged there: its bytes have another SHA-256 or size"
_OF_THE_OBJECT = ("missing", "damaged")  # how reasons begin that say nothing of the place


def _read(there: tensorstore.KvStore, ref: ObjectRef) -> Any:
    # No more than that, whatever is there
    return there.read(_key(ref), byte_range=slice(0, ref.size))


def _read_range(there: tensorstore.KvStore, place: ObjectRange) -> Any:
    wanted = slice(place.offset, place.offset + place.length)
    return there.read(_key(place.object), byte_range=wanted)


def _last_byte(ref: ObjectRef) -> slice:
    return slice(max(ref.size - 1, 0), max(ref.size, 1))


def _checked(data: bytes, ref: ObjectRef) -> bytes:
    if len(data) != ref.size or hashlib.sha256(data).hexdigest() != ref.oid:
        raise ObjectDamaged(f"object {ref.oid} is damaged: its bytes have another SHA-256 or size")
    return data


def _fault(ref: ObjectRef, outcome: Any) -> str:
    reason = _unreadable(outcome)
    if not reason and (
        len(outcome.value) != ref.size or hashlib.sha256(outcome.value).hexdigest() != ref.oid
    ):
        return _DAMAGED
    return reason


def _unreadable(outcome: Any) -> str:
    if not isinstance(outcome, Exception):
        return "" if outcome.state == "value" else "missing"
    # It is shorter, or longer, than its name says
    if _code(outcome) == "OUT_OF_RANGE" or "was ignored by server" in str(outcome):
        return _DAMAGED
    return _reason(outcome)


def _key(ref: ObjectRef) -> str:
    return f"{ref.oid[:2]}/{ref.oid[2:4]}/{ref.oid}"


def _code(error: Exception) -> str:
    """The status that begins a TensorStore error's text, such as ``OUT_OF_RANGE``."""
    return str(error).partition(":")[0]


def _reason(error: Exception) -> str:
    """The first line of a TensorStore error, without responses and source positions."""
    text = str(error).split("\n")[0].split(" [")[0].strip()
    return display(text, 300)
