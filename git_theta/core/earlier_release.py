"""What Git-Theta 0.2 stored in place of a checkpoint: JSON that names, per parameter, a Git LFS
pointer and the commit it builds on.

It does not describe the whole file (headers, tied weights and order are lost), so it is recognised,
kept, and never taken for a model.
"""

from __future__ import annotations

ADVICE = (
    "metadata of Git-Theta 0.2, which this release does not read; check the model out with 0.2"
    " ('pip install git-theta==0.2.0' in an environment of its own), then 'git add' it with this"
    " release"
)


def is_metadata(head: bytes) -> bool:
    """Whether content that starts with ``head`` (a kilobyte, or all of it) is such metadata."""
    return head.startswith(b"{") and b'"tensor_metadata": {' in head
