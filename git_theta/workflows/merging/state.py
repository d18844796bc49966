"""What is resolved so far of a merge that is not finished, kept in the git directory so that it can
be continued later.

The versions to be merged are git's own: stages 1 to 3 of the index. A record names them by content,
so one that an abort or a commit left behind is never mistaken for that of another merge; such
leftovers are swept away by the next resolve.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from git_theta.core.digest import digest
from git_theta.core.manifest import Entry, Manifest, dump, parse
from git_theta.errors import ThetaError
from git_theta.git.history import listing
from git_theta.git.history.roots import SETTLED
from git_theta.git.repository import Repository
from git_theta.merges.items import MergePlan
from git_theta.workflows.merging.merge_rules import rule
from git_theta.workflows.merging.outcome import MergeProgress


class MergeState:
    """Records of partly resolved models, one file each."""

    def __init__(self, repository: Repository) -> None:
        self._folder = repository.git_dir / SETTLED
        self._repository = repository

    def save(self, path: str, plan: MergePlan, progress: MergeProgress) -> None:
        """Remember what is settled.

        The records of other models stay: while git merges, its index does not tell yet what
        conflicts.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        kept: list[Entry] = []

        def place(entry: Entry | None) -> int | None:
            if entry is None:
                return None
            kept.append(entry)
            return len(kept) - 1

        record = {
            "path": path,
            "inputs": _inputs(plan),
            "by_name": progress.by_name,
            "names": {name: place(entry) for name, entry in progress.resolved.items()},
            "statistics": {
                what: {name: place(entry) for name, entry in found.items()}
                for what, found in progress.statistics.items()
            },
            "rules": {name: rule.dump() for name, rule in progress.used.items()},
        }
        carrier = Manifest(
            "state",
            sum(e.nbytes for e in kept),
            Entry.of_inline("skeleton", "u8", (0,), b""),
            _unique(kept),
            {},
        )
        file = self._file(path)
        temporary = file.with_suffix(".new")
        temporary.write_bytes(json.dumps(record).encode("ascii") + b"\n" + dump(carrier))
        temporary.replace(file)

    def load(self, path: str, plan: MergePlan) -> MergeProgress:
        """What was settled of this very merge; nothing where there is no record."""
        with suppress(
            OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ThetaError
        ):
            head, _, text = self._file(path).read_bytes().partition(b"\n")
            record = json.loads(head)
            if record["path"] == path and record["inputs"] == _inputs(plan):
                entries = parse(text).entries
                return MergeProgress(
                    {
                        name: None if at is None else entries[at]._replace(name=name)
                        for name, at in record["names"].items()
                    },
                    {
                        name: rule(row["strategy"], row["options"], row["params"])
                        for name, row in record["rules"].items()
                    },
                    {
                        what: {n: entries[at]._replace(name=n) for n, at in found.items()}
                        for what, found in record["statistics"].items()
                    },
                    record["by_name"] is True,
                )
        return MergeProgress()

    def forget(self, path: str) -> None:
        """Drop the record of ``path``."""
        with suppress(OSError):
            self._file(path).unlink()

    def sweep(self) -> None:
        """Drop the records of all models that are not in conflict any more."""
        if not self._folder.is_dir():
            return
        unmerged = {self._file(path).name for path in unmerged_paths(self._repository)}
        for file in self._folder.iterdir():
            if file.name not in unmerged:
                with suppress(OSError):
                    file.unlink()

    def _file(self, path: str) -> Path:
        return self._folder / digest(path.encode("utf-8", "surrogateescape"))[:32]


def unmerged_paths(repository: Repository) -> list[str]:
    """The paths that the index holds in conflict."""
    return list(listing.unmerged((), repository.worktree))


def _inputs(plan: MergePlan) -> list[str]:
    return [
        plan.base.identity if plan.base is not None else "",
        *(side.identity for side in plan.sides),
    ]


def _unique(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entries under names of their own, so that they make a manifest."""
    return tuple(
        Entry(str(i), e.dtype, e.shape, e.digest, e.chain, e.inline) for i, e in enumerate(entries)
    )
