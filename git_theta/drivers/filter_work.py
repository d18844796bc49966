"""What the filter process does with each of git's requests."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from git_theta.core import earlier_release, lfs_pointer
from git_theta.core.manifest import Manifest, ObjectRef, dump, is_manifest, parse, unconverted
from git_theta.core.names import display
from git_theta.core.source import HEAD, BytesSource, FileSource, stamp
from git_theta.core.tensors import Buffer
from git_theta.drivers import asker, drain, text_merge
from git_theta.errors import FileChanged, ObjectMissing, ThetaError
from git_theta.git import pktline
from git_theta.terminal.bars import Bars
from git_theta.workflows import chains
from git_theta.workflows.progress import Bar
from git_theta.workflows.restoring.statcache import StatCache
from git_theta.workflows.session import Session
from git_theta.workflows.storing import clean

if TYPE_CHECKING:
    from git_theta.drivers.pipes import Input, Say
    from git_theta.git.repository import Repository
    from git_theta.settings import Settings

_SMALL = 4 << 20  # content up to this size is collected in memory
_TICK = 20_000_000  # ns: how far a file's times may lag behind the clock


class _Delayed(NamedTuple):
    """A file whose objects are still to be fetched."""

    path: str
    manifest: Manifest


class FilterWork:
    """Answers git's requests for one git command."""

    def __init__(
        self,
        source: Input,
        stdout: FileIO,
        repository: Repository,
        settings: Settings,
        skip: bool,
        say: Say,
    ) -> None:
        self._source = source
        self._stdout = stdout
        self._skip = skip
        self._say = say
        self._progress = Bars()
        self._session = Session(
            repository, settings, say, progress=self._progress, only_compares=asker.only_compares
        )
        self._cache = StatCache(repository.cache)
        self._delayed: dict[str, _Delayed] = {}
        self._listed: set[str] = set()
        self._failed: list[str] = []
        self._merging = bool(text_merge.heads(os.environ))

    def close(self) -> None:
        """End of the git command: put back what git removed before it asked for a file that could
        not be had.
        """
        self._progress.close()
        try:
            for path in self._failed:
                self._put_back(path)
        finally:
            self._session.__exit__(None, None, None)

    def answer(self, request: dict[str, str], asked_at: int) -> None:
        """Serve one request that came at ``asked_at`` (wall clock, ns); an error of ours fails that
        file and says why.
        """
        command, path = request.get("command", ""), request.get("pathname", "")
        if command == "list_available_blobs":
            self._list_available()
        elif command == "clean":
            self._clean(path, asked_at)
        elif command == "smudge":
            self._smudge(path, request.get("can-delay") == "1", request)
        else:
            drain.IncomingFile(self._source).skip()
            self._status("error")

    # clean

    def _clean(self, path: str, asked_at: int) -> None:
        content = drain.IncomingFile(self._source)
        self._session.store.hold()
        try:
            manifest = self._cleaned(path, content, asked_at)
        except ThetaError as error:
            self._session.store.discard()
            content.skip()
            if not asker.is_diff():
                self._fail(path, error)
                return
            manifest = f"git-theta: this file cannot be read: {error}\n".encode(
                "utf-8", "backslashreplace"
            )  # a diff of it can be shown still
        self._status("success")
        self._send([manifest])
        self._status("")

    def _cleaned(self, path: str, content: drain.IncomingFile, asked_at: int) -> bytes:
        """The manifest of the content that git sends, its objects durable in the store."""
        file = _open(self._session.full_path(path))
        try:
            begun = content.collect(0 if file is not None and file.size > _SMALL else _SMALL)
            if content.finished:
                if self._merging and is_manifest(begun):
                    self._tell(path, text_merge.after(path, asker.asker()))
                self._check_at_rest(path, file, asked_at, lambda: drain.is_content_of(file, begun))
                return self._manifest_of(path, BytesSource(begun))
            remembered = self._remembered(path, file) if file is not None else None
            if file is not None and remembered is None:
                return self._clean_beside(path, content, begun, file, asked_at)
            spool = self._session.store.temporary_path()
            try:
                same = _take(content, file, spool, begun)
                self._check_at_rest(path, file, asked_at, lambda: same)
                return (
                    self._as_known(path, remembered)
                    if same and remembered
                    else self._clean_spooled(path, spool)
                )
            finally:
                spool.unlink(missing_ok=True)
        finally:
            if file is not None:
                file.close()

    def _check_at_rest(
        self, path: str, file: FileSource | None, asked_at: int, same: Callable[[], bool]
    ) -> None:
        """:class:`FileChanged` when git may have read a file that was being written.

        So it is when the file is no longer as it was when it was opened, or was written after git
        had asked and is not what git sent.
        """
        if file is None:
            return
        moved = stamp(os.fstat(file.fileno())) != stamp(file.stat) or _stamp(
            self._session.full_path(path)
        ) != stamp(file.stat)
        recent = max(file.stat.st_mtime_ns, file.stat.st_ctime_ns) > asked_at - _TICK
        if moved or (recent and not same()):
            raise FileChanged(
                "the file changed while it was being added; add it again when nothing writes to it"
                " any more"
            )

    def _clean_beside(
        self, path: str, content: drain.IncomingFile, begun: bytes, file: FileSource, asked_at: int
    ) -> bytes:
        """Clean the working-tree file while git's copy of it comes in; start again on that copy
        should it be another.
        """
        job = clean.Job(total=file.size)
        outcome: list[bytes | BaseException] = []

        def work() -> None:
            try:
                outcome.append(self._manifest_for(path, file, job))
            except BaseException as error:
                outcome.append(error)

        worker = threading.Thread(target=work, name="git-theta-clean")
        spool = self._session.store.temporary_path()
        worker.start()
        try:
            shown = f"Adding {display(path, 40)}"
            with self._progress.begin(shown, file.size, lambda: job.done):
                same = _take(content, file, spool, begun)
                if not same:
                    job.cancelled = True
                worker.join()
            self._check_at_rest(path, file, asked_at, lambda: same)
            if not same:
                self._session.store.discard()
                return self._clean_spooled(path, spool)
        finally:
            job.cancelled = True
            worker.join()
            spool.unlink(missing_ok=True)
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        manifest = self._finish(outcome[0])
        self._cache.put(path, file.stat, asked_at, manifest)
        return manifest

    def _clean_spooled(self, path: str, spool: Path) -> bytes:
        with FileSource(spool) as source:
            return self._manifest_of(path, source)

    def _manifest_of(self, path: str, source: BytesSource | FileSource) -> bytes:
        """What git stores for content that is not cleaned in parallel with git's copy of it."""
        if self._is_held_pointer(path, source):
            if not asker.shows_working_tree():
                self._say(
                    f"warning: {display(path)} stays as it is in git: it {lfs_pointer.ADVICE}, then"
                    " 'git add --renormalize' it"
                )
            return source.read(0, source.size)
        return self._finish(self._manifest_for(path, source))

    def _manifest_for(
        self, path: str, source: BytesSource | FileSource, job: clean.Job | None = None
    ) -> bytes:
        """The manifest of the content: what is known of it as it is, where that is quickly seen to
        describe it.
        """
        from git_theta.workflows.storing import recut

        if source.size > _SMALL:
            for text in self._session.known_texts(path):
                if is_manifest(text) and recut.is_unchanged(self._session, text, source):
                    return self._session.hand_out_text(text)
        return clean.clean(self._session, path, source, self._known(path), job)

    def _is_held_pointer(self, path: str, source: BytesSource | FileSource) -> bool:
        """Whether the content is a Git LFS pointer that the index or HEAD holds as it is: then
        ``git status`` must find no change.
        """
        if not lfs_pointer.is_pointer(source.size, source.read(0, min(64, source.size))):
            return False
        text = source.read(0, source.size)
        return any(
            self._session.blobs.read(f"{place}:{path}") == text for place in (":0", ":2", "HEAD")
        )

    def _finish(self, manifest: bytes) -> bytes:
        self._session.store.flush()
        return manifest

    def _remembered(self, path: str, file: FileSource) -> Manifest | None:
        """The manifest of a file that is as it was when it was last read, if its objects are still
        here: cleaning can mend the store.
        """
        text = self._cache.get(path, file.stat)
        manifest = None if text is None else parse(text)
        lacking = manifest is not None and self._session.store.rely_on(
            ObjectRef(*item) for item in manifest.objects().items()
        )
        return None if lacking else manifest

    def _as_known(self, path: str, remembered: Manifest) -> bytes:
        """What the index or HEAD holds for the same content.

        They may have come by it later than the cache: ``git mv`` has a file cleaned under its new
        name before the index knows that.
        """
        known = self._session.known_manifests(path)
        held = next(
            (manifest for manifest in known if manifest.same_content(remembered)), remembered
        )
        return (
            dump(held) if held.objects() == remembered.objects() else self._session.hand_out(held)
        )

    def _known(self, path: str) -> list[Manifest]:
        return self._session.known_manifests(path, self._cache.last(path))

    # smudge

    def _smudge(self, path: str, can_delay: bool, request: dict[str, str]) -> None:

        coming = drain.IncomingFile(self._source)
        content = coming.collect(_SMALL)
        while not coming.finished:
            content += coming.collect(_SMALL)
        if content == b"" and path in self._delayed and path in self._listed:
            self._give(path, self._delayed.pop(path).manifest, fetched=True)
            return
        if content != (content := unconverted(content)):
            self._say(
                f"warning: attributes of {display(path)} have git convert line ends; 'git theta"
                " track' it again, so that it says -text"
            )
        if earlier_release.is_metadata(content[:HEAD]):
            self._say(f"{display(path)} is {earlier_release.ADVICE}")
        if self._skip or not is_manifest(content) or asker.wants_manifest(request):
            self._status("success")
            self._send([content])
            self._status("")
            return
        if self._merging:
            self._tell(path, text_merge.before(asker.asker(), os.environ))
        try:
            manifest = parse(content)
            if can_delay and chains.missing(self._session.store, manifest):
                self._delayed[path] = _Delayed(path, manifest)
                self._status("delayed")
                return
        except ThetaError as error:
            self._fail(path, error)
            return
        self._give(path, manifest)

    def _give(self, path: str, manifest: Manifest, fetched: bool = False) -> None:
        from git_theta.workflows.restoring import smudge

        store, session = self._session.store, self._session
        try:
            if not fetched and chains.missing(store, manifest):
                fetch(session, [manifest])
            chains.require(store, manifest)
            bar = self._progress.begin(f"Checking out {display(path, 40)}", manifest.size)
            chunks = smudge.stream(store, manifest, session.pool(), session.threads)
            first = _first_of(chunks)
        except ThetaError as error:
            self._progress.close()
            if isinstance(error, ObjectMissing) and session.settings.on_missing == "manifest":
                self._leave(path, manifest, error)
            else:
                self._fail(path, error)
            return
        self._status("success")
        try:
            with bar:
                self._send(_counted(first, bar))
        except ThetaError as error:
            self._source_failed_midway(path, error)
            return
        self._status("")

    def _leave(self, path: str, manifest: Manifest, error: ObjectMissing) -> None:
        """The manifest in place of a model that cannot be had (theta.onMissing): adding it back
        changes nothing.
        """
        self._say(
            f"{display(path)}: {error}; its manifest is left in its place, 'git theta pull' writes"
            " the model once it can be had"
        )
        self._status("success")
        self._send([dump(manifest)])
        self._status("")

    def _source_failed_midway(self, path: str, error: ThetaError) -> None:
        """End content that is already under way, and let the status after it declare it void."""
        self._write(pktline.FLUSH)
        self._complain(path, error)
        self._write(pktline.text("status=error") + pktline.FLUSH)

    def _list_available(self) -> None:
        """Git waits for delayed files: fetch everything they miss at once, then list them all."""
        waiting = [item for path, item in self._delayed.items() if path not in self._listed]
        if waiting:
            try:
                fetch(self._session, [item.manifest for item in waiting])
            except ThetaError as error:
                self._say(str(error))
        for item in waiting:
            self._listed.add(item.path)
            self._write(pktline.text(f"pathname={item.path}"))
        self._write(pktline.FLUSH)
        self._status("success")

    # replies

    def _fail(self, path: str, error: ThetaError) -> None:
        self._complain(path, error)
        self._status("error")

    def _tell(self, path: str, message: str) -> None:
        if message:
            self._say(f"{display(path)}: {message}")

    def _complain(self, path: str, error: ThetaError) -> None:
        self._say(f"{display(path)}: {error}")
        self._failed.append(path)

    def _put_back(self, path: str) -> None:
        """Git removes the old file before it asks for the new one.

        Where that could not be had, the index still names the old.
        """
        from git_theta.workflows.restoring import smudge
        from git_theta.workflows.restoring.checkout import temporary_beside

        target = self._session.full_path(path)
        with contextlib.suppress(ThetaError, OSError):
            if not target.parent.is_dir() or os.path.lexists(target):
                return
            manifest = self._session.manifest(f":0:{path}")
            if manifest is None or chains.missing(self._session.store, manifest):
                return
            temporary = temporary_beside(self._session, target)
            try:
                smudge.write(self._session.store, manifest, temporary, self._session.pool())
                # Unlike a rename it never replaces a file that came meanwhile
                os.link(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)

    def _status(self, status: str) -> None:
        self._write((pktline.text(f"status={status}") if status else b"") + pktline.FLUSH)

    def _send(self, chunks: Iterable[Buffer]) -> None:
        """Content in packets, then a flush."""
        for chunk in chunks:
            pending = list(pktline.packets(chunk))
            while pending:
                pending = self._write_some(pending)
        self._write(pktline.FLUSH)

    def _write_some(self, pending: list[Buffer]) -> list[Buffer]:
        if not hasattr(os, "writev"):
            self._write(b"".join(pending[:64]))
            return pending[64:]
        batch = pending[:512]
        written = os.writev(self._stdout.fileno(), batch)
        done = 0
        while done < len(batch) and written >= len(batch[done]):
            written -= len(batch[done])
            done += 1
        rest = pending[done:]
        if written:
            rest[0] = memoryview(rest[0])[written:]
        return rest

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._stdout.write(view) :]


def fetch(session: Session, manifests: list[Manifest]) -> None:
    """Bring the objects that ``manifests`` miss from wherever the repository keeps them."""
    from git_theta.workflows.sharing.fetch import fetch_missing

    fetch_missing(session, manifests)


def _counted(chunks: Iterable[Buffer], bar: Bar) -> Iterator[Buffer]:
    for chunk in chunks:
        yield chunk
        bar.advance(len(chunk))


def _first_of(chunks: Iterator[Buffer]) -> Iterator[Buffer]:
    """The same chunks, the first of them already made: what fails at once fails before anything is
    promised.
    """
    first = next(chunks, None)
    return iter(()) if first is None else itertools.chain([first], chunks)


def _take(content: drain.IncomingFile, file: FileSource | None, spool: Path, begun: bytes) -> bool:
    """As :func:`drain.compare`.

    A git command that only shows something sends the file of the working tree: its size is
    comparison enough.
    """
    if file is None or not asker.shows_working_tree():
        return drain.compare(content, file, spool, begun)
    if not drain.is_start_of(file, begun) or len(begun) + content.drop() != file.size:
        raise FileChanged(
            "git sent another file than the one in the working tree; try again when nothing writes"
            " to it any more"
        )
    return True


def _open(path: Path) -> FileSource | None:
    """The working-tree file, if it is one: a plain file that can be read."""
    try:
        if not path.is_symlink() and path.is_file():
            return FileSource(path)
    except OSError:
        pass
    return None


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    try:
        return stamp(path.stat())
    except OSError:
        return None
