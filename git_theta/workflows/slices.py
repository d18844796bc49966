"""slices: some rows of a tensor, decoding no more of its chain than holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from git_theta.core import dtypes
from git_theta.core.contracts import ReadsSlices
from git_theta.core.manifest import Entry
from git_theta.core.tensors import Spec, Tensor
from git_theta.errors import PayloadError
from git_theta.plugins import registry
from git_theta.store.local import LocalStore
from git_theta.workflows import chains

if TYPE_CHECKING:
    from git_theta.core.contracts import Read


def rows(store: LocalStore, entry: Entry, start: int, stop: int) -> Tensor:
    """The rows (along the first dimension) from ``start`` to before ``stop`` of ``entry``'s tensor,
    in memory of their own.

    A digest is that of a whole tensor, so the rows are **not checked by it**: an object that was
    damaged after it came gives wrong values, unless its coding is damaged as well. Use
    :func:`chains.load` where that matters.

    Each update of the chain decodes the frames that hold the rows. What lies below one that cannot
    (plugins' updates, ``patch``, rows that moved) is decoded whole, and so is a tensor whose rows
    are not whole numbers of integers. Errors as of :func:`chains.load`.
    """
    if not entry.shape or not 0 <= start <= stop <= entry.shape[0]:
        raise ValueError(f"rows {start} to {stop} of shape {entry.shape}")
    part = Spec(entry.dtype, (stop - start, *entry.shape[1:]))
    width = dtypes.get(entry.dtype).width
    if entry.inline is not None or (entry.nbytes // width) % entry.shape[0]:
        row = entry.nbytes // entry.shape[0]
        data = memoryview(chains.load(store, entry).data).cast("B")
        return Tensor(part.dtype, part.shape, bytearray(data[start * row : stop * row]))
    row = entry.nbytes // width // entry.shape[0]
    with chains.naming_faults(store, entry):
        found = _read(store, entry)(start * row, stop * row)
        return Tensor(part.dtype, part.shape, bytearray(found.tobytes()))


def _read(store: LocalStore, entry: Entry) -> Read:
    """How to read the integers of ``entry``'s tensor."""
    spec: Spec | None = None
    read: Read | None = None
    for number, link in reversed(list(enumerate(entry.chain))):
        update = registry.update(link.update)
        if update.needs_base and read is None:
            raise PayloadError(f"its chain ends with '{link.update}', which needs a base")
        header, payload = chains.read_payload(store, link)
        own = header.spec
        opened = (
            update.reader(payload, own, spec, read) if isinstance(update, ReadsSlices) else None
        )
        if opened is None:
            opened = _reading(chains.follow(store, entry.chain[number:], None))
        spec, read = own, opened
    if read is None or spec != entry.spec:
        raise PayloadError(f"its objects hold {spec}, the manifest says {entry.spec}")
    return read


def _reading(value: Tensor) -> Read:
    bits = value.bits()
    return lambda start, stop: bits[start:stop]
