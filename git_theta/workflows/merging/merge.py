"""merge: several versions of a model become one.

Decided from manifests; only what really conflicts is read and computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from git_theta.core.contracts import (
    KeepsState,
    MergeCase,
    MergeStrategy,
    SurveysModel,
    WholeModel,
    statistics_of,
    taken_version,
)
from git_theta.core.manifest import Entry, Manifest
from git_theta.core.names import display, shell_word
from git_theta.core.tensors import Tensor
from git_theta.errors import MergeError, ThetaError
from git_theta.merges import finish, plan
from git_theta.merges import options as merge_options
from git_theta.merges.items import (
    BASE,
    GENERIC,
    Item,
    MergePlan,
    computable,
    listed,
    reason,
)
from git_theta.merges.training_state import never_negative
from git_theta.plugins import registry, tables
from git_theta.workflows import chains
from git_theta.workflows.merging import whole_model
from git_theta.workflows.merging.merge_rules import MergeRule, Rules, literal, strategy_of
from git_theta.workflows.merging.outcome import Conflict, Merged, MergeProgress, guarded
from git_theta.workflows.session import Session

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy as np

    from git_theta.workflows.merging.outcome import Siblings

# numpy, and the modules that compute or write files, are imported where something has to be
# computed: most merges only compare digests.


def planned(base: Manifest | None, sides: Sequence[Manifest]) -> MergePlan:
    """What digests decide of a merge of ``sides`` (the first is ours), with the units that plugins
    know, too.
    """
    return plan.plan(base, sides, registry.unit_kinds())


def merge(
    session: Session,
    path: str,
    base: Manifest | None,
    sides: Sequence[Manifest],
    rules: Rules,
    kept: MergeProgress | None = None,
    siblings: Siblings | None = None,
) -> Merged:
    """Merge ``sides`` (the first is ours) of the model at ``path``.

    ``kept`` is what was settled before. Objects are stored but not flushed. Nothing is raised for a
    conflict or a strategy that cannot do its work: both leave the tensor to the user.
    """
    decided = planned(base, sides)
    before = kept or MergeProgress()
    work = _MergeWork(session, path, decided, rules, before, siblings)
    work.resolve()
    by_name = rules.by_name or before.by_name
    problems = work.format_problems(by_name)
    if decided.skeleton.conflict and not (rules.rest or before.resolved):
        problems.append("the file has no tensors and changed on several sides")
    manifest = None
    if not work.conflicts and not problems:
        manifest = work.assemble()
        if manifest is None:
            problems.append(work.problem)
    notices = (*decided.notices(work.resolved), *work.notices)
    progress = MergeProgress(work.resolved, work.used, work.statistics, by_name)
    return Merged(manifest, progress, tuple(work.conflicts), tuple(problems), notices, decided)


def ancestor(
    session: Session, path: str, base: Manifest | None, versions: Sequence[Manifest], rules: Rules
) -> Manifest | None:
    """What the common ancestors of crossed histories are together, to merge their descendants
    against.

    What one of them changed is as it made it. What several did, a strategy that computes decides;
    what is left, or for a rule to take from one side, is as in ``base``, which came before them.
    Where that cannot be, it is ``base``.
    """
    picks = tuple(
        rule if _version(rule) is None else replace(rule, strategy=tables.TAKES_BASE)
        for rule in rules.rules
    )
    merged = merge(session, path, base, versions, replace(rules, rules=picks))
    if merged.conflicts and not merged.problems:
        resolved = merged.resolved
        before = {
            item.name: item.base
            for item in merged.plan.items
            if item.conflict and not item.twin and item.name not in resolved
        }
        merged = merge(
            session,
            path,
            base,
            versions,
            rules,
            replace(merged.progress, resolved={**merged.resolved, **before}),
        )
    return base if merged.manifest is None else replace(merged.manifest, headers={})


class _MergeWork:
    def __init__(
        self,
        session: Session,
        path: str,
        decided: MergePlan,
        rules: Rules,
        before: MergeProgress,
        siblings: Siblings | None,
    ) -> None:
        self.session, self.path, self.plan, self.rules = session, path, decided, rules
        self.resolved, self.used = dict(before.resolved), dict(before.used)
        self.statistics = {name: dict(entries) for name, entries in before.statistics.items()}
        self.conflicts: list[Conflict] = []
        self.notices: list[str] = []
        self.problem = ""
        self._siblings = siblings
        self._beside: dict[str, Sequence[Manifest | None]] = {}
        self._averaged: dict[str, list[str]] = {}

    def format_problems(self, by_name: bool) -> list[str]:
        """What keeps sides of different formats from being merged, in words; merging them by tensor
        name is only told of.
        """
        if not self.plan.format_conflict:
            return []
        formats = sorted({side.format for side in self.plan.sides})
        what = f"the sides are files of different formats ({', '.join(formats)})"
        unknown = [form for form in formats if form in GENERIC]
        if unknown:
            return [
                f"{what}, and the tensors of {unknown[0]} files are not known; take one side whole"
            ]
        if not by_name:
            return [
                f"{what}; 'git theta resolve --by-name' merges them by tensor name; or take one"
                " side whole"
            ]
        self.notices.append(
            f"{what}, merged by tensor name; the result is"
            f" {self.plan.sides[self.plan.skeleton.source].format}"
        )
        return []

    # Resolving

    def resolve(self) -> None:
        """Let the rules decide every conflict that nothing decided yet."""
        waiting: list[_Waiting] = []
        for item in self.plan.conflicts:
            if item.name in self.resolved:
                continue
            parts = self.plan.parts(item)
            rule = self.rules.rule(name for part in parts for name in (part.name, *part.aliases))
            if rule is None:
                self.conflicts.append(Conflict(item, _explained(item)))
            elif _version(rule) is not None:
                self._pick(parts, rule)
            elif item.kind == "unit":
                self._refuse(
                    [item],
                    MergeError(
                        f"'{rule.strategy}' would merge its parts one by one, which gives other"
                        " values"
                    ),
                )
            else:
                waiting.append((item, rule, strategy_of(rule)))
        for item in self.plan.items:
            if item.kind == "counter" and item.name not in self.resolved:
                rule = self.rules.rule((item.name, *item.aliases))
                if rule is not None and _version(rule) is not None:
                    self._pick((item,), rule)
        if not waiting:
            return
        self._fetch([item for item, _, _ in waiting])
        self._find_statistics([strategy for _, _, strategy in waiting])
        waiting = self._whole(waiting)
        submit = self.session.pool().submit
        for item, rule, future in [
            (i, r, submit(self._compute, i, r, s)) for i, r, s in self._surveyed(waiting)
        ]:
            self._settle(item, rule, future)
        for strategy_name, names in self._averaged.items():
            what = f"cannot be negative, so averaged where {strategy_name} could make it so"
            self.notices.append(f"{what}: {listed(names)}")

    def _settle(self, item: Item, rule: MergeRule, future: Future[_TensorResult]) -> None:
        try:
            result = future.result()
        except ThetaError as error:
            self._refuse([item], error)
            return
        self.resolved[item.name], self.used[item.name] = result.entry, rule
        self.notices.extend(result.notices)
        if result.averaged:
            self._averaged.setdefault(rule.strategy, []).append(item.name)
        for name, entry in result.statistics.items():
            self.statistics.setdefault(name, {})[item.name] = entry

    def _refuse(self, items: Iterable[Item], error: ThetaError) -> None:
        self.conflicts += [Conflict(item, _explained(item, str(error))) for item in items]

    def _pick(self, items: Sequence[Item], rule: MergeRule) -> None:
        """Take all of ``items`` from one side."""
        side, problem = _version(rule), _absent(self.plan, strategy_of(rule))
        assert side is not None
        if problem:
            if items[0].conflict:
                self.conflicts.append(Conflict(items[0], _explained(items[0], problem)))
            return
        known = self.plan.version(side).by_name
        for item in items:
            self.resolved[item.name] = item.base if side == BASE else item.sides[side]
            self.used[item.name] = rule
            # The side may have several values for these names
            if item.kind in ("tied-apart", "unit"):
                self.resolved.update(
                    {
                        name: known[name] if name in known else self.resolved[item.name]
                        for name in item.aliases
                    }
                )
                self.used.update(dict.fromkeys(item.aliases, rule))

    def _taken(self) -> int | None:
        """The side from which all that several sides changed is taken, if it is one; the file's
        other content comes from there, too.
        """
        chosen = self.rules.rest
        if chosen is None:
            rules = [self.used.get(item.name) for item in self.plan.conflicts]
            names = {rule.strategy if rule is not None else "" for rule in rules}
            chosen = rules[0] if len(names) == 1 else None
        if chosen is None or _absent(self.plan, strategy_of(chosen)):
            return None
        return _version(chosen)

    def _fetch(self, items: Iterable[Item]) -> None:
        """Bring every object that computing ``items`` will read, in one go."""
        entries = [e for item in items for e in (item.base, *item.sides) if e is not None]
        refs = [ref for entry in entries for ref in entry.objects]
        if self.session.store.missing(refs):
            from git_theta.workflows.sharing.fetch import fetch_missing

            wanted = replace(
                self.plan.sides[0],
                entries=tuple({entry.digest: entry for entry in entries}.values()),
            )
            fetch_missing(self.session, [wanted])

    def _surveyed(self, waiting: Sequence[_Waiting]) -> list[_Waiting]:
        """Let strategies look over the whole model first where they ask for it."""
        result, surveyed = list[_Waiting](), dict[int, MergeRule | ThetaError]()
        for item, rule, strategy in waiting:
            if not isinstance(strategy, SurveysModel):
                result.append((item, rule, strategy))
                continue
            if id(rule) not in surveyed:
                self._fetch(self.plan.items)
                try:
                    surveyed[id(rule)] = replace(
                        rule,
                        options=guarded(strategy, strategy.survey, self._every_case, rule.options),
                    )
                except ThetaError as error:
                    surveyed[id(rule)] = error
            found = surveyed[id(rule)]
            if isinstance(found, ThetaError):
                self._refuse([item], found)
            else:
                result.append((item, found, strategy))
        return result

    def _every_case(self) -> Iterable[MergeCase]:
        """Every tensor of the model that all sides have alike and that a formula may merge, in
        conflict or not, one at a time.
        """
        for item in self.plan.items:
            if item.kind == "counter" or item.unit is not None or never_negative(item.name):
                continue
            entries = [item.base, *item.sides]
            if (
                all(
                    entry is not None and entry.spec == entries[0].spec
                    for entry in entries
                    if entries[0] is not None
                )
                and item.base
            ):
                present = cast("list[Entry]", entries)
                if computable(present[0]):
                    arrays = [self._array(entry) for entry in present]
                    yield MergeCase(item.name, arrays[0], tuple(arrays[1:]))

    def _whole(self, waiting: list[_Waiting]) -> list[_Waiting]:
        """Merge all that a strategy for whole models merges; what is left for the others."""
        whole = [one for one in waiting if isinstance(one[2], WholeModel)]
        if not whole:
            return waiting
        _, rule, strategy = whole[0]
        assert isinstance(strategy, WholeModel)
        self._fetch(self.plan.items)
        try:
            whole_model.check(self.plan, self.rules, rule, self.resolved)
            cases = whole_model.cases(
                self.plan, strategy, strategy.prepare, rule.options, self._array, self._of_all
            )
        except ThetaError as error:
            self._refuse([item for item, _, _ in whole], error)
            return [one for one in waiting if one not in whole]
        submit = self.session.pool().submit
        for item, future in [
            (item, submit(self._merged, item, rule.options, strategy, case)) for item, case in cases
        ]:
            self._settle(item, rule, future)
        return []

    def _compute(self, item: Item, rule: MergeRule, strategy: MergeStrategy) -> _TensorResult:
        """Merge one tensor by a strategy and store the result."""
        rows = rule.options.get("rows") == "common"
        if len(item.entries) != len(item.active):
            raise MergeError(
                f"'{rule.strategy}' cannot merge a tensor that one side does not have; take ours or"
                " theirs"
            )
        if item.kind == "tied-apart":
            raise MergeError(
                f"'{rule.strategy}' cannot merge tensors that one side ties and another does not;"
                " take ours or theirs"
            )
        if not item.array:
            raise MergeError(
                f"'{rule.strategy}' does not compute with {item.entries[0].dtype} values; take"
                " ours, theirs or base"
            )
        if not item.fits and not rows:
            raise MergeError(
                f"'{rule.strategy}' needs one type and shape on all sides; take ours or theirs"
            )
        base = item.base if item.base is not None and (item.base_fits or rows) else None
        case = MergeCase(
            item.name,
            self._array(base) if base is not None else None,
            tuple(self._array(entry) for entry in item.entries),
            self._statistics(item),
        )
        return self._merged(
            item,
            merge_options.for_sides(rule.options, item.active, len(self.plan.sides)),
            strategy,
            case,
        )

    def _merged(
        self,
        item: Item,
        options: Mapping[str, object],
        strategy: MergeStrategy,
        case: MergeCase,
    ) -> _TensorResult:
        from git_theta.merges import apply

        outcome = apply.apply(strategy, case, options)
        like = [side for side in (*item.entries, *item.sides) if side is not None]
        entry = self._stored(Tensor.from_array(outcome.array), like, item)
        left = {}
        if isinstance(strategy, KeepsState) and self._siblings is not None and not outcome.averaged:
            own = {key: value for key, value in options.items() if key != "rows"}
            for name, array in guarded(strategy, strategy.after, case, own).items():
                beside = [
                    manifest.by_name
                    for manifest in self._beside.get(name, ())
                    if manifest is not None
                ]
                old = [entries[item.name] for entries in beside if item.name in entries]
                left[name] = self._stored(
                    Tensor.from_array(array), old, replace(item, base=None, aliases=())
                )
        return _TensorResult(entry, outcome.notices, left, outcome.averaged)

    def _array(self, entry: Entry) -> np.ndarray:
        return chains.load(self.session.store, entry).array()

    def _stored(self, tensor: Tensor, like: Sequence[Entry], item: Item) -> Entry:
        """The entry of a merged value: one that a side (or the base) has already, or an update
        against the first of ``like``.
        """
        settings, store = self.session.settings, self.session.store
        value = chains.InMemory(tensor)

        def add() -> chains.StagedLink:
            bases = chains.bases(store, like[0]) if like else []
            return chains.encode(store, value, bases, settings.compression, settings.max_chain)

        return chains.keep(
            store,
            (item.name, item.aliases),
            value,
            chains.equal_among([*like, item.base], tensor.spec),
            add,
            settings.compression,
            self.session.warn,
        ).seal()

    def _find_statistics(self, strategies: Iterable[MergeStrategy]) -> None:
        """Where the sides track statistics that one of ``strategies`` uses."""
        if self._siblings is None:
            return
        from git_theta.workflows.sharing.fetch import fetch_missing

        for statistic in sorted({name for each in strategies for name in statistics_of(each)}):
            self._beside[statistic] = self._siblings(statistic)
            found = [manifest for manifest in self._beside[statistic] if manifest is not None]
            fetch_missing(self.session, found)

    def _statistics(self, item: Item) -> dict[str, tuple[np.ndarray | None, ...]]:
        """The statistics of one tensor, an array for each active side, if any side tracks them."""
        return self._statistics_of(item, item.active)

    def _of_all(self, item: Item) -> dict[str, tuple[np.ndarray | None, ...]]:
        """The same, with an array for every side."""
        return self._statistics_of(item, range(len(self.plan.sides)))

    def _statistics_of(
        self, item: Item, sides: Iterable[int]
    ) -> dict[str, tuple[np.ndarray | None, ...]]:
        found: dict[str, tuple[np.ndarray | None, ...]] = {}
        for statistic, manifests in self._beside.items():
            named = [manifests[i] for i in sides]
            entries = [each.by_name.get(item.name) if each is not None else None for each in named]
            if any(entry is not None for entry in entries):
                found[statistic] = tuple(
                    self._array(entry) if entry is not None else None for entry in entries
                )
        return found

    # Assembling

    def assemble(self) -> Manifest | None:
        """The merged manifest: a side's skeleton around the merged tensors, or a new file that the
        format builds.

        None, with ``problem`` set, when it cannot be built.
        """
        entries = finish.finish(self.plan, self.resolved)
        taken = self._taken()
        if taken is not None and finish.same_values(entries, self.plan.version(taken).entries):
            entries = self.plan.version(taken).entries  # tied as there
        file = finish.choose_file(self.plan, entries, taken)
        if file.notice:
            self.notices.append(file.notice)
        side = self.plan.version(file.source)
        merged = Manifest(side.format, side.size, side.skeleton, entries, self._headers())
        if not file.build:
            ordered = {entry.name: entry for entry in entries}
            return replace(merged, entries=tuple(ordered[old.name] for old in side.entries))
        return self._built(merged, side)

    def _headers(self) -> dict[str, object]:
        """The recipe: everything needed to compute the conflicts' values again."""
        if not self.used:
            return {}
        recipe: dict[str, object] = {
            "rules": _recorded(self.used),
            "sides": [side.identity for side in self.plan.sides],
        }
        if self.plan.base is not None:
            recipe["base"] = self.plan.base.identity
        beside = {
            name: [m.identity if m else None for m in found]
            for name, found in self._beside.items()
            if any(found)
        }
        if beside:
            recipe["statistics"] = beside
        by_hand = sorted(name for name in self.resolved if name not in self.used)
        if by_hand:
            recipe["kept"] = by_hand
        return {"merge": recipe}

    def _built(self, merged: Manifest, like: Manifest) -> Manifest | None:
        """Names or shapes differ from every side's: the format writes a new file, which is then cut
        like any other.
        """
        from git_theta.workflows.merging.merged_file import built

        try:
            return replace(
                built(self.session, self.path, like.format, merged.entries, like, self.plan.sides),
                headers=merged.headers,
            )
        except ThetaError as error:
            self.problem = f"the merged file cannot be built: {error}"
            return None


@dataclass(frozen=True, slots=True)
class _TensorResult:
    entry: Entry
    notices: tuple[str, ...]
    statistics: Mapping[str, Entry]
    averaged: bool = False


def _version(rule: MergeRule) -> int | None:
    """The version that ``rule`` takes tensors from, if it takes one."""
    return taken_version(strategy_of(rule))


def _absent(plan: MergePlan, strategy: MergeStrategy) -> str:
    """Why ``strategy`` cannot take its version of what ``plan`` merges; empty if it can."""
    version, count = taken_version(strategy), len(plan.sides)
    if version == BASE:
        return "" if plan.base is not None else "there is no common ancestor to go back to"
    if version is not None and version >= count:
        return f"'{strategy.name}' takes side {version + 1}, and only {count} are merged"
    most = strategy.max_sides
    if version is not None and most is not None and count > most:
        named = "two" if most == 2 else most
        return f"'{strategy.name}' is one of {named} sides, and {count} are merged"
    return ""


_Waiting = tuple[Item, MergeRule, MergeStrategy]


def _explained(item: Item, problem: str = "") -> str:
    """Why ``item`` is a conflict, what keeps a strategy from merging it, and, for a unit, what does
    settle it.
    """
    words = [reason(item), problem] if problem else [reason(item)]
    if item.kind == "unit":
        params = shell_word(literal(item.name))
        words.append(
            f"take it whole from one side: git theta resolve --params {params} --ours (or --theirs,"
            " --base)"
        )
    return "; ".join(words)


def _recorded(used: Mapping[str, MergeRule]) -> list[dict[str, object]]:
    """Rules by which every tensor of ``used`` is merged as it was: those that were followed, behind
    ones for the exceptions.
    """
    rules: list[MergeRule] = []
    for rule in used.values():
        if rule not in rules:
            rules.append(rule)
    followed = Rules(tuple(rules))
    odd = [
        replace(rule, params=literal(name))
        for name, rule in used.items()
        if followed.rule([name]) != rule
    ]
    return [rule.dump() for rule in (*odd, *rules)]


def _kinds(conflicts: Sequence[Conflict]) -> str:
    """What ``conflicts`` are: tensors, units, or both."""
    units = sum(conflict.item.kind == "unit" for conflict in conflicts)
    mark = "s" if len(conflicts) > 1 else ""
    return (
        f"tensor{mark}"
        if not units
        else f"unit{mark}"
        if units == len(conflicts)
        else "tensors and units"
    )


def describe(path: str, merged: Merged, shown: int = 5) -> list[str]:
    """What a user should read about a merge that is not finished: what conflicts, why, and the
    commands that go on.
    """
    lines = [f"{display(path)}: {problem}" for problem in merged.problems]
    if merged.conflicts:
        count = len(merged.conflicts)
        lines.append(
            f"{display(path)}: {count} {_kinds(merged.conflicts)} changed on several sides:"
        )
        lines += [f"    {c.title}: {c.reason}" for c in merged.conflicts[:shown]]
        if count > shown:
            lines.append(f"    … and {count - shown} more")
    if lines:
        quoted = shell_word(path)
        lines.append(
            f"resolve with: git theta resolve {quoted} -s STRATEGY    ('git theta strategies' lists"
            " them; also --ours, --theirs, --base)"
        )
        lines.append(f"or put the file you want there and run: git add {quoted}")
    return lines
