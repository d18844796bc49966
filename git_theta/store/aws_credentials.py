"""Which of the user's AWS credentials TensorStore is to take: those of the environment, of a
profile, of the machine, or none.

Left to itself, TensorStore finds no profile, not even the default one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from configparser import ConfigParser, Error, SectionProxy
from pathlib import Path
from typing import Any

# What names an identity outside of profiles
_ELSEWHERE = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def find(environment: Mapping[str, str]) -> dict[str, Any]:
    """TensorStore's ``aws_credentials`` for an environment. It holds no secret.

    A profile that is chosen by name, in ``AWS_PROFILE``, is taken even if it is not there, so that
    TensorStore reports that.
    """
    if environment.get("AWS_ACCESS_KEY_ID"):
        return {"type": "environment"}
    chosen = environment.get("AWS_PROFILE")
    name = chosen or "default"
    credentials, config = (
        _file(environment, "AWS_SHARED_CREDENTIALS_FILE", "credentials"),
        _file(environment, "AWS_CONFIG_FILE", "config"),
    )
    section = _section(credentials, name) or _section(
        config, name if name == "default" else f"profile {name}"
    )
    if section is not None and "aws_access_key_id" in section:
        return {
            "type": "profile",
            "profile": name,
            "credentials_file": credentials,
            "config_file": config,
        }
    nothing = environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true" and not any(
        map(environment.get, _ELSEWHERE)
    )
    if nothing and section is None and not chosen:
        return {"type": "anonymous"}
    return {"type": "default", "profile": name}


def _file(environment: Mapping[str, str], variable: str, name: str) -> str:
    """The path of one of AWS's files; the null device if it is not there, of whose absence the AWS
    library would complain on standard error.
    """
    home = environment.get("HOME") or environment.get("USERPROFILE") or ""
    path = environment.get(variable) or (os.path.join(home, ".aws", name) if home else "")
    return path if path and os.path.isfile(path) else os.devnull


def _section(path: str, name: str) -> SectionProxy | None:
    parser = ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(Path(path).read_text("utf-8"))
        return parser[name]
    except (OSError, ValueError, KeyError, Error):
        return None
