"""Writing a new checkpoint file around merged tensors, where no side's file fits them."""

from __future__ import annotations

from collections.abc import Sequence

from git_theta.core.contracts import BuildsFiles
from git_theta.core.manifest import Entry, Manifest, parse
from git_theta.core.source import BytesSource
from git_theta.core.tensors import Tensor
from git_theta.errors import MergeError
from git_theta.plugins import registry
from git_theta.workflows import chains
from git_theta.workflows.restoring import smudge
from git_theta.workflows.session import Session
from git_theta.workflows.sharing.fetch import fetch_missing
from git_theta.workflows.storing import clean


def built(
    session: Session,
    path: str,
    form: str,
    entries: Sequence[Entry],
    like: Manifest | None,
    known: Sequence[Manifest],
) -> Manifest:
    """The manifest of a file of format ``form`` with ``entries``; its other content is that of
    ``like``.

    The format writes the file, which is then cut like any other; lines of ``known`` manifests are
    reused. The file is held in memory. :class:`ThetaError` when the format cannot, or an object is
    missing.
    """
    builder = registry.checkpoint_format(form)
    if not isinstance(builder, BuildsFiles):
        raise MergeError(
            f"the merged tensors fit no side's file, and {form} files cannot be built anew; take"
            " one side whole"
        )
    store = session.store
    wanted = [*known, *([like] if like is not None else [])]
    if store.missing([ref for entry in entries for ref in entry.objects]) or (
        like is not None and chains.missing(store, like)
    ):
        fetch_missing(session, wanted)
    values: dict[str, Tensor] = {}
    for entry in entries:
        values[entry.name] = chains.load(store, entry)
        values.update(dict.fromkeys(entry.aliases, values[entry.name]))
    imitated = None
    if like is not None:
        imitated = BytesSource(
            b"".join(smudge.stream(store, like, session.pool(), session.threads))
        )
    data = bytes(builder.build(values, imitated))
    carrier = Manifest(
        form, len(data), Entry.of_inline("skeleton", "u8", (0,), b""), tuple(entries), {}
    )
    return parse(clean.clean(session, path, BytesSource(data), [carrier, *known]))
