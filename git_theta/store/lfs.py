"""Moving objects with Git LFS, whose ids and layout ours share.

Each transfer has a *dock* of its own, laid out as Git LFS's storage. To push, objects are linked
there and git-lfs sends them by id. To fetch, git-lfs is asked for them in the protocol of a delayed
filter, the one way to name single objects to it, and what it brings is linked over and verified.
Nothing goes through Git LFS's own storage, where ``git lfs prune`` and other transfers are at work;
what is there is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from git_theta.core import lfs_pointer
from git_theta.core.manifest import ObjectRef
from git_theta.core.names import display
from git_theta.errors import (
    GitError,
    ObjectDamaged,
    ObjectMissing,
    StoreError,
    ThetaError,
    TransferError,
)
from git_theta.git import lfs_program, pktline
from git_theta.git.command import inherited_environment
from git_theta.git.config import config_file
from git_theta.git.config.remotes import BY_URL, Remote, base_folder, current_branch, local_path
from git_theta.git.repository import Repository
from git_theta.store.local import LocalStore

INSTALL = (
    "install it from https://git-lfs.com (or with your package manager: apt, dnf, brew, winget,"
    " conda: git-lfs)"
)
_IDS_FROM_STDIN = (3, 3)  # the first release that takes them there
# As arguments; 32,000 characters are the least that a command line holds anywhere
_IDS_AT_ONCE = 400
_FLUSH_COUNT, _FLUSH_BYTES = 256, 1 << 30


@dataclass(frozen=True, slots=True)
class GitLfs:
    """git-lfs in one repository: its version, and its own objects' folder."""

    repository: Repository
    version: tuple[int, ...]
    dock: Path

    @classmethod
    def find(cls, repository: Repository) -> GitLfs:
        """:class:`TransferError`, saying how to get it, where git-lfs is not installed."""
        version = lfs_program.version(base_folder(repository))
        if version is None:
            raise TransferError(f"git-lfs is not installed; {INSTALL}")
        where = base_folder(repository)
        storage = config_file.get("lfs.storage", where, "path")
        given = config_file.values(r"^lfs\.storage$", where=where)
        # Git-lfs would hand it on to the other side of a file:// transfer, deliver nothing and
        # report success
        if any(value.scope == "command" for value in given[-1:]):
            raise TransferError(
                "lfs.storage cannot be given on the command line; 'git config lfs.storage' sets it"
                " for the repository"
            )
        return cls(
            repository,
            version,
            repository.common_dir / (storage or "lfs") / "objects",
        )

    def path(self, oid: str) -> Path:
        """Where git-lfs keeps an object."""
        return self.dock / oid[:2] / oid[2:4] / oid


class LfsPlace:
    """A remote's Git LFS server."""

    verifies = False

    def __init__(
        self, lfs: GitLfs, remote: Remote, settings: Mapping[str, str] | None = None
    ) -> None:
        self._lfs = lfs
        self._remote = remote
        self._more = dict(settings or {})
        self.title = f"{remote.title} (Git LFS)"

    def send(
        self, store: LocalStore, refs: Sequence[ObjectRef], advance: Callable[[int], None]
    ) -> None:
        """Deliver objects that are in ``store``; what the server has already it does not ask for.

        :class:`TransferError` unless every one of them has arrived. :class:`ObjectMissing` or
        :class:`ObjectDamaged` before anything is sent.
        """
        if not refs:
            return
        with self._apart(store.temporary_path()) as place:
            for ref in refs:
                place._dock(store, ref)
            place._push([ref.oid for ref in refs])
        advance(sum(ref.size for ref in refs))

    def bring(
        self, store: LocalStore, refs: Sequence[ObjectRef], advance: Callable[[int], None]
    ) -> None:
        """Fetch objects into ``store``.

        Those that cannot be had stay missing; :class:`TransferError` with git-lfs's words if any
        did.
        """
        if not refs:
            return
        arriving = _Arrivals(store, advance)
        wanted = [ref for ref in refs if not arriving.take(self._lfs, ref)]
        if not wanted:
            store.flush()
            return
        with self._apart(store.temporary_path()) as place:
            try:
                words = place._fetch(wanted, lambda ref: arriving.bring(place._lfs, ref))
            finally:
                arriving.finish(place._lfs, wanted)
        lacking = [ref for ref in wanted if ref.oid not in arriving.taken]
        if lacking:
            many = (
                f"{len(lacking):,} of {len(refs):,} objects"
                if len(lacking) > 1
                else f"object {lacking[0].oid}"
            )
            raise TransferError(
                f"{self.title} did not deliver {many}{f': {words}' if words else ''}"
            )

    def audit(self, refs: Sequence[ObjectRef]) -> Iterator[tuple[ObjectRef, str]]:
        """Read objects at the server; those that are missing or not what their name says, with the
        reason.

        They pass through a dock of their own, group by group, as git-lfs would not fetch what it
        has in the real one.
        """
        with (
            tempfile.TemporaryDirectory(
                prefix="git-theta-", dir=self._lfs.repository.git_dir
            ) as folder,
            self._apart(Path(folder, "dock")) as place,
        ):
            for group in _groups(refs):
                words = place._fetch(group, lambda _: None)
                for ref in group:
                    path = place._lfs.path(ref.oid)
                    reason = _fault(path, ref)
                    if reason:
                        yield ref, f"missing ({words})" if reason == "missing" and words else reason
                    path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _apart(self, folder: Path) -> Iterator[LfsPlace]:
        """The same server, with a dock of its own in the new ``folder``, which is gone afterwards.

        git-lfs runs in a repository made there, with the settings of the real one: transfers that
        share a dock would take objects out of it that others still need. ``lfs.storage`` stands in
        that repository's config, as the other side of a transfer between folders would obey it if
        it came in any other way.
        """
        repository, git_dir = self._lfs.repository, folder / ".git"
        settings = [repository.common_dir / "config", repository.git_dir / "config.worktree"]
        included = "".join(
            f"[include]\n\tpath = {_quoted(path)}\n" for path in settings if path.is_file()
        )
        try:
            (git_dir / "objects").mkdir(parents=True)
            (git_dir / "refs").mkdir()
            (git_dir / "HEAD").write_bytes(b"ref: refs/heads/main\n")
            text = f"[core]\n\trepositoryformatversion = 0\n{included}[lfs]\n\tstorage = lfs\n"
            (git_dir / "config").write_text(text, "utf-8", "surrogateescape", newline="\n")
            own = GitLfs(
                Repository(git_dir, git_dir, folder, repository.hash_length),
                self._lfs.version,
                git_dir / "lfs" / "objects",
            )
            yield LfsPlace(own, self._remote, self._more | self._absolute())
        except OSError as error:
            if isinstance(error, ThetaError):
                raise
            raise StoreError(f"{folder} cannot be written: {error.strerror or error}") from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _absolute(self) -> dict[str, str]:
        """The remote's URLs, where they are relative paths, as seen from anywhere."""
        found = {}
        for key, url in (("url", self._remote.url), ("pushurl", self._remote.push_url)):
            folder = local_path(url, base_folder(self._lfs.repository))
            if (
                folder is not None
                and self._remote.name
                and (key == "url" or url != self._remote.url)
            ):
                found[f"remote.{self._remote.name}.{key}"] = folder.absolute().as_uri()
        return found

    # Sending

    def _dock(self, store: LocalStore, ref: ObjectRef) -> None:
        source, target = store.find(ref.oid, ref.size), self._lfs.path(ref.oid)
        if source is None:
            raise ObjectMissing(f"object {ref.oid} ({ref.size} bytes) is not in the store")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except OSError:  # another file system
                shutil.copyfile(source, target)
        except OSError as error:
            raise TransferError(f"{target} cannot be written: {error.strerror or error}") from None

    def _push(self, oids: Sequence[str]) -> None:
        name, environment = self._addressed({"lfs.allowincompletepush": "false"})
        if self._lfs.version >= _IDS_FROM_STDIN:
            self._run_push(name, oids, True, environment)
            return
        for start in range(0, len(oids), _IDS_AT_ONCE):
            self._run_push(name, oids[start : start + _IDS_AT_ONCE], False, environment)

    def _run_push(
        self, name: str, oids: Sequence[str], from_stdin: bool, environment: Mapping[str, str]
    ) -> None:
        # git-lfs shows its own progress, on standard output; that belongs on standard error, where
        # a terminal is.
        watched = os.isatty(2)
        with tempfile.TemporaryFile() as words:
            target = 2 if watched else words
            folder, full = base_folder(self._lfs.repository), self._environment(environment)
            if lfs_program.push(name, oids, from_stdin, target, folder, full):
                said = "" if watched else _reason(words)
                raise TransferError(
                    "git-lfs could not deliver to"
                    f" {self._remote.title}{f': {said}' if said else ' (see above)'}"
                )

    # Fetching

    def _fetch(self, refs: Sequence[ObjectRef], take: Callable[[ObjectRef], None]) -> str:
        """Ask git-lfs for objects and tell ``take`` as they come; what it complained of."""
        settings = {"lfs.fetchinclude": "", "lfs.fetchexclude": ""}
        _, environment = self._addressed(settings, fetch=True)
        with tempfile.TemporaryFile() as words:
            full = self._environment({**environment, "GIT_LFS_SKIP_SMUDGE": "0"})
            folder = base_folder(self._lfs.repository)
            process = lfs_program.filter_process(words, folder, full)
            stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
            try:
                _converse(stdin, stdout, refs, take)
            except (EOFError, OSError, GitError) as error:
                if isinstance(error, TransferError):
                    raise
                return _reason(words) or f"git-lfs stopped ({type(error).__name__})"
            except BaseException:
                process.kill()
                raise
            finally:
                with contextlib.suppress(OSError):
                    stdin.close()
                process.wait()
                stdout.close()
            return _reason(words)

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """What git-lfs is run with.

        Where it finds the repository by itself, git's word for it is left out: a transfer's other
        side, which is another repository, would obey it too.
        """
        worktree = self._lfs.repository.worktree
        hidden = (
            ("GIT_DIR", "GIT_WORK_TREE")
            if worktree is not None and (worktree / ".git").exists()
            else ()
        )
        return inherited_environment(more, hidden)

    def _addressed(
        self, settings: Mapping[str, str], fetch: bool = False
    ) -> tuple[str, dict[str, str]]:
        """The name to call the remote, and the environment that makes git-lfs understand it (and
        use it, to fetch).
        """
        settings = {**self._more, **settings}
        name = self._remote.name
        if not name:
            name, url = BY_URL, self._remote.push_url
            folder = local_path(url, base_folder(self._lfs.repository))
            settings[f"remote.{name}.url"] = (
                folder.absolute().as_uri() if folder is not None else url
            )
        if fetch:
            branch = current_branch(self._lfs.repository)
            settings["remote.lfsdefault"] = name
            if branch:
                settings[f"branch.{branch}.remote"] = name
        return name, lfs_program.configured(settings)


class _Arrivals:
    """Takes objects from docks into the store, verified, and makes them durable by and by."""

    def __init__(self, store: LocalStore, advance: Callable[[int], None]) -> None:
        self._store = store
        self._advance = advance
        self._count = self._bytes = 0
        self.taken: set[str] = set()

    def take(self, lfs: GitLfs, ref: ObjectRef) -> bool:
        """Take an object that the dock of ``lfs`` has, as its name says; whether it has."""
        path = lfs.path(ref.oid)
        try:
            if path.stat().st_size != ref.size:
                return False
            self._store.adopt(path, ref)
        except (FileNotFoundError, ObjectDamaged, ObjectMissing):
            return False
        self.taken.add(ref.oid)
        self._advance(ref.size)
        self._count, self._bytes = self._count + 1, self._bytes + ref.size
        if self._count >= _FLUSH_COUNT or self._bytes >= _FLUSH_BYTES:
            self._store.flush()
            self._count = self._bytes = 0
        return True

    def bring(self, lfs: GitLfs, ref: ObjectRef) -> None:
        """Take what git-lfs has just brought into its dock, if it did."""
        if ref.oid not in self.taken and self.take(lfs, ref):
            with contextlib.suppress(OSError):
                lfs.path(ref.oid).unlink()

    def finish(self, lfs: GitLfs, refs: Iterable[ObjectRef]) -> None:
        """Look for all of ``refs`` once more, and make what is here durable."""
        for ref in refs:
            self.bring(lfs, ref)
        self._store.flush()


def _converse(
    stdin: IO[bytes],
    stdout: IO[bytes],
    refs: Sequence[ObjectRef],
    take: Callable[[ObjectRef], None],
) -> None:
    """Speak to ``git lfs filter-process`` as git does when it may delay: name every object, then
    wait for each.

    Its content is never asked for: it is in the dock by then. To ask what is available once more
    than needed crashes git-lfs 3.3.0.
    """

    def say(*lines: str) -> None:
        stdin.write(b"".join(map(pktline.text, lines)) + pktline.FLUSH)

    say("git-filter-client", "version=2")
    stdin.flush()
    pktline.read_list(stdout)
    say("capability=clean", "capability=smudge", "capability=delay")
    stdin.flush()
    if "capability=delay" not in pktline.read_list(stdout):
        raise GitError("this git-lfs cannot delay; Git-Theta needs git-lfs 3.0 or newer")
    waiting: dict[str, ObjectRef] = {}
    for ref in refs:
        pointer = lfs_pointer.dump(ref.oid, ref.size)
        say("command=smudge", f"pathname={ref.oid}", "can-delay=1")
        stdin.write(b"%04x" % (len(pointer) + 4) + pointer + pktline.FLUSH)
        stdin.flush()
        status = pktline.read_list(stdout)
        if "status=delayed" in status:
            waiting[ref.oid] = ref
            continue
        if "status=success" in status:  # it came meanwhile, from someone else
            while pktline.read_packet(stdout) is not None:
                pass
            pktline.read_list(stdout)
        take(ref)
    while waiting:
        say("command=list_available_blobs")
        stdin.flush()
        listed = [line.removeprefix("pathname=") for line in pktline.read_list(stdout)]
        pktline.read_list(stdout)
        if not listed:
            raise GitError("git-lfs knows no more of the objects it was asked for")
        for oid in listed:
            ref_or_none = waiting.pop(oid, None)
            if ref_or_none is not None:
                take(ref_or_none)


def _groups(refs: Sequence[ObjectRef]) -> Iterator[list[ObjectRef]]:
    group: list[ObjectRef] = []
    size = 0
    for ref in refs:
        if group and (len(group) >= _FLUSH_COUNT or size + ref.size > _FLUSH_BYTES):
            yield group
            group, size = [], 0
        group.append(ref)
        size += ref.size
    if group:
        yield group


def _fault(path: Path, ref: ObjectRef) -> str:
    try:
        with path.open("rb") as file:
            right = (
                hashlib.file_digest(file, "sha256").hexdigest() == ref.oid
                and path.stat().st_size == ref.size
            )
    except FileNotFoundError:
        return "missing"
    return "" if right else "damaged"


def _quoted(path: Path) -> str:
    """A path as git's config files have it."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def _reason(words: IO[bytes]) -> str:
    """What a person should read of git-lfs's output: its first complaint, without progress and
    debris of the transfer agent.
    """
    words.seek(0)
    text = words.read(64 << 10).decode("utf-8", "replace").replace("\r", "\n")
    lines = [line.strip() for line in text.split("\n")]
    told = [
        line
        for line in lines
        if line and line != "EOF" and not re.match(r"(Uploading|Downloading) LFS objects:", line)
    ]
    return display(told[0].replace('"', "'"), 300) if told else ""
