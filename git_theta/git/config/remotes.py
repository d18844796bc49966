"""Git's remotes: their URLs, what is known of the refs they hold, and which one a command means.

Read by git itself, for commands as well as for the filter and the hooks, which have no time for
GitPython's import; GitPython would also miss settings of the environment and of a worktree.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from git_theta.core.names import display
from git_theta.errors import UsageError
from git_theta.git.command import run, run_code
from git_theta.git.repository import Repository

BY_URL = "git-theta-url"  # what a remote is called for git-lfs that is only a URL
_PATTERN = r"^(remote\..*|branch\..*\.(remote|pushremote)|checkout\.defaultremote|url\..*)$"


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote, or a URL given in place of one (then ``name`` is empty).

    URLs are as git would use them.

    ``tracked`` are the patterns of the refs that follow this remote's own
    (``refs/remotes/origin/*``).
    """

    name: str
    url: str
    push_url: str
    tracked: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """The remote for a person."""
        return display(self.name or without_secret(self.url), 200)

    def values(self, key: str) -> list[str]:
        """What the user configured under ``remote.NAME.KEY``, in git's order."""
        return [text for name, text in self.settings if name == key.lower()]

    def at(self, url: str) -> Remote:
        """The remote where git pushes to ``url``: itself, or a place of its own, as a second push
        URL is.

        Object storage is the remote's wherever its commits go, and so is a Git LFS server that the
        user gave it.
        """
        if url == self.push_url:
            return self
        if self.values("lfsurl") or self.values("lfspushurl"):
            return replace(self, push_url=url)
        return Remote(
            "",
            url,
            url,
            self.tracked,
            tuple(item for item in self.settings if item[0].startswith("theta")),
        )


@dataclass(frozen=True, slots=True)
class Remotes:
    """All remotes of a repository, the one that a command means without a name first."""

    every: tuple[Remote, ...]

    @property
    def default(self) -> Remote | None:
        """The current branch's remote, else the only one, else ``origin``; None where there is
        none.
        """
        return self.every[0] if self.every else None

    def find(self, name: str) -> Remote | None:
        """The remote called ``name``."""
        return next((remote for remote in self.every if remote.name == name), None)

    def named(self, name: str, url: str = "") -> Remote:
        """The remote that git means by ``name``, which may be a URL too: then a remote with that
        very URL, if there is one.

        With ``url``, git is about to push there. :class:`~git_theta.errors.UsageError` when it is
        neither a remote nor anything like a URL.
        """
        matching = (
            remote for remote in self.every if (url or name) in (remote.url, remote.push_url)
        )
        found = self.find(name) or next(matching, None)
        if found is not None:
            return found.at(url) if url else found
        url = url or name
        if "/" not in url and ":" not in url and not os.path.isdir(url):
            known = ", ".join(display(remote.name) for remote in self.every) or "none"
            raise UsageError(
                f"there is no remote {display(url, 80)!r} (configured: {known}); 'git remote add'"
                " makes one"
            )
        return Remote("", url, url)


def read(repository: Repository) -> Remotes:
    """The remotes that git's config names."""
    found: dict[str, list[tuple[str, str]]] = {}
    branches: dict[str, str] = {}
    rules: list[tuple[str, str, str]] = []
    for key, text in _config(repository):
        section, _, rest = key.partition(".")
        name, _, variable = rest.rpartition(".")
        if section == "remote" and name:
            found.setdefault(name, []).append((variable, text))
        elif section == "branch" and variable == "remote":
            branches[name] = text
        elif section == "url":
            rules.append((variable, text, name))
    remotes = [
        _remote(name, values, rules)
        for name, values in found.items()
        if any(key in ("url", "pushurl") for key, _ in values)
    ]
    first = _first(repository, remotes, branches)
    return Remotes(tuple(sorted(remotes, key=lambda remote: remote.name != first)))


def _config(repository: Repository) -> list[tuple[str, str]]:
    raw = run(
        ["--git-dir", str(repository.git_dir), "config", "--null", "--get-regexp", _PATTERN],
        allowed=(0, 1),
    )
    pairs = (
        record.partition("\n")
        for record in raw.decode("utf-8", "surrogateescape").split("\0")
        if record
    )
    return [(key, text) for key, _, text in pairs]


def _remote(
    name: str, values: Sequence[tuple[str, str]], rules: Sequence[tuple[str, str, str]]
) -> Remote:
    urls = [text for key, text in values if key == "url"]
    pushed = [text for key, text in values if key == "pushurl"]
    url = _rewritten(urls[0] if urls else pushed[0], rules, "insteadof")
    push_url = (
        _rewritten(pushed[0], rules, "insteadof")
        if pushed
        else _rewritten(urls[0], rules, "pushinsteadof", url)
    )
    return Remote(
        name,
        url,
        push_url,
        tuple(_tracked(text for key, text in values if key == "fetch")),
        tuple(values),
    )


def _rewritten(
    url: str, rules: Sequence[tuple[str, str, str]], kind: str, otherwise: str | None = None
) -> str:
    """``url`` by git's ``url.BASE.insteadOf``: the longest prefix counts."""
    best = max(
        (rule for rule in rules if rule[0] == kind and url.startswith(rule[1])),
        key=lambda rule: len(rule[1]),
        default=None,
    )
    if best is None:
        return url if otherwise is None else otherwise
    return best[2] + url[len(best[1]) :]


def _tracked(specs: Iterable[str]) -> list[str]:
    """The local sides of fetch refspecs, as far as they are tracking refs: a mirror's own branches
    say nothing of the remote's.
    """
    found = []
    for spec in specs:
        _, _, local = spec.removeprefix("+").partition(":")
        if local.startswith("refs/remotes/") and not spec.startswith("^"):
            found.append(local)
    return found


def _first(repository: Repository, remotes: Sequence[Remote], branches: Mapping[str, str]) -> str:
    named = {remote.name for remote in remotes}
    if branches and len(named) > 1:
        mine = branches.get(current_branch(repository), "")
        if mine in named:
            return mine
    return "origin" if "origin" in named else remotes[0].name if remotes else ""


def tracked_commits(repository: Repository, remote: Remote) -> list[str]:
    """The objects that the remote's refs named when they were last looked at."""
    if not remote.tracked:
        return []
    patterns = [
        pattern.removesuffix("/*") if pattern.endswith("/*") else pattern
        for pattern in remote.tracked
    ]
    listed = run(
        ["--git-dir", str(repository.git_dir), "for-each-ref", "--format=%(objectname)", *patterns]
    )
    return list(dict.fromkeys(listed.decode("ascii").split()))


def advertised(repository: Repository, remote: Remote) -> list[str]:
    """What the branches and tags name where pushes to ``remote`` go, as it says itself when asked;
    nothing where it does not answer.
    """
    where = remote.name if remote.name and remote.url == remote.push_url else remote.push_url
    asked = [
        "--git-dir",
        str(repository.git_dir),
        "ls-remote",
        "--quiet",
        "--heads",
        "--tags",
        "--",
        where,
    ]
    code, listed = run_code(asked, cwd=base_folder(repository), allowed=range(256))
    return (
        []
        if code
        else list(
            dict.fromkeys(line.split(b"\t")[0].decode("ascii") for line in listed.splitlines())
        )
    )


def local_path(url: str, base: Path) -> Path | None:
    """The folder that a URL names on this machine (a relative one is meant from ``base``); None
    when it is somewhere else.
    """
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path, errors="surrogateescape"))
    head = url.split("/", 1)[0]
    windows_drive = os.name == "nt" and len(head) == 2 and head[1] == ":"
    return (
        base / url
        if url and "://" not in url and "::" not in url and (":" not in head or windows_drive)
        else None
    )


def git_dir_of(path: Path) -> Path | None:
    """The repository's own folder where ``path`` is a repository (bare or not); None when it is
    none.
    """
    for place in (path / ".git", path, path.with_name(path.name + ".git")):
        candidate = place
        # A worktree or submodule names its folder in a file; a bundle is a file, too
        if place.is_file():
            with place.open("rb") as file:
                start, named, folder = file.read(8192).partition(b"gitdir: ")
            if start or not named:
                continue
            candidate = place.parent / os.fsdecode(folder.rstrip(b"\r\n"))
        if (candidate / "HEAD").is_file() and (candidate / "objects").is_dir():
            return candidate
        if (candidate / "commondir").is_file():
            return (
                candidate / (candidate / "commondir").read_text("utf-8", "surrogateescape").strip()
            )
    return None


def base_folder(repository: Repository) -> Path:
    """Where git resolves relative URLs from."""
    return repository.worktree or repository.git_dir


def without_secret(url: str) -> str:
    """``url`` without a password, and over HTTP without a user name, which may be a token."""
    scheme, found, rest = url.partition("://")
    netloc = re.match(r"[^/?#]*", rest) if found else None
    if netloc is None or "@" not in netloc[0]:
        return url
    user, _, host = netloc[0].rpartition("@")
    name = "" if scheme.lower() in ("http", "https") else user.partition(":")[0]
    return f"{scheme}://{name}{'@' if name else ''}{host}{rest[netloc.end() :]}"


def host_of(url: str) -> str:
    """The name of the server that a URL leads to, in lower case; empty for a path."""
    if "://" not in url:  # host:path, git's short form of ssh
        head, colon, _ = url.partition(":")
        return head.rpartition("@")[2].lower() if colon and "/" not in head else ""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def current_branch(repository: Repository) -> str:
    """The branch that HEAD is on; empty when it is detached."""
    name = run(
        ["--git-dir", str(repository.git_dir), "symbolic-ref", "-q", "--short", "HEAD"],
        allowed=(0, 1),
    )
    return name.decode("utf-8", "surrogateescape").rstrip("\n")
