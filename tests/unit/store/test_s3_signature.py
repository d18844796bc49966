"""Signatures for S3 against those of botocore, which is Amazon's own."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from git_theta.store import s3_signature
from git_theta.store.s3_signature import Keys

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("token", ["", "a/long+token=="])
@pytest.mark.parametrize("path", ["/models/p/aa/bb/cc", "/models/a%20folder/%C3%A9/x"])
def test_a_signature_is_botocores(monkeypatch: pytest.MonkeyPatch, token: str, path: str) -> None:
    auth = pytest.importorskip("botocore.auth")
    request = pytest.importorskip("botocore.awsrequest").AWSRequest(
        "GET", f"http://host:9000{path}"
    )
    credentials = pytest.importorskip("botocore.credentials").Credentials(
        "KEY", "secret/+", token or None
    )
    if hasattr(auth, "get_current_datetime"):
        monkeypatch.setattr(auth, "get_current_datetime", lambda *_: NOW.replace(tzinfo=None))
    request.context["payload_signing_enabled"] = True
    auth.S3SigV4Auth(credentials, "s3", "eu-1").add_auth(request)
    ours = s3_signature.headers(Keys("KEY", "secret/+", token), "eu-1", "host:9000", path, NOW)
    assert ours["Authorization"] == request.headers["Authorization"]
    assert {name.lower(): value for name, value in ours.items()} == {
        name.lower(): value for name, value in request.headers.items()
    }


def test_where_keys_come_from(tmp_path: Path) -> None:
    assert s3_signature.find({}) is None
    assert s3_signature.find({"HOME": str(tmp_path)}) is None
    found = s3_signature.find(
        {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
    )
    assert found == Keys("k", "s", "t")
    assert "t" not in repr(Keys("k", "secret", "t")).replace("secret", "").partition("(")[2]
    file = tmp_path / "credentials"
    file.write_text(
        "[default]\naws_access_key_id = d\naws_secret_access_key = %x\n[other]\naws_access_key_id"
        " = o\n"
    )
    named = {"AWS_SHARED_CREDENTIALS_FILE": str(file)}
    assert s3_signature.find(named) == Keys("d", "%x")
    assert s3_signature.find({**named, "AWS_PROFILE": "other"}) is None
    assert s3_signature.find({**named, "AWS_PROFILE": "nobody"}) is None
    (tmp_path / ".aws").mkdir()
    file.rename(tmp_path / ".aws" / "credentials")
    assert s3_signature.find({"HOME": str(tmp_path)}) == Keys("d", "%x")
    (tmp_path / ".aws" / "credentials").write_bytes(b"\xff[[")
    assert s3_signature.find({"HOME": str(tmp_path)}) is None
