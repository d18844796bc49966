"""Git LFS pointers for the objects at a remote, so that its server keeps them.

A manifest names its objects, but Git LFS servers and mirroring tools know pointers only. Each push
to such a server adds a commit to a ref there whose files are pointers to the objects that no
earlier commit of this ref names. The order is: objects, pointers, the user's own refs.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from git_theta.core.manifest import ObjectRef
from git_theta.errors import GitError, TransferError
from git_theta.git.config.remotes import Remote, host_of
from git_theta.git.writing.pointer_repository import PointerRepository, PointersRef, Pushed
from git_theta.store.lfs import LfsPlace
from git_theta.workflows.session import Session
from git_theta.workflows.sharing import push, routes

_ATTEMPTS = 60
_UNMOVED = 6  # attempts that fail although the ref does not move
_LONGEST_PAUSE = 4.0  # seconds

REFS = {
    "ref": "refs/theta/objects",
    "branch": "refs/heads/theta/objects",
    "tag": "refs/tags/theta/objects",
}
# Hosts that delete objects which no pointer names
_COLLECTING = ("huggingface.co", "hf.co", "gitlab.com", "codeberg.org", "gitea.com")
# Of these, those whose forks copy branches and tags only
_BY_HEADS = ("huggingface.co", "hf.co", "gitlab.com")


class _NotTakenError(Exception):
    """Pointers did not reach the remote; the text says why, ``by_server`` that the server refused
    them.
    """

    def __init__(self, reason: str, by_server: bool = False) -> None:
        super().__init__(reason)
        self.by_server = by_server


@dataclass(frozen=True, slots=True)
class Host:
    """What a host's name says of its Git LFS server: whether it deletes objects without pointers,
    and the ref that suits it.
    """

    collects: bool
    mode: str

    @classmethod
    def of(cls, url: str) -> Host:
        """The host that ``url`` leads to."""
        name = host_of(url)
        gitlab = "gitlab" in name.split(".")  # of one's own
        by_heads = gitlab or _is_one_of(name, _BY_HEADS)
        collects = by_heads or _is_one_of(name, _COLLECTING)
        return cls(collects, "branch" if by_heads else "ref")


def _is_one_of(name: str, hosts: Sequence[str]) -> bool:
    return any(name == host or name.endswith(f".{host}") for host in hosts)


def place(session: Session, remote: Remote) -> PointersRef | None:
    """The ref for pointers at ``remote``; None if it needs none: its objects are in a folder or in
    object storage, or the user switched pointers off.
    """
    mode = session.settings.pointers
    if mode == "off" or not isinstance(routes.Routes(session).destination(remote), LfsPlace):
        return None
    return PointersRef(remote, REFS[Host.of(remote.push_url).mode if mode == "auto" else mode])


def deliver(
    session: Session, plan: push.PushPlan, tips: Sequence[str], thorough: bool = False
) -> int:
    """Send what ``plan`` needs, as :func:`push.deliver`, and name it in pointers at the remote, as
    well as objects of earlier commits of ``tips`` that pushes without the hook left out.

    The number of objects that were sent. :class:`~git_theta.errors.TransferError` if the pointers
    did not arrive at a host that deletes objects without them; elsewhere that is a warning.
    """
    if not tips and not plan.needs:
        return push.deliver(session, plan, thorough)
    target = place(session, plan.remote)
    if target is None:
        return push.deliver(session, plan, thorough)
    scratch = PointerRepository(session.repository)
    try:
        return _deliver(session, plan, tips, thorough, _Known(scratch, target, fresh=False))
    except _NotTakenError as error:
        refused = error
    try:
        # Perhaps what it named before is gone there: then only what is needed can be named
        if refused.by_server and scratch.tip(target):
            return _deliver(session, plan, tips, thorough, _Known(scratch, target, fresh=True))
    except _NotTakenError as error:
        refused = error
    _not_taken(session, scratch, target, refused)
    return len(plan.needs)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a remote's pointers; with ``fresh``, nothing."""

    scratch: PointerRepository
    target: PointersRef
    fresh: bool

    @property
    def tip(self) -> str:
        """The commit that the ref had last; empty if none is known."""
        return "" if self.fresh else self.scratch.tip(self.target)

    @property
    def covered(self) -> list[str]:
        """The commits of this repository whose objects it names."""
        return [] if self.fresh else self.scratch.covered(self.target)


def _deliver(
    session: Session, plan: push.PushPlan, tips: Sequence[str], thorough: bool, known: _Known
) -> int:
    scratch, tip = known.scratch, known.tip
    history = push.plan_history(session, plan.remote, tips, known.covered)
    planned = {need.ref for need in plan.needs}
    others = [need for need in history.needs if need.ref not in planned]
    if others and not tip and not known.fresh:  # mostly a fresh clone: all is named already
        with contextlib.suppress(GitError):
            scratch.prepare()
            tip = scratch.fetch(known.target)
    try:
        left = set(scratch.unnamed(tip, [need.ref for need in others]))
    except GitError as error:
        raise GitError(f"{error}; delete {scratch.path}, which is then made anew") from None
    others = [need for need in others if need.ref in left]
    lacking = set(session.store.missing([need.ref for need in others]))
    here = [need for need in others if need.ref not in lacking]
    whole = replace(plan, needs=(*plan.needs, *here))
    sent = push.deliver(session, whole, thorough)
    wanted = [need.ref for need in whole.needs]
    named = ""
    try:
        scratch.prepare()
        if wanted or tip:
            named = _publish(scratch, known.target, tip, wanted)
        absent = scratch.unnamed(named, lacking)
    except GitError as error:
        raise _NotTakenError(str(error)) from None
    if absent:
        session.warn(
            f"{len(absent):,} objects of earlier commits have no Git LFS pointer at"
            f" {plan.remote.title} and are not here; 'git theta push --all' fetches and names them"
        )
    with contextlib.suppress(GitError, OSError):  # then the next push asks the remote
        scratch.remember(known.target, named, tips)
        scratch.tidy()
    return sent


def matter(remote: Remote) -> bool:
    """Whether the host of ``remote`` deletes objects that no pointer names."""
    return Host.of(remote.push_url).collects


def unnamed(session: Session, remote: Remote, refs: Sequence[ObjectRef]) -> list[ObjectRef]:
    """Those of ``refs`` that no pointer at ``remote`` names, as it is now; none if it needs none.

    :class:`~git_theta.errors.TransferError` if the remote cannot be asked.
    """
    target = place(session, remote)
    if target is None:
        return []
    scratch = PointerRepository(session.repository)
    scratch.prepare()
    try:
        found = scratch.fetch(target)
        return scratch.unnamed(found, refs)
    except GitError as error:
        raise TransferError(f"{remote.title}: {target.ref} cannot be read: {error}") from None


def _publish(
    scratch: PointerRepository, target: PointersRef, before: str, wanted: Sequence[ObjectRef]
) -> str:
    """Have the ref name ``wanted`` and all that it named at ``before`` (empty: nothing is known);
    the commit it has then.

    Without anything new, ``before`` is pushed: that restores a ref which was deleted.
    """
    there = before
    new = scratch.unnamed(there, wanted)
    unmoved = 0
    for attempt in range(_ATTEMPTS):
        tip = scratch.commit(new, there) if new else there
        if not tip:
            raise GitError("there is nothing to name")
        outcome, words = scratch.push(target, there, tip)
        if outcome is Pushed.DONE:
            return tip
        if outcome is not Pushed.BEHIND or unmoved >= _UNMOVED:
            raise _NotTakenError(words, by_server=outcome is not Pushed.FAILED)
        if attempt:
            longest = min(_LONGEST_PAUSE, 0.05 * 2**attempt)
            time.sleep(longest * secrets.randbelow(1000) / 1000)
        found = scratch.fetch(target)
        unmoved = unmoved + 1 if found == there else 0
        there = found
        new = scratch.unnamed(there, wanted)
        if before and not (there and scratch.descends(there, before)):
            # The ref was made anew: whatever it named is named again
            lost = scratch.unnamed(there, scratch.named(before, [there]))
            new = list(dict.fromkeys([*new, *lost]))
        if not new and there:
            return there
    raise _NotTakenError(f"others moved it at each of {_ATTEMPTS} attempts")


def _not_taken(
    session: Session, scratch: PointerRepository, target: PointersRef, reason: _NotTakenError
) -> None:
    remote = target.remote
    said = f"{remote.title} did not take the Git LFS pointers of models' objects ({reason})"
    if Host.of(remote.push_url).collects:
        raise TransferError(
            f"{said}, and deletes objects that have none; allow pushes to {target.ref} there, or"
            " run 'git config theta.pointers off' to push without them"
        )
    if scratch.warn_once(target):
        session.warn(
            f"{said}; mirrors and imports of it may lack these objects ('git config theta.pointers"
            " off' does without pointers)"
        )
