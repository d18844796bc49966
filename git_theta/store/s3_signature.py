"""Sign a request to an S3-compatible service: AWS Signature Version 4, as in "Authenticating
Requests" of the Amazon S3 API Reference.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from configparser import ConfigParser, Error
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

_EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Keys:
    """An access key, its secret, and the token of a session (or an empty string)."""

    access: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)


def find(environment: Mapping[str, str]) -> Keys | None:
    """The keys of the environment, or of the user's AWS credentials file; None if there are none or
    they come from elsewhere.
    """
    if environment.get("AWS_ACCESS_KEY_ID"):
        return Keys(
            environment["AWS_ACCESS_KEY_ID"],
            environment.get("AWS_SECRET_ACCESS_KEY", ""),
            environment.get("AWS_SESSION_TOKEN", ""),
        )
    named = environment.get("AWS_SHARED_CREDENTIALS_FILE")
    home = environment.get("HOME") or environment.get("USERPROFILE")
    if not named and not home:
        return None
    parser = ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(
            (Path(named) if named else Path(home or "", ".aws", "credentials")).read_text("utf-8")
        )
        section = parser[environment.get("AWS_PROFILE") or "default"]
        return Keys(
            section["aws_access_key_id"],
            section["aws_secret_access_key"],
            section.get("aws_session_token", ""),
        )
    except (OSError, ValueError, KeyError, Error):
        return None


def headers(
    keys: Keys, region: str, host: str, path: str, now: datetime | None = None
) -> dict[str, str]:
    """The headers that authorise a GET of ``path`` (percent-encoded) at ``host`` (with a port that
    is not the scheme's own).
    """
    time = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    signed = {"host": host, "x-amz-content-sha256": _EMPTY, "x-amz-date": time}
    if keys.token:
        signed["x-amz-security-token"] = keys.token
    names = ";".join(signed)
    lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
    request = f"GET\n{path}\n\n{lines}\n{names}\n{_EMPTY}"
    scope = f"{time[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{keys.secret}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    del signed["host"]
    return {
        **signed,
        "Authorization": (
            f"AWS4-HMAC-SHA256 Credential={keys.access}/{scope}, SignedHeaders={names},"
            f" Signature={signature}"
        ),
    }
