"""URLs of object storage.

``s3://BUCKET/PREFIX`` and ``gs://BUCKET/PREFIX`` use the credentials of the user's own
configuration and environment (as the AWS and Google Cloud tools do); ``http(s)://HOST/PATH`` is
read-only; ``file:///PATH`` is a folder. An S3-compatible service is named by ``?endpoint=URL`` and
``region=NAME`` behind the URL, or by ``AWS_ENDPOINT_URL`` in the environment. Requests name a
bucket in their path, not in their host, so that certificates fit names with dots.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from git_theta.core.names import display
from git_theta.errors import UsageError
from git_theta.store import aws_credentials

_SCHEMES = ("file", "s3", "gs", "http", "https")
# What S3 and Google Cloud allow, together
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}\Z")
REGION = re.compile(r"[a-z0-9-]+\Z")


@dataclass(frozen=True, slots=True)
class StorageUrl:
    """A parsed URL of object storage: its scheme, host (with port) or bucket, path (decoded,
    without slashes around it) and options.

    Of ``file``, the path is a folder's.
    """

    scheme: str
    host: str
    path: str
    options: Mapping[str, str]

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there."""
        return self.scheme in ("http", "https")

    @property
    def address(self) -> str:
        """The URL of a web server's files: its path is decoded and ends in a slash."""
        return f"{self.scheme}://{self.host}/{self.path}{'/' if self.path else ''}"

    def server(self, environment: Mapping[str, str]) -> str:
        """What answers for it: ``http(s)://HOST``, with a port that is not the scheme's own.

        For a bucket of Amazon's whose region is not given, the server that knows the region.
        """
        if self.scheme == "gs":
            url = environment.get("TENSORSTORE_GCS_HTTP_URL") or "https://storage.googleapis.com"
        elif self.scheme == "s3":
            region = self.region(environment)
            domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
            url = self._endpoint(environment) or f"https://s3.{region}{'.' * bool(region)}{domain}"
        else:
            url = f"{self.scheme}://{self.host}"
        parts = urlsplit(url)
        own = ":443" if parts.scheme == "https" else ":80"
        return f"{parts.scheme}://{parts.netloc.removesuffix(own)}"

    def region(self, environment: Mapping[str, str]) -> str:
        """The region of a bucket, empty if it must be asked for."""
        given = (
            self.options.get("region")
            or environment.get("AWS_REGION")
            or environment.get("AWS_DEFAULT_REGION")
            or ""
        )
        return given or ("us-east-1" if self._endpoint(environment) else "")

    def spec(self, environment: Mapping[str, str], gateway: str = "") -> dict[str, Any]:
        """What TensorStore calls it; ``gateway`` is the URL of the server that it asks instead, for
        requests to :meth:`server`.
        """
        path = f"{self.path}/" if self.path else ""
        if self.scheme == "s3":
            spec: dict[str, Any] = {"driver": "s3", "bucket": self.host, "path": path}
            endpoint = self._endpoint(environment)
            if gateway:
                spec["endpoint"] = f"{gateway}{urlsplit(endpoint).path}"
                spec["host_header"] = urlsplit(self.server(environment)).netloc
            elif endpoint:
                spec["endpoint"] = endpoint
            if self.region(environment):
                spec["aws_region"] = self.region(environment)
            return {**spec, "aws_credentials": aws_credentials.find(environment)}
        if self.scheme == "gs":
            return {"driver": "gcs", "bucket": self.host, "path": path}
        return {"driver": "http", "base_url": gateway or self.server({}), "path": f"/{path}"}

    def _endpoint(self, environment: Mapping[str, str]) -> str:
        return (
            self.options.get("endpoint")
            or environment.get("AWS_ENDPOINT_URL_S3")
            or environment.get("AWS_ENDPOINT_URL")
            or ""
        ).rstrip("/")


def parse_url(url: str) -> StorageUrl:
    """The parts of a storage URL; :class:`UsageError` with what is allowed for anything else."""
    shown = display(url, 120)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UsageError(f"'{shown}' is not a URL") from None
    if parts.scheme not in _SCHEMES:
        raise UsageError(
            f"'{shown}' is no object storage; it must start with file://, s3://, gs://, http:// or"
            " https://"
        )
    if "@" in parts.netloc:
        raise UsageError(
            "a storage URL holds no user name or password; credentials come from your own"
            " configuration and environment"
        )
    path = unquote(parts.path, errors="surrogateescape")
    if parts.fragment or url != url.strip() or re.search(r"[\x00-\x1f\x7f]", url + path):
        raise UsageError(f"'{shown}' is not a plain URL")
    options = _options(parts, shown)
    if parts.scheme == "file":
        if host or not os.path.isabs(path):
            raise UsageError(f"'{shown}' must name an absolute path: file:///...")
        # File:///C:/...
        return StorageUrl("file", "", path.removeprefix("/") if os.name == "nt" else path, options)
    if any("\ud800" <= letter <= "\udfff" for letter in path):
        raise UsageError(f"'{shown}' is not UTF-8")
    if {".", ".."} & set(path.split("/")):
        raise UsageError(f"'{shown}' leads out of its own path")
    if parts.scheme in ("s3", "gs"):
        if port is not None or not _BUCKET.match(parts.netloc):
            raise UsageError(
                f"'{shown}' names no bucket; it must read {parts.scheme}://BUCKET/PREFIX, with a"
                " BUCKET of 2 or more letters, digits, '.', '-' and '_'"
            )
        return StorageUrl(parts.scheme, parts.netloc, path.strip("/"), options)
    if not host or re.search(r"[\s/?#\\]", host):
        raise UsageError(f"'{shown}' names no host")
    host = f"[{host}]" if ":" in host else host  # IPv6
    return StorageUrl(
        parts.scheme, host if port is None else f"{host}:{port}", path.strip("/"), options
    )


def _options(parts: SplitResult, shown: str) -> dict[str, str]:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if (options or parts.query) and not set(options) <= (
        {"endpoint", "region"} if parts.scheme == "s3" else set()
    ):
        raise UsageError(f"'{shown}' has options that {parts.scheme}:// does not take")
    endpoint, region = options.get("endpoint"), options.get("region")
    if region is not None and not REGION.match(region):
        raise UsageError(f"'{shown}' has a region that is no region's name")
    if endpoint is not None:
        try:
            service = urlsplit(endpoint)
            good = (
                service.scheme in ("http", "https")
                and service.hostname
                and "@" not in service.netloc
                and service.port != 0
            )
        except ValueError:
            good = False
        if not good or service.query or service.fragment or re.search(r"[^!-~]", endpoint):
            raise UsageError(
                f"the endpoint in '{shown}' must be a URL that starts with https:// or http://"
            )
    return options
