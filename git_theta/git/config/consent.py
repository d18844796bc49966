"""What a repository brings along of URLs, and which of them the user agreed to.

A cloned repository may name where its objects are: in ``.thetaconfig`` (ours) and in ``.lfsconfig``
(git-lfs's). Whoever writes into a repository must not decide which servers and buckets other
people's machines talk to with their credentials, so such a URL is used only after the user
confirmed that very URL once (``git theta remote confirm``), which is noted in the user's own
config. A Git LFS server on the remote's own host needs no second word: the user has named that host
already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from git_theta.core.names import display
from git_theta.errors import TransferError, UsageError
from git_theta.git.command import run, run_code
from git_theta.git.config.remotes import BY_URL, Remote, host_of, without_secret
from git_theta.git.config.required_release import FILE as FILE
from git_theta.git.repository import Repository

CONFIRMED = "theta.confirmedUrl"
# Ours: it is no server, and takes Git LFS's own files alone
AGENT = ("lfs.standalonetransferagent", "git-theta")
_LFS_FILE = ".lfsconfig"
_LFS_KEYS = ("lfsurl", "lfspushurl")
_OWN = (
    r"^(theta\.confirmedurl|lfs\.(push)?url|lfs\.standalonetransferagent"
    r"|remote\..*\.lfs(push)?url)$"
)


@dataclass(frozen=True, slots=True)
class OfferedUrls:
    """What the repository's own files say: its object ``storage``, ``mirrors``, Git LFS servers by
    key.

    ``confirmed`` is what the user has agreed to; ``overridden`` are the keys that the user's own
    config sets, which counts for git-lfs.
    """

    storage: str = ""
    mirrors: tuple[str, ...] = ()
    lfs: tuple[tuple[str, str], ...] = ()
    confirmed: frozenset[str] = field(default_factory=frozenset)
    overridden: frozenset[str] = field(default_factory=frozenset)

    def agreed(self, url: str, what: str) -> str:
        """``url``, or nothing where there is none; :class:`TransferError` when the user has not
        confirmed it.
        """
        if url and url not in self.confirmed:
            raise TransferError(_ask(FILE, what, url))
        return url

    def agreed_lfs(self, remote: Remote, push: bool) -> None:
        """:class:`TransferError` when git-lfs would talk to a server that only the repository
        named, on another host than the remote's.
        """
        for url in self.lfs_servers(remote):
            if url not in self.confirmed and not _same_host(
                url, remote.push_url if push else remote.url
            ):
                raise TransferError(_ask(_LFS_FILE, "Git LFS server", url))

    def lfs_servers(self, remote: Remote) -> list[str]:
        """The servers that ``.lfsconfig`` gives git-lfs for ``remote``."""
        keys = [
            "lfs.url",
            "lfs.pushurl",
            *(f"remote.{remote.name or BY_URL}.{key}" for key in _LFS_KEYS),
        ]
        return [url for key, url in self.lfs if key in keys and key not in self.overridden]

    def lfs_settings(self) -> dict[str, str]:
        """What ``.lfsconfig`` sets of servers and the user's own config does not, for a git-lfs
        that runs where the file is not.
        """
        return {key: url for key, url in self.lfs if key not in self.overridden}

    def server_named(self, remote: Remote) -> bool:
        """Whether anybody named a Git LFS server for ``remote``, so that it is not simply the
        remote's own folder or host.
        """
        keys = {
            "lfs.url",
            "lfs.pushurl",
            "lfs.standalonetransferagent",
            *(f"remote.{remote.name}.{key}" for key in _LFS_KEYS),
        }
        return bool(self.overridden & keys) or bool(self.lfs_servers(remote))

    def unconfirmed(self, every: list[Remote]) -> list[str]:
        """All URLs that wait for the user's word."""
        urls = [self.storage, *self.mirrors]
        for remote in every:
            urls += [
                url
                for url in self.lfs_servers(remote)
                if not _same_host(url, remote.url) or not _same_host(url, remote.push_url)
            ]
        return [url for url in dict.fromkeys(urls) if url and url not in self.confirmed]


def read(repository: Repository) -> OfferedUrls:
    """What the working tree's files say, else the index's, else HEAD's; and the user's config."""
    theirs, lfs_file = _files(repository, (FILE, _LFS_FILE))
    lfs = [
        (key, text)
        for key, text in lfs_file
        if key in ("lfs.url", "lfs.pushurl") or key.rpartition(".")[2] in _LFS_KEYS
    ]
    own = _pairs(
        run(
            ["--git-dir", str(repository.git_dir), "config", "--null", "--get-regexp", _OWN],
            allowed=(0, 1),
        )
    )
    storage = [text for key, text in theirs if key == "theta.url"]
    return OfferedUrls(
        storage[-1] if storage else "",
        tuple(text for key, text in theirs if key == "theta.mirror"),
        tuple(lfs),
        frozenset(text for key, text in own if key == CONFIRMED.lower()),
        frozenset(key for key, text in own if (key, text) != AGENT),
    )


def confirm(repository: Repository, url: str) -> None:
    """Note in this repository's own config (which no clone brings along) that the user agreed to
    ``url``.
    """
    run(["--git-dir", str(repository.git_dir), "config", "--local", "--add", CONFIRMED, url])


def _files(repository: Repository, names: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    """The settings in each of the files: the working tree's, else the index's, else HEAD's, as
    git-lfs does it.
    """
    stored = [f"{revision}:{name}" for name in names for revision in ("", "HEAD")]
    listed = run(
        ["--git-dir", str(repository.git_dir), "cat-file", "--batch-check"],
        stdin="\n".join(stored).encode() + b"\n",
    ).split(b"\n")
    for number, name in enumerate(names):
        path = repository.worktree / name if repository.worktree is not None else None
        blobs = [
            line.split()[0].decode("ascii")
            for line in listed[2 * number : 2 * number + 2]
            if line.split()[1:2] == [b"blob"]
        ]
        if path is not None and path.is_symlink():
            raise UsageError(f"{name} is a symbolic link; it is not followed")
        if path is not None and path.is_file():
            yield _read_file(repository, name, ["--file", str(path)])
        else:
            yield _read_file(repository, name, ["--blob", blobs[0]]) if blobs else []


def _read_file(repository: Repository, name: str, place: Sequence[str]) -> list[tuple[str, str]]:
    code, raw = run_code(
        [
            "--git-dir",
            str(repository.git_dir),
            "config",
            "--no-includes",
            *place,
            "--null",
            "--list",
        ],
        allowed=range(256),
    )
    if code:
        raise UsageError(f"{name} cannot be read as a git config file")
    return _pairs(raw)


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    records = (
        record.partition("\n")
        for record in raw.decode("utf-8", "surrogateescape").split("\0")
        if record
    )
    return [(key, text) for key, _, text in records]


def _same_host(url: str, other: str) -> bool:
    """Whether ``url`` is on the host of ``other``, reached as safely."""
    if host_of(url) == "" or host_of(url) != host_of(other):
        return False
    return (
        url.startswith(("https://", "ssh://"))
        or "://" not in url
        or urlsplit(url)[:2] == urlsplit(other)[:2]
    )


def _ask(file: str, what: str, url: str) -> str:
    shown = display(without_secret(url), 200)
    return (
        f"the {what} {shown} is named by the repository's {file} only; 'git theta remote confirm'"
        " lets it be used"
    )
