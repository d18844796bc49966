"""Where a remote's objects are, and moving objects between there and the local store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from git_theta.core.manifest import ObjectRange, ObjectRef
from git_theta.core.names import display
from git_theta.errors import ThetaError, TransferError
from git_theta.git.config import consent, remotes
from git_theta.git.config.config_file import shared_bits
from git_theta.git.config.remotes import Remote, Remotes
from git_theta.git.lfs_program import lfs_folder
from git_theta.git.repository import borrowed
from git_theta.store import kvstore
from git_theta.store.folder import FolderPlace
from git_theta.store.local import LocalStore
from git_theta.workflows.session import Session

_REASONS = 3


class ObjectSource(Protocol):
    """A place that objects can be fetched from."""

    title: str

    def bring(
        self, store: LocalStore, refs: Sequence[ObjectRef], advance: Callable[[int], None]
    ) -> None:
        """Bring what is there of ``refs`` into ``store``, verified and durable.

        :class:`TransferError` tells why others were not.
        """


class Destination(ObjectSource, Protocol):
    """A place that objects can be sent to, too.

    With ``verifies``, it hashes each object on arrival.
    """

    verifies: bool

    def send(
        self, store: LocalStore, refs: Sequence[ObjectRef], advance: Callable[[int], None]
    ) -> None:
        """Deliver ``refs``, all of them in ``store``; :class:`TransferError` unless every one has
        arrived.
        """


@runtime_checkable
class Checked(Protocol):
    """A place that tells what it has without sending it."""

    def lacking(self, refs: Sequence[ObjectRef]) -> list[ObjectRef]:
        """Those objects that are not there with their right size."""


@runtime_checkable
class SendsRanges(Protocol):
    """A place of which ranges of objects can be fetched."""

    def bring_ranges(
        self, store: LocalStore, places: Sequence[ObjectRange], advance: Callable[[int], None]
    ) -> None:
        """Bring what is there of ``places`` into ``store``, durable.

        :class:`TransferError` tells why others were not.
        """


@runtime_checkable
class Auditable(Protocol):
    """A place whose objects can be read without bringing them here."""

    def audit(self, refs: Sequence[ObjectRef]) -> Iterator[tuple[ObjectRef, str]]:
        """Read objects there; return those that are missing or damaged, with the reason."""


class Routes:
    """The places of each remote, found when they are first needed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._base = remotes.base_folder(session.repository)

    @cached_property
    def remotes(self) -> Remotes:
        """The repository's remotes."""
        return remotes.read(self._session.repository)

    @cached_property
    def _offer(self) -> consent.OfferedUrls:
        return consent.read(self._session.repository)

    def storage(self, remote: Remote) -> str:
        """The URL of the object storage that a remote's objects are in; empty where Git LFS has
        them.

        :class:`~git_theta.errors.TransferError` when the repository names it and the user has not
        agreed to its use.
        """
        mine = remote.values("thetaurl")
        return mine[-1] if mine else self._offer.agreed(self._offer.storage, "object storage")

    def destination(self, remote: Remote) -> Destination:
        """Where objects pushed to ``remote`` go. :class:`TransferError` when that cannot be."""
        url = self.storage(remote)
        if url:
            return self._bucket(url)
        return self._folder(remote, remote.push_url, alone=True) or self._lfs(remote, push=True)

    def sources(self, remote: Remote) -> Iterator[ObjectSource]:
        """Where objects of ``remote`` can be had, the nearest first.

        A place that cannot be used is left out with a warning.
        """
        folder = self._folder(remote, remote.url)
        if folder is not None:
            yield folder
        for url in self._mirrors(remote):
            yield from self._attempt(partial(self._bucket, url))
        try:
            url = self.storage(remote)
        except TransferError as error:
            self._session.warn(str(error))
            return
        if url:
            yield from self._attempt(lambda: self._bucket(url))
        elif folder is None or self._offer.server_named(remote):
            yield from self._attempt(lambda: self._lfs(remote, push=False))

    def _folder(self, remote: Remote, url: str, alone: bool = False) -> FolderPlace | None:
        """The remote's own folder, where it is on this machine (and, with ``alone``, no Git LFS
        server has the objects in its place).
        """
        path = remotes.local_path(url, self._base)
        git_dir = remotes.git_dir_of(path) if path is not None else None
        if git_dir is None or (alone and self._offer.server_named(remote)):
            return None
        own = git_dir / "theta" / "objects"
        return FolderPlace(
            [own, lfs_folder(git_dir), *borrowed(git_dir)],
            LocalStore(own, (), shared_bits(git_dir)),
            remote.title,
        )

    def _mirrors(self, remote: Remote) -> Iterable[str]:
        mine = remote.values("thetamirror")
        if mine:
            return mine
        try:
            return [self._offer.agreed(url, "mirror") for url in self._offer.mirrors]
        except TransferError as error:
            self._session.warn(str(error))
            return []

    def _bucket(self, url: str) -> Destination:
        return kvstore.place(url)

    def _lfs(self, remote: Remote, push: bool) -> Destination:
        from git_theta.store.lfs import GitLfs, LfsPlace

        path = remotes.local_path(remote.push_url if push else remote.url, self._base)
        if path is not None and not path.exists() and not self._offer.server_named(remote):
            raise TransferError(f"{remote.title}: {display(str(path))} does not exist")
        lfs = GitLfs.find(self._session.repository)
        self._offer.agreed_lfs(remote, push)
        return LfsPlace(lfs, remote, self._offer.lfs_settings())

    def _attempt(self, make: Callable[[], ObjectSource]) -> Iterator[ObjectSource]:
        try:
            yield make()
        except ThetaError as error:
            self._session.warn(str(error))


def hold_folder(session: Session, remote: Remote) -> Path | None:
    """The git directory of the repository that pushes to ``remote`` go to, if it is on this
    machine.

    Nobody prunes it, or the repositories that it borrows from, until the session ends. A repository
    without a store is left as it is.
    """
    path = remotes.local_path(remote.push_url, remotes.base_folder(session.repository))
    git_dir = remotes.git_dir_of(path) if path is not None else None
    if git_dir is None:
        return None
    own = session.repository.objects.parent.resolve()
    for objects in (git_dir / "theta" / "objects", *borrowed(git_dir)):
        if objects.parent.is_dir() and objects.parent.resolve() != own:
            session.hold(LocalStore(objects))
    return git_dir


def bring(
    session: Session,
    refs: Iterable[ObjectRef],
    only: Remote | None = None,
    what: str = "Fetching objects",
) -> list[ObjectRef]:
    """Fetch those of ``refs`` that are not here: from ``only``, or from every remote in turn until
    all are.

    The objects that could not be had; why is given to ``session.warn``.
    """
    session.store.hold()  # what is here now must be here still when the caller is done
    wanted = session.store.missing({ref.oid: ref for ref in refs}.values())
    if not wanted:
        return []
    routes = Routes(session)
    reasons: list[str] = []
    asked = (only,) if only is not None else routes.remotes.every
    with session.progress.begin(what, sum(ref.size for ref in wanted)) as whole:
        for remote in asked:
            for place in routes.sources(remote):
                bar = whole
                if len(asked) > 1:
                    bar = whole.begin(f"  from {remote.title}", sum(ref.size for ref in wanted))
                try:
                    place.bring(session.store, wanted, bar.advance)
                except TransferError as error:
                    reasons.append(str(error))
                finally:
                    if bar is not whole:
                        bar.end()
                wanted = session.store.missing(wanted)
                if not wanted:
                    return []
        whole.end()  # as far as it got
    for reason in list(dict.fromkeys(reasons))[:_REASONS]:
        session.warn(display(reason))
    return wanted


def bring_ranges(session: Session, places: Iterable[ObjectRange]) -> None:
    """Fetch what is not here of ``places``: ranges of objects, where a place sends these and they
    are a small part of their object; else the objects.

    What is not found stays missing; why is given to ``session.warn``.
    """
    session.store.hold()
    absent = session.store.lacking(dict.fromkeys(places))
    wanted = _small_parts(absent)
    routes = Routes(session)
    for remote in routes.remotes.every if wanted else ():
        for source in routes.sources(remote):
            if isinstance(source, SendsRanges):
                with (
                    session.progress.begin(
                        "Fetching tensors", sum(place.length for place in wanted)
                    ) as bar,
                    suppress(TransferError),  # said again when the objects are not there either
                ):
                    source.bring_ranges(session.store, wanted, bar.advance)
                wanted = session.store.lacking(wanted)
    bring(session, {place.object for place in session.store.lacking(absent)})


def _small_parts(places: Iterable[ObjectRange]) -> list[ObjectRange]:
    """Those ranges that together are at most half of their object."""
    by_object: dict[ObjectRef, set[ObjectRange]] = {}
    for place in places:
        by_object.setdefault(place.object, set()).add(place)
    return [
        place
        for ref, parts in by_object.items()
        if sum(part.length for part in parts) <= ref.size // 2
        for place in sorted(parts)
    ]
