"""The statistics that some strategies use, tracked as files beside the model: where they are, and
what a merge makes of them.

A file of statistics follows its model. It is never merged by the strategy that merges the model:
what several sides changed is combined as the strategy that uses the statistic declares (evidence of
several trainings is added up, as in Fisher merging and RegMean; velocities are averaged). If the
merge took a tensor of the model from one side, its statistics are that side's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from git_theta.core.contracts import Combination, statistics_of, taken_version
from git_theta.core.manifest import Entry, Manifest
from git_theta.git.config import attributes
from git_theta.merges.items import BASE, MergePlan
from git_theta.plugins import registry, tables
from git_theta.workflows.merging.decisions import planned
from git_theta.workflows.merging.merge import merge
from git_theta.workflows.merging.merge_rules import MergeRule, Rules, rule, strategy_of
from git_theta.workflows.merging.outcome import Merged, MergeProgress
from git_theta.workflows.session import Session


@dataclass(frozen=True, slots=True)
class OfCommits:
    """Statistics beside the model at ``path`` as each side's commit (any name git knows, tried in
    turn) has them; ``bases`` likewise.
    """

    session: Session
    path: str
    commits: tuple[tuple[str, ...], ...]
    bases: tuple[str, ...] = ()

    def __call__(self, statistic: str) -> list[Manifest | None]:
        """One manifest a side."""
        return [self._first(statistic, names) for names in self.commits]

    def before(self, statistic: str) -> Manifest | None:
        """The common ancestor's."""
        return self._first(statistic, self.bases)

    def _first(self, statistic: str, names: Sequence[str]) -> Manifest | None:
        place = sibling(self.path, statistic)
        return next(
            filter(None, (self.session.manifest(f"{name}:{place}") for name in names)), None
        )


def sibling(path: str, statistic: str) -> str:
    """The path of a statistic's file beside a model's: ``model.fisher.safetensors`` for
    ``model.safetensors``.
    """
    stem, dot, suffix = path.rpartition(".")
    return f"{stem}.{statistic}.{suffix}" if dot and "/" not in suffix else f"{path}.{statistic}"


def of_model(path: str) -> tuple[str, str] | None:
    """The model's path and the statistic, if ``path`` is one that :func:`sibling` returns; else
    None. Looks at the name alone.
    """
    folder, slash, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    if dot and suffix in registry.statistics():
        return f"{folder}{slash}{stem}", suffix
    rest, dot, statistic = stem.rpartition(".")
    return (
        (f"{folder}{slash}{rest}.{suffix}", statistic)
        if dot and statistic in registry.statistics()
        else None
    )


def tracked_for(session: Session, path: str) -> tuple[str, str] | None:
    """As :func:`of_model`, if the index or HEAD holds that model."""
    found = of_model(path)
    known = found is not None and any(
        session.manifest(f"{name}:{found[0]}") for name in (":0", ":2", ":3", "HEAD")
    )
    return found if known else None


def rules_for(statistic: str, rules: Rules, sides: int, picks: bool = True) -> Rules:
    """The rules for a file of statistics, from the ``rules`` for its model.

    With ``picks``, a rule that takes a side (or the base) takes it here too. All else is combined
    as the rule's strategy declares; if that does not use the statistic, as the first one that does.
    A weighted sum takes the weights of the rule (a model merged by ``fisher`` then has the
    precision sum w F).
    """
    usual = registry.statistics()[statistic]

    def followed(given: MergeRule) -> MergeRule:
        strategy = strategy_of(given)
        if picks and taken_version(strategy) is not None:
            return given
        own = statistics_of(strategy).get(statistic)
        weights = given.options.get("weights") if own == "weighted" else None
        return together(given.params, own or usual, weights)

    def together(params: str, how: Combination, weights: object = None) -> MergeRule:
        strategy, options = tables.COMBINING[how]
        added = {} if how == "mean" else {"weights": weights or (1.0,) * sides}
        return rule(strategy, {**options, **added}, params)

    return replace(rules, rules=(*map(followed, rules.rules), together("*", usual)))


def merge_file(
    session: Session,
    path: str,
    base: Manifest | None,
    sides: Sequence[Manifest],
    rules: Rules,
    model: MergePlan | None = None,
    outcome: MergeProgress | None = None,
) -> Merged:
    """Merge the file of statistics at ``path``.

    ``rules`` are those of its model, ``model`` the plan of merging that, if it is known, and
    ``outcome`` what became of its conflicts.
    """
    found = of_model(path)
    assert found is not None
    kept = None
    if model is not None:
        followed = _followed(model, outcome or MergeProgress(), sides, base)
        items = planned(base, sides).items
        kept = MergeProgress(
            {
                item.name: followed[name]
                for item in items
                for name in (item.name, *item.aliases)
                if name in followed
            }
        )
    return merge(
        session,
        path,
        base,
        sides,
        rules_for(found[1], rules, len(sides), picks=outcome is None),
        kept,
    )


def left_behind(
    session: Session,
    path: str,
    merged: Merged,
    siblings: OfCommits,
    present: Callable[[str], Manifest | None],
) -> dict[str, Manifest]:
    """The files of statistics that a merge of the model at ``path`` leaves, by path, unless they
    are as ``present`` has them.

    ``present`` gives the file at a path as it was merged by itself, None if it was not. Statistics
    that a strategy computed also go into a file that does not exist yet, if attributes would have
    it tracked. All others keep the value they have.
    """
    files = {}
    for statistic in registry.statistics():
        place, sides = sibling(path, statistic), siblings(statistic)
        computed = merged.statistics.get(statistic, {})
        before = present(place) or (next(filter(None, sides), None) if computed else None)
        if before is None and not (computed and _would_be_tracked(session, place)):
            continue
        known = before.by_name if before is not None else {}
        followed = _followed(merged.plan, merged.progress, sides, siblings.before(statistic))
        entries = {**{name: entry for name, entry in followed.items() if name in known}, **computed}
        after = _changed(session, place, before, entries, merged.plan.sides[0].format)
        if after is not None:
            files[place] = after
    return files


def _followed(
    model: MergePlan,
    outcome: MergeProgress,
    sides: Sequence[Manifest | None],
    base: Manifest | None,
) -> dict[str, Entry | None]:
    """The statistics of tensors that the merge of their model took from one side (or the base):
    that side's, by every name.

    None: that side has none of this tensor.
    """
    found: dict[str, Entry | None] = {}
    for item in model.items:
        leader = item.twin or item.name
        rule = outcome.used.get(leader) if item.conflict else None
        value = outcome.resolved.get(leader) if item.conflict else item.result
        version = taken_version(strategy_of(rule)) if rule is not None else BASE
        if version is None:
            continue
        if version != BASE:
            took = [version]
        else:
            took = [i for i in item.active if _same(item.sides[i], value)]
        if len(took) == 1:
            tensor, statistics = item.sides[took[0]], sides[took[0]]
        elif not took and item.active and _same(item.base, value):
            tensor, statistics = item.base, base
        else:
            continue
        if tensor is not None and statistics is not None:
            names = [name for name in (tensor.name, *tensor.aliases) if name in statistics.by_name]
            entry = statistics.by_name[names[0]] if names else None
            found.update(dict.fromkeys((item.name, *item.aliases), entry))
    return found


def _same(entry: Entry | None, value: Entry | None) -> bool:
    return (
        entry is not None
        and value is not None
        and (entry.digest, entry.spec) == (value.digest, value.spec)
    )


def _changed(
    session: Session,
    place: str,
    before: Manifest | None,
    entries: Mapping[str, Entry | None],
    form: str,
) -> Manifest | None:
    """``before`` with the values of ``entries`` (None: without that tensor); None if it has them
    already.

    Without ``before``, a new file of format ``form``.
    """
    from git_theta.workflows.merging.merged_file import built

    known = before.by_name if before is not None else {}
    combined = {entry.name: entry for entry in before.entries} if before is not None else {}
    for name, entry in entries.items():
        like = known.get(name)
        if entry is None:
            combined.pop(name if like is None else like.name, None)
            continue
        placed = (
            entry._replace(name=name, aliases=())
            if like is None
            else entry._replace(name=like.name, aliases=like.aliases)
        )
        combined[placed.name] = placed
    after = list(combined.values())
    if before is None:
        return built(session, place, form, after, None, [])
    if len(after) == len(before.entries) and all(map(_same, after, before.entries)):
        return None
    if [(entry.name, entry.spec) for entry in after] != [
        (entry.name, entry.spec) for entry in before.entries
    ]:
        return built(session, place, before.format, after, before, [before])
    return replace(before, entries=tuple(after), headers=_by_hand(before, entries))


def _by_hand(before: Manifest, names: Iterable[str]) -> dict[str, object]:
    """The headers, with a recipe that says which tensors its rules do not explain."""
    recipe = before.headers.get("merge")
    if not isinstance(recipe, dict):
        return dict(before.headers)
    kept = sorted({*recipe.get("kept", ()), *(before.by_name[name].name for name in names)})
    return {**before.headers, "merge": {**recipe, "kept": kept}}


def _would_be_tracked(session: Session, path: str) -> bool:
    return attributes.is_tracked(attributes.check(session.repository, [path], ["filter"])[path])
