"""Which update stores a tensor smallest.

Choosing must cost little beside coding, so samples decide what is worth encoding at all: the one
that promises most, and another only where it might be smaller still. The same arguments give the
same choice, on any number of threads.

Nothing here needs numpy until a tensor is looked at as numbers, so that adding a small text-like
change stays fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from git_theta.core.contracts import Change, MeantFor
from git_theta.core.tensors import Encoded
from git_theta.updates import planes
from git_theta.updates.dense import Dense

if TYPE_CHECKING:
    from git_theta.core.contracts import Level, Update
    from git_theta.core.tensors import Spec, Tensor
    from git_theta.updates.prediction.delta_plan import DeltaPlan

_TEXT = 16 << 20  # bytes up to which a row of u8 is taken for text or the like
_FEW = 1 << 14  # elements up to which sampling is not worth it
_SAMPLE = 1 << 16  # elements
_FEW_CHANGED = 0.25  # of the elements: above that, sparse never pays
_HARDLY_ANY = 0.02  # of the elements: below that, sparse nearly always does
_CHEAP = 1.5  # bits an element: a delta as small as that leaves little to gain


def choose(
    tensor: Tensor, base: Tensor | None, updates: Sequence[Update], level: Level
) -> tuple[Update, Encoded]:
    """The update that stores ``tensor`` smallest and its payload; ``base`` is the earlier value, if
    any, and may differ in shape and type.

    ``updates`` are those that may be used; dense always may. Updates that do not say for which kind
    of change they are meant (:class:`~git_theta.core.contracts.MeantFor`) are all tried in full.
    Nothing is decoded again here: the caller that stores the result verifies it.
    """
    race = _Race(tensor, base, level)
    meant: dict[Change, list[Update]] = {}
    others: list[Update] = []
    for update in updates:
        if isinstance(update, MeantFor) and update.needs_base:
            meant.setdefault(update.meant_for, []).append(update)
        elif not isinstance(update, Dense):
            others.append(update)
    expected = _enter_meant(race, meant) if base is not None else 0.0
    for update in others:
        if base is not None or not update.needs_base:
            race.enter(update)
    # Where dense is expected to be clearly larger, it need not be tried; else it has to be seen.
    # (Samples mix what blocks keep apart, so a tensor of unlike parts takes less than expected.)
    if not race.best or race.size > 0.75 * expected:
        race.enter(Dense(), ties=True)
    assert race.best is not None
    return race.best


def estimates(tensor: Tensor, bases: Sequence[Tensor]) -> list[float]:
    """About how many bytes a delta from each of ``bases`` takes, judged by samples; infinity where
    one cannot predict it in place.
    """
    from git_theta.updates.prediction import delta_plan

    sizes = []
    for base in bases:
        alike = base.shape == tensor.shape and delta_plan.predictable(tensor.spec, base.spec)
        sizes.append(
            delta_plan.estimate(tensor, base, delta_plan.DeltaPlan(), _FEW)[0]
            if alike
            else float("inf")
        )
    return sizes


def is_text(spec: Spec) -> bool:
    """Whether a tensor is taken for text or the like (a file's header, a pickle): only dense and
    patch are tried then.
    """
    return spec.dtype == "u8" and len(spec.shape) <= 1 and spec.nbytes <= _TEXT


class _Race:
    """What is being stored, and the smallest way found so far."""

    def __init__(self, tensor: Tensor, base: Tensor | None, level: Level) -> None:
        self.tensor, self.base, self.level = tensor, base, level
        self.best: tuple[Update, Encoded] | None = None

    @property
    def size(self) -> float:
        """Bytes of the smallest so far."""
        return self.best[1].size if self.best else float("inf")

    def enter(
        self,
        update: Update,
        encoded: Encoded | None = None,
        ties: bool = False,
    ) -> None:
        """Encode with ``update`` (unless done already) and remember the result if there is one and
        it is the smallest.
        """
        encoded = encoded or update.encode(
            self.tensor, self.base if update.needs_base else None, self.level
        )
        if encoded is None:
            return
        if encoded.size < self.size or (ties and encoded.size == self.size):
            self.best = (update, encoded)

    def enter_all(self, updates: Iterable[Update]) -> None:
        """Enter each of ``updates``."""
        for update in updates:
            self.enter(update)


def _enter_meant(race: _Race, meant: Mapping[Change, Sequence[Update]]) -> float:
    """Enter the updates that are meant for this kind of change, and return the expected size of a
    dense payload (0: unknown).
    """
    tensor, base = race.tensor, race.base
    assert base is not None
    patches = meant.get("text", ())
    if patches and tensor.dtype == base.dtype == "u8" and len(tensor.shape) <= 1:
        text = is_text(tensor.spec)
        if text or tensor.shape != base.shape:
            race.enter_all(patches)
        if text:
            return 0.0
    if len(tensor.bits()) <= _FEW:
        race.enter_all([*meant.get("small", ()), *meant.get("few", ())])
        return 0.0
    from git_theta.updates.prediction import delta_plan

    sample = delta_plan.sample(tensor.bits(), _SAMPLE)
    expected = sum(map(len, planes.encode(sample))) * len(tensor.bits()) / len(sample)
    plan = delta_plan.make(tensor, base, race.level)
    if plan is None or plan.runs is not None:
        _enter_small(race, meant, plan)
        return expected
    promised, changed = delta_plan.estimate(tensor, base, plan, _SAMPLE)
    if (
        changed < _FEW_CHANGED
        and meant.get("few")
        and (changed < _HARDLY_ANY or _sparse_promises(tensor, base) < 1.1 * promised)
    ):
        race.enter_all(meant["few"])
    explained = plan.decay is not None and plan.decay.steps > 1
    if (
        not explained
        and changed > 0.5
        and race.level != "fast"
        and promised * 8 > _CHEAP * len(tensor.bits())
    ):
        for update in meant.get("rule", ()):
            if race.size > 0.8 * promised:
                race.enter(update)
    # Both promises come from the same elements: a delta that does not beat dense there is most
    # likely one from an unrelated value.
    margin, beside_dense = (1.3, 1.3) if race.level == "best" else (1.1, 1.0)
    if promised < min(margin * race.size, beside_dense * expected):
        _enter_small(race, meant, plan)
    return expected


def _sparse_promises(tensor: Tensor, base: Tensor) -> float:
    from git_theta.updates import sparse

    return sparse.estimate(tensor, base, _SAMPLE)


def _enter_small(
    race: _Race, meant: Mapping[Change, Sequence[Update]], plan: DeltaPlan | None
) -> None:
    from git_theta.updates import delta

    for update in meant.get("small", ()):
        if not isinstance(update, delta.Delta):
            race.enter(update)
        elif plan is not None and race.base is not None:  # planned already
            race.enter(update, delta.encode(race.tensor, race.base, plan, race.level))
