"""Which strategy merges which tensor: rules from the command line, a committed ``.theta.toml``, or
git's config.

``.theta.toml`` at the top of the repository::

    by-name = true             # sides in different file formats are merged by tensor name; without
    it, they are a conflict

    [[merge]]
    params = "*.bias"          # a glob over tensor names; without it, all
    strategy = "average"

    [[merge]]
    path = "models/*"          # a glob over paths; without it, all
    strategy = "ties"
    options = { density = 0.3 }

The first rule that matches a tensor decides. A file can choose among installed strategies; it can
neither load code nor name other files.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, cast

from git_theta.core.contracts import KeepsState
from git_theta.core.names import did_you_mean, display
from git_theta.errors import ThetaError, UsageError
from git_theta.merges import options as merge_options
from git_theta.plugins import registry

if TYPE_CHECKING:
    from git_theta.core.contracts import MergeStrategy
    from git_theta.workflows.session import Session

FILE = ".theta.toml"
_BY_NAME = "by-name"
_KEYS = {"params": str, "path": str, "strategy": str, "options": dict}


@dataclass(frozen=True, slots=True)
class MergeRule:
    """Tensors whose name matches the glob ``params`` are merged by ``strategy`` with these complete
    ``options``.
    """

    params: str
    strategy: str
    options: Mapping[str, object]

    def dump(self) -> dict[str, object]:
        """As JSON values, for a recipe or the environment."""
        return {"params": self.params, "strategy": self.strategy, "options": _plain(self.options)}


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules in order; the first that matches counts.

    No rule at all: every conflict is left to the user.

    ``by_name``: sides in different file formats are merged by tensor name. ``further``: what these
    rules leave open is for the rules in force (see :func:`complete`).
    """

    rules: tuple[MergeRule, ...] = ()
    source: str = ""
    by_name: bool = False
    further: bool = False

    def rule(self, names: Iterable[str]) -> MergeRule | None:
        """The rule for a tensor known by ``names``."""
        every = list(names)
        return next(
            (rule for rule in self.rules if any(fnmatchcase(name, rule.params) for name in every)),
            None,
        )

    @property
    def rest(self) -> MergeRule | None:
        """The rule for every tensor that no other one names."""
        return next(
            (rule for rule in self.rules if rule.params and not rule.params.strip("*")), None
        )

    def dump(self) -> str:
        """As one line of JSON, which :func:`load` reads."""
        content = {
            "by_name": self.by_name,
            "further": self.further,
            "rules": [rule.dump() for rule in self.rules],
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"))


def load(text: str, source: str = "") -> Rules:
    """The rules that :meth:`Rules.dump` wrote; :class:`UsageError` for anything else."""
    try:
        content = json.loads(text)
        rules = tuple(
            rule(row["strategy"], row["options"], row["params"]) for row in content["rules"]
        )
        return Rules(rules, source, bool(content["by_name"]), bool(content["further"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UsageError("merge rules are damaged: not what 'git theta merge' writes") from None


def rule(strategy: str, options: Mapping[str, object], params: str = "*") -> MergeRule:
    """A rule with its options checked and completed; :class:`MergeError` or :class:`PluginError`
    when it cannot be followed.
    """
    found = registry.merge_strategy(strategy)
    given = {
        key: tuple(value) if isinstance(value, list) else value for key, value in options.items()
    }
    return MergeRule(params, strategy, merge_options.complete(found.name, found.options, given))


def from_words(strategy: str, words: Sequence[str], params: str = "*") -> MergeRule:
    """A rule from ``-s STRATEGY -o key=value …``."""
    found = registry.merge_strategy(strategy)
    return MergeRule(params, strategy, merge_options.parse(found, words))


def literal(name: str) -> str:
    """The glob that matches just ``name``."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def strategy_of(rule: MergeRule) -> MergeStrategy:
    """The strategy that a rule names."""
    return registry.merge_strategy(rule.strategy)


def parse_file(text: str, path: str | None) -> Rules:
    """The rules that a ``.theta.toml`` gives for the model at ``path`` (None: any).

    :class:`UsageError` names the line of what is wrong.
    """
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{FILE}: {display(str(error), 200)}") from None
    for key in content:
        if key not in ("merge", _BY_NAME):
            allowed = f"{_BY_NAME} and [[merge]] tables"
            hint = did_you_mean(key, ("merge", _BY_NAME)) or f"; it may hold {allowed}"
            raise UsageError(
                f"{FILE}, line {_line(text, key)}: unknown key '{display(key, 60)}'{hint}"
            )
    by_name = content.get(_BY_NAME, False)
    if not isinstance(by_name, bool):
        raise UsageError(
            f"{FILE}, line {_line(text, _BY_NAME)}: '{_BY_NAME}' must be true or false"
        )
    tables = content.get("merge", [])
    if not isinstance(tables, list):
        raise UsageError(
            f"{FILE}, line {_line(text, 'merge')}: write each rule as a [[merge]] table"
        )
    starts = _table_lines(text)
    found = []
    for number, table in enumerate(tables):
        where = f"{FILE}, line {starts[number] if number < len(starts) else _line(text, 'merge')}"
        checked = _checked(table, text, where, starts, number)
        if path is None or fnmatchcase(path, str(checked.get("path", "*"))):
            try:
                given = cast("dict[str, object]", checked.get("options", {}))
                found.append(rule(str(checked["strategy"]), given, str(checked.get("params", "*"))))
            except ThetaError as error:
                raise UsageError(f"{where}: {error}") from None
    return Rules(tuple(found), FILE, by_name)


def in_force(session: Session, path: str | None, revision: str = "HEAD") -> Rules:
    """The rules for the model at ``path`` (None: any) where none are given: a committed
    ``.theta.toml``'s, or ``theta.merge.strategy``.
    """
    text = session.blobs.read(f"{revision}:{FILE}", 1 << 20)
    rules = Rules()
    if text is not None:
        try:
            rules = parse_file(text.decode("utf-8"), path)
        except UnicodeDecodeError:
            raise UsageError(f"{FILE} is not UTF-8") from None
    if not rules.rules and session.settings.merge_strategy:
        chosen = from_words(session.settings.merge_strategy, ())
        return replace(rules, rules=(chosen,), source="theta.merge.strategy")
    return rules


def asked(chosen: MergeRule | None, by_name: bool) -> Rules:
    """What somebody asks for with at most one rule; tensors that it does not match are for the
    rules in force.
    """
    return Rules(
        () if chosen is None else (chosen,),
        by_name=by_name,
        further=chosen is None or chosen.params != "*",
    )


def complete(session: Session, path: str | None, given: Rules, revision: str = "HEAD") -> Rules:
    """``given`` as they apply to the model at ``path``: what they leave open, the rules in force
    decide.
    """
    try:
        found = in_force(session, path, revision)
    except ThetaError:
        if given.further:
            raise
        return given  # whoever names a strategy for everything needs no file
    rules = given.rules + found.rules if given.further else given.rules
    return Rules(rules, given.source or found.source, given.by_name or found.by_name)


def keep_state(session: Session, given: Rules) -> bool:
    """Whether a strategy that may be used leaves a file beside a model (diloco's velocity), which a
    merge driver could not write.
    """
    try:
        return any(
            isinstance(strategy_of(rule), KeepsState)
            for rule in complete(session, None, given).rules
        )
    except ThetaError:
        return False  # the merge itself tells what is wrong


def _checked(
    table: object, text: str, where: str, starts: Sequence[int], number: int
) -> dict[str, object]:
    if not isinstance(table, dict):
        raise UsageError(f"{where}: a rule must be a table")
    for key, value in table.items():
        after = starts[number] if number < len(starts) else 1
        if key not in _KEYS:
            allowed = ", ".join(_KEYS)
            hint = did_you_mean(key, _KEYS) or f"; allowed are {allowed}"
            raise UsageError(
                f"{FILE}, line {_line(text, key, after)}: unknown key '{display(key, 60)}' in a"
                f" rule{hint}"
            )
        if not isinstance(value, _KEYS[key]):
            kind = "a table" if _KEYS[key] is dict else "a string"
            raise UsageError(f"{FILE}, line {_line(text, key, after)}: '{key}' must be {kind}")
    if "strategy" not in table:
        raise UsageError(f"{where}: the rule names no strategy")
    return table


def _line(text: str, key: str, after: int = 1) -> int:
    """The line on which ``key`` stands, looked for from line ``after`` on (the TOML reader keeps no
    positions).
    """
    lines = text.splitlines()
    for number in range(max(0, after - 1), len(lines)):
        if re.match(rf"\s*(?:\[+\s*)?[\"']?{re.escape(key)}[\"']?\s*[\].=]", lines[number]):
            return number + 1
    return after


def _table_lines(text: str) -> list[int]:
    return [
        number
        for number, line in enumerate(text.splitlines(), start=1)
        if re.match(r"\s*\[\[\s*merge\s*\]\]", line)
    ]


def _plain(options: Mapping[str, object]) -> dict[str, object]:
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in options.items()
    }
