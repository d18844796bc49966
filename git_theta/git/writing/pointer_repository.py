"""The bare repository beside a clone's objects in which commits of Git LFS pointers are made.

It lies in ``theta/pointers.git`` of the clone's common folder, so nothing of it shows in the clone.
For each place that was pushed to, it remembers the commit that this place's pointers ref had. It
includes the clone's config, and with it URL rules, credential helpers and proxies, without the
settings that make a push do more than move one ref.
"""

from __future__ import annotations

import enum
import hashlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, cast

from git_theta.core import lfs_pointer
from git_theta.core.manifest import ObjectRef
from git_theta.core.names import display
from git_theta.errors import GitError
from git_theta.git import lfs_program
from git_theta.git.command import call, inherited_environment, launch
from git_theta.git.config.remotes import Remote, base_folder, without_secret
from git_theta.git.history import pointer_scan
from git_theta.git.repository import Repository

MESSAGE = """\
Name objects of models [skip ci]

Each file is a Git LFS pointer to an object that Git-Theta stored. They keep
servers from deleting it, and lead other tools to it. Do not delete this ref.
"""
_REMOTE = "git-theta-pointers"
_NONCE = "git-theta-pointers:"
_COVERED = 64  # commits that are remembered as covered

# What git sets for its hooks, as 'git rev-parse --local-env-vars' lists it. Settings given by
# 'git -c' stay: they may hold credentials.
_HIDDEN = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
_SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.logAllRefUpdates": "false",
    "fetch.all": "false",
    "fetch.prune": "false",
    "fetch.pruneTags": "false",
    "fetch.writeCommitGraph": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "push.followTags": "false",
    "push.gpgSign": "false",
    "push.pushOption": "",
    "push.recurseSubmodules": "no",
    "push.useForceIfIncludes": "false",
}
# What a remote's own settings say of the way there
_WAY = ("proxy", "proxyauthmethod", "receivepack", "uploadpack", "vcs")
# What servers say of a ref that moved meanwhile
_RACES = ("lock", "incorrect old value", "already exists", "failed to update ref", "stale")


@dataclass(frozen=True, slots=True)
class PointersRef:
    """The ref of ``remote`` that pointers are pushed to, at the URL that pushes go to."""

    remote: Remote
    ref: str

    @property
    def key(self) -> str:
        """A name for it that fits into a ref."""
        place = f"{without_secret(self.remote.push_url)}\n{self.ref}"
        return hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:20]


class Pushed(enum.Enum):
    """What became of a push."""

    DONE = "done"
    BEHIND = "the ref there is another one"
    REFUSED = "the server does not take the ref"
    FAILED = "the server was not reached"


class PointerRepository:
    """The scratch repository of ``repository``; made when it is first needed."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.path = repository.common_dir / "theta" / "pointers.git"

    def prepare(self) -> None:
        """Make it, unless it is there. It appears at once: a kill leaves nothing half made."""
        if (self.path / "HEAD").is_file():
            return
        new = self.path.with_name(f"pointers-{secrets.token_hex(8)}")
        form = "sha256" if self._repository.hash_length == 64 else "sha1"
        made = ["init", "--quiet", "--bare", "--template=", f"--object-format={form}"]
        self._git([*made, str(new)], inside=False)
        with (new / "config").open("a", encoding="ascii") as file:
            file.write("[include]\n\tpath = ../../config\n")
        try:
            new.replace(self.path)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            if not (self.path / "HEAD").is_file():
                raise

    def tip(self, target: PointersRef) -> str:
        """The commit that the ref had after the last push from here; empty if there was none."""
        return self._commit(_remembered(target)) if (self.path / "HEAD").is_file() else ""

    def covered(self, target: PointersRef) -> list[str]:
        """The clone's own commits whose objects that commit names, as far as they are needed."""
        try:
            return (self.path / "covered" / target.key).read_text("ascii").split()
        except (OSError, ValueError):
            return []

    def remember(self, target: PointersRef, tip: str, covered: Sequence[str]) -> None:
        """Note that the ref has ``tip`` (empty: none), and that it names all objects of the clone's
        commits ``covered``.
        """
        if tip:
            self._git(["update-ref", _remembered(target), tip])
        folder = self.path / "covered"
        folder.mkdir(exist_ok=True)
        every = list(dict.fromkeys([*covered, *self.covered(target)]))[:_COVERED]
        new = folder / f"{target.key}.{secrets.token_hex(8)}"
        new.write_text("\n".join(every) + "\n", "ascii")
        new.replace(folder / target.key)

    def warn_once(self, target: PointersRef) -> bool:
        """Whether this is the first time that the ref was not taken."""
        folder = self.path / "refused"
        folder.mkdir(exist_ok=True)
        try:
            (folder / target.key).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def named(self, tip: str, exclude: Sequence[str] = ()) -> Iterator[ObjectRef]:
        """The objects that ``tip`` and the commits before it name."""
        tips = [tip] if tip else []
        return pointer_scan.named(self.path, tips, [*filter(None, exclude)], hidden=_HIDDEN)

    def unnamed(self, tip: str, wanted: Iterable[ObjectRef]) -> list[ObjectRef]:
        """Those of ``wanted`` that neither ``tip`` nor a commit before it names."""
        every = list(dict.fromkeys(wanted))
        if not every or not tip:
            return every
        # Mostly no pointer to them was ever made here: then the history need not be read
        made = self._made(every)
        left = set(pointer_scan.unnamed(self.path, [tip], made, hidden=_HIDDEN))
        return [ref for ref in every if ref in left or ref not in made]

    def commit(self, refs: Iterable[ObjectRef], parent: str) -> str:
        """Make a commit that names ``refs``, and nothing else, after ``parent`` (empty: none)."""
        place = f"refs/theta/new/{secrets.token_hex(8)}"
        importer = self._launch(["fast-import", "--quiet", "--done"])
        target, answer = cast(IO[bytes], importer.stdin), cast(IO[bytes], importer.stdout)
        said = cast(IO[bytes], importer.stderr)
        with importer, target, answer, said:
            try:
                message = MESSAGE.encode("ascii")
                target.write(b"commit %s\nmark :1\n" % place.encode("ascii"))
                target.write(b"committer %s\n" % self._identity())
                target.write(b"data %d\n%s\n" % (len(message), message))
                if parent:
                    target.write(b"from %s\n" % parent.encode("ascii"))
                target.write(b"deleteall\n")
                for number, ref in enumerate(refs):
                    text = lfs_pointer.dump(*ref)
                    target.write(b"M 100644 inline %x\ndata %d\n%s\n" % (number, len(text), text))
                target.write(b"\nget-mark :1\ndone\n")
                target.flush()
                made = answer.readline().decode("ascii").strip()
            except BrokenPipeError:
                made = ""
            target.close()
            words = said.read()
            if importer.wait() or not made:
                raise GitError(f"git fast-import failed: {_reason(words)}")
        return made

    def push(self, target: PointersRef, old: str, new: str) -> tuple[Pushed, str]:
        """Move the ref to ``new``; what became of it, and the server's words.

        A tag moves only if it is still at ``old`` (empty: if there is none).
        """
        tag = target.ref.startswith("refs/tags/")
        lease = [f"--force-with-lease={target.ref}:{old}"] if tag else []
        asked = ["push", "--porcelain", "--no-verify", "--no-follow-tags", *lease]
        code, said, words = self._ask([*asked, _REMOTE, f"{new}:{target.ref}"], target)
        if not code:
            return Pushed.DONE, ""
        reason = _reason(words)
        for line in said.decode("utf-8", "replace").splitlines():
            if line.startswith("!\t"):
                told = line.rpartition("\t")[2]
                if told.startswith("[rejected]") or any(word in told for word in _RACES):
                    return Pushed.BEHIND, told
                remarks = [
                    text.removeprefix("remote:").strip()
                    for text in words.decode("utf-8", "replace").splitlines()
                    if text.startswith("remote:")
                ]
                return Pushed.REFUSED, "; ".join([told, *filter(None, remarks)][:4])
        return Pushed.FAILED, reason

    def fetch(self, target: PointersRef) -> str:
        """The commit that the ref has there, with its history; empty if the ref is not there.

        :class:`GitError` if it cannot be fetched.
        """
        place = f"refs/theta/new/{secrets.token_hex(8)}"
        asked = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--refmap="]
        way = ["--no-recurse-submodules", _REMOTE, f"+{target.ref}:{place}"]
        code, _, words = self._ask([*asked, *way], target)
        if code:
            if b"couldn't find remote ref" in words:
                return ""
            raise GitError(_reason(words))
        found = self._commit(place)
        if not found:
            raise GitError(f"{target.ref} there is not a commit")
        return found

    def descends(self, tip: str, from_: str) -> bool:
        """Whether ``from_`` is ``tip`` or a commit before it."""
        asked = ["merge-base", "--is-ancestor", from_, tip]
        return call(self._own(asked), capture_output=True, env=self._environment()).returncode == 0

    def tidy(self) -> None:
        """Forget commits that came to nothing, and pack what is loose."""
        listed = self._git(["for-each-ref", "--format=delete %(refname)", "refs/theta/new/"])
        self._git(["update-ref", "--stdin"], listed)
        packs = list((self.path / "objects" / "pack").glob("*.pack"))
        loose = list((self.path / "objects" / "00").glob("*"))
        if len(packs) > 50 or len(loose) > 27:  # as git's own limits
            call(self._own(["gc", "--quiet"]), capture_output=True, env=self._environment())

    # Running git

    def _made(self, refs: Sequence[ObjectRef]) -> set[ObjectRef]:
        """Those of ``refs`` whose pointer is here, in whatever commit."""
        algorithm = "sha256" if self._repository.hash_length == 64 else "sha1"
        blobs = {}
        for ref in refs:
            text = lfs_pointer.dump(*ref)
            blob = b"blob %d\0%s" % (len(text), text)
            blobs[hashlib.new(algorithm, blob, usedforsecurity=False).hexdigest()] = ref
        asked = "".join(f"{blob}\n" for blob in blobs).encode("ascii")
        listed = self._git(["cat-file", "--buffer", "--batch-check=%(objectname)"], asked)
        lines = listed.decode("ascii").splitlines()
        return {blobs[line] for line in lines if line in blobs}

    def _commit(self, name: str) -> str:
        asked = self._own(["rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"])
        done = call(asked, capture_output=True, env=self._environment())
        return "" if done.returncode else done.stdout.decode("ascii").strip()

    def _identity(self) -> bytes:
        asked = self._own(["var", "GIT_COMMITTER_IDENT"])
        done = call(asked, capture_output=True, env=self._environment())
        if done.returncode:
            return b"Git-Theta <git-theta@invalid> %d +0000" % time.time()
        return done.stdout.strip()

    def _own(self, arguments: Sequence[str]) -> list[str]:
        return ["--git-dir", str(self.path), "--no-replace-objects", *arguments]

    def _environment(self, target: PointersRef | None = None) -> dict[str, str]:
        settings: dict[str, str] = {}
        worktree = self._repository.git_dir / "config.worktree"
        if worktree.is_file():
            settings["include.path"] = str(worktree)
        settings |= _SETTINGS
        if target is not None:
            # The URL is as git uses it already: no rule may apply to it a second time
            url = target.remote.push_url
            settings |= {f"remote.{_REMOTE}.url": _NONCE, f"url.{url}.insteadOf": _NONCE}
            for key, text in target.remote.settings:
                if key in _WAY:
                    settings[f"remote.{_REMOTE}.{key}"] = text
        more = {"LC_ALL": "C", **lfs_program.configured(settings)}
        return inherited_environment(more, _HIDDEN)

    def _git(self, arguments: Sequence[str], stdin: bytes = b"", inside: bool = True) -> bytes:
        done = call(
            self._own(arguments) if inside else list(arguments),
            input=stdin,
            capture_output=True,
            env=self._environment(),
        )
        if done.returncode:
            raise GitError(f"git {arguments[0]} failed: {_reason(done.stderr)}")
        return done.stdout

    def _ask(self, arguments: Sequence[str], target: PointersRef) -> tuple[int, bytes, bytes]:
        """Exit code, output and errors of a command that talks to ``target``."""
        done = call(
            self._own(arguments),
            cwd=base_folder(self._repository),  # relative URLs start here
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self._environment(target),
        )
        return done.returncode, done.stdout, done.stderr

    def _launch(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return launch(
            self._own(arguments), stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment()
        )


def _remembered(target: PointersRef) -> str:
    return f"refs/theta/named/{target.key}"


def _reason(words: bytes) -> str:
    """The line of git's errors that says why."""
    lines = [line for line in words.decode("utf-8", "replace").splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))]
    return display((telling or lines or ["no reason given"])[0].strip(), 300)
