"""What git knows of credentials for a URL: a header in its config, or a user and a password of its
credential helpers.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

from git_theta.git.command import run_code


def headers(url: str, ask: bool, cwd: Path | None = None) -> Mapping[str, str]:
    """The headers that authorise requests to ``url``: with ``ask`` those made of what git's helpers
    answer, else what ``http.extraHeader`` says. Empty if there are none.

    Nobody is asked at a terminal.
    """
    if not ask:
        _, raw = run_code(
            ["config", "--get-urlmatch", "http.extraHeader", url], cwd=cwd, allowed=range(256)
        )
        name, colon, value = raw.decode("utf-8", "replace").strip().partition(":")
        plain = colon and "\n" not in value and value.isascii() and name.isascii()
        return {name.strip(): value.strip()} if plain else {}
    code, raw = run_code(
        ["credential", "fill"],
        cwd=cwd,
        stdin=f"url={url}\n\n".encode(),
        environment={"GIT_TERMINAL_PROMPT": "0"},
        allowed=range(256),
    )
    pairs = (line.partition("=") for line in raw.decode("utf-8", "replace").splitlines())
    found = {key: value for key, _, value in pairs}
    if code or "password" not in found:
        return {}
    secret = f"{found.get('username', '')}:{found['password']}".encode()
    return {"Authorization": f"Basic {base64.b64encode(secret).decode('ascii')}"}
