"""Object storage as the place of a remote's objects, through TensorStore's key-value stores. No server of ours, no git-lfs.

Objects are keys laid out as everywhere else: ``PREFIX/aa/bb/<id>``. They are immutable and named by their content, so that several people
may write at once, an interrupted transfer goes on where it stopped, and what is read can be checked. ``s3://BUCKET/PREFIX`` and
``gs://BUCKET/PREFIX`` use the credentials of the user's own config and environment (as the AWS and Google Cloud tools do);
``http(s)://HOST/PATH`` is read-only; ``file:///PATH`` is a folder. An S3-compatible service is named by ``?endpoint=URL`` and ``region=NAME``
behind the URL, or by ``AWS_ENDPOINT_URL`` in the environment.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from git_theta.core.manifest import ObjectRef
from git_theta.core.names import display
from git_theta.errors import ObjectDamaged, TransferError, UsageError
from git_theta.git.remotes import without_secret
from git_theta.store.folder import FolderPlace
from git_theta.store.local import LocalStore

if TYPE_CHECKING:
    import tensorstore

_IN_FLIGHT_BYTES = 256 << 20
_IN_FLIGHT = 64  # requests; TensorStore itself opens fewer connections
_FLUSH_COUNT, _FLUSH_BYTES = 256, 1 << 30
_RETRIES = {"max_retries": 6, "initial_delay": "500ms", "max_delay": "8s"}
_SCHEMES = ("file", "s3", "gs", "http", "https")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A parsed URL of object storage: its scheme, host or bucket, path (without slashes around it) and options."""

    scheme: str
    host: str
    path: str
    options: Mapping[str, str]

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there."""
        return self.scheme in ("http", "https")

    def spec(self, environment: Mapping[str, str]) -> dict[str, Any]:
        """What TensorStore calls it."""
        path = f"{self.path}/" if self.path else ""
        if self.scheme == "s3":
            spec: dict[str, Any] = {"driver": "s3", "bucket": self.host, "path": path}
            endpoint = self.options.get("endpoint") or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
            region = self.options.get("region") or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
            if endpoint:
                spec |= {"endpoint": endpoint.rstrip("/"), "aws_region": region or "us-east-1"}
            elif region:
                spec["aws_region"] = region
            return spec
        if self.scheme == "gs":
            return {"driver": "gcs", "bucket": self.host, "path": path}
        return {"driver": "http", "base_url": f"{self.scheme}://{self.host}", "path": f"/{path}"}


def parse_url(url: str) -> Bucket:
    """The parts of a storage URL; :class:`UsageError`, saying what is allowed, for anything else."""
    try:
        parts = urlsplit(url)
        host, secret = parts.hostname or "", parts.username or parts.password
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        raise UsageError(f"{display(url, 120)!r} is not a URL") from None
    if parts.scheme not in _SCHEMES:
        raise UsageError(f"{display(url, 120)!r} is no object storage; it must start with file://, s3://, gs://, http:// or https://")
    if secret:
        raise UsageError("a storage URL holds no user name or password; credentials come from your own configuration and environment")
    if parts.fragment or any(ord(c) <= 32 or ord(c) == 127 for c in url):
        raise UsageError(f"{display(url, 120)!r} is not a plain URL")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if set(options) - ({"endpoint", "region"} if parts.scheme == "s3" else set()):
        raise UsageError(f"{display(url, 120)!r} has options that {parts.scheme}:// does not take")
    endpoint = options.get("endpoint")
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise UsageError(f"the endpoint in {display(url, 120)!r} must start with https:// or http://")
    path = unquote(parts.path, errors="surrogateescape")
    if parts.scheme == "file":
        if host or not os.path.isabs(path):
            raise UsageError(f"{display(url, 120)!r} must name an absolute path: file:///...")
        return Bucket("file", "", path, options)
    if not host or ".." in path.split("/"):
        raise UsageError(f"{display(url, 120)!r} names no {'host' if parts.scheme.startswith('http') else 'bucket'} or leads out of it")
    # urlsplit lower-cases a host; S3's bucket names are lower-case by rule, and so are Google's.
    return Bucket(parts.scheme, host + port, path.strip("/"), options)


def place(url: str, environment: Mapping[str, str] | None = None) -> BucketPlace | FolderPlace:
    """The place that ``url`` names. Nothing is contacted yet. A folder is read and written directly."""
    bucket = parse_url(url)
    if bucket.scheme == "file":
        folder = Path(bucket.path)
        return FolderPlace([folder], LocalStore(folder, (), 0), url)
    return BucketPlace(bucket, without_secret(url), os.environ if environment is None else environment)


class BucketPlace:
    """Object storage behind a network."""

    verifies = True  # every object is hashed before it is sent, and the service checks what it receives

    def __init__(self, bucket: Bucket, title: str, environment: Mapping[str, str]) -> None:
        self._bucket = bucket
        self._environment = environment
        self.title = display(title, 200)
        self._opened: tensorstore.KvStore | None = None

    def lacking(self, refs: Sequence[ObjectRef]) -> list[ObjectRef]:
        """Those objects that are not there with their right size: the last byte of each is asked for."""
        there = dict(self._each(refs, lambda store, ref: store.read(_key(ref), byte_range=slice(ref.size - 1, ref.size)), lambda _: 1))
        return [ref for ref in refs if not _is_there(there[ref])]

    def send(self, store: LocalStore, refs: Sequence[ObjectRef], advance: Callable[[int], None]) -> None:
        """Deliver objects of ``store``; :class:`ObjectDamaged` or :class:`TransferError` unless every one has arrived."""
        if self._bucket.read_only:
            raise TransferError(f"{self.title} is read-only; objects can only be fetched from there")

        def write(there: tensorstore.KvStore, ref: ObjectRef) -> Any:
            data = store.read(ref)
            if hashlib.sha256(data).hexdigest() != ref.oid:
                raise ObjectDamaged(f"object {ref.oid} is damaged: its bytes have another SHA-256")
            return there.write(_key(ref), data)

        for ref, outcome in self._each(refs, write, lambda ref: ref.size):
            if isinstance(outcome, Exception):
                raise TransferError(f"object {ref.oid} could not be delivered to {self.title}: {_reason(outcome)}")
            advance(ref.size)

    def bring(self, store: LocalStore, refs: Sequence[ObjectRef], advance: Callable[[int], None]) -> None:
        """Fetch what is there into ``store``. :class:`TransferError` with the first reason where something could not be had."""
        problem, failed, count, size = "", 0, 0, 0
        try:
            for ref, outcome in self._each(refs, lambda there, ref: there.read(_key(ref)), lambda ref: ref.size):
                reason = _fault(ref, outcome)
                if reason:
                    problem, failed = problem or f"object {ref.oid}: {reason}", failed + 1
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

    def audit(self, refs: Sequence[ObjectRef]) -> Iterator[tuple[ObjectRef, str]]:
        """Read objects there; those that are missing or not what their name says, with the reason."""
        for ref, outcome in self._each(refs, lambda there, ref: there.read(_key(ref)), lambda ref: ref.size):
            reason = _fault(ref, outcome)
            if reason:
                yield ref, reason

    def _store(self) -> tensorstore.KvStore:
        if self._opened is None:
            import tensorstore

            context = {f"{kind}_request_retries": _RETRIES for kind in ("s3", "gcs", "http")}
            try:
                spec = self._bucket.spec(self._environment)
                self._opened = tensorstore.KvStore.open(spec, context=tensorstore.Context(context)).result()
            except (ValueError, OSError) as error:
                raise TransferError(f"{self.title} cannot be opened: {_reason(error)}") from None
        return self._opened

    def _each(
        self, refs: Sequence[ObjectRef], begin: Callable[[tensorstore.KvStore, ObjectRef], Any], weight: Callable[[ObjectRef], int]
    ) -> Iterator[tuple[ObjectRef, Any]]:
        """Begin a request for each object, several under way at a time, and give the outcomes in order: a result or what went wrong."""
        store = self._store()
        under_way: deque[tuple[ObjectRef, Any]] = deque()
        size = 0
        try:
            for ref in refs:
                while under_way and (len(under_way) >= _IN_FLIGHT or size + weight(ref) > _IN_FLIGHT_BYTES):
                    size -= weight(under_way[0][0])
                    yield _finish(*under_way.popleft())
                under_way.append((ref, begin(store, ref)))
                size += weight(ref)
            while under_way:
                yield _finish(*under_way.popleft())
        finally:
            for _, future in under_way:
                future.cancel()


def _finish(ref: ObjectRef, future: Any) -> tuple[ObjectRef, Any]:
    try:
        return ref, future.result()
    except (ValueError, OSError, RuntimeError, KeyError, IndexError) as error:  # what TensorStore's errors become in Python
        return ref, error


def _is_there(outcome: Any) -> bool:
    if isinstance(outcome, (ValueError, IndexError)):  # shorter than it should be: the range lies outside
        return False
    if isinstance(outcome, Exception):
        raise TransferError(_reason(outcome))
    return bool(outcome.state == "value" and len(outcome.value) == 1)


def _fault(ref: ObjectRef, outcome: Any) -> str:
    if isinstance(outcome, Exception):
        return _reason(outcome)
    if outcome.state != "value":
        return "missing"
    if len(outcome.value) != ref.size or hashlib.sha256(outcome.value).hexdigest() != ref.oid:
        return "damaged there: its bytes have another SHA-256 or size"
    return ""


def _key(ref: ObjectRef) -> str:
    return f"{ref.oid[:2]}/{ref.oid[2:4]}/{ref.oid}"


def _reason(error: Exception) -> str:
    """The first line of a TensorStore error, without the source positions it appends."""
    text = str(error).split("[source locations=")[0].split("\n")[0]
    return display(text.strip(), 300)
