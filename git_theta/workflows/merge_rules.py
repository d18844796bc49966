"""Which strategy merges which tensor: rules from the command line, a committed ``.theta.toml``, or git's config.

``.theta.toml`` at the top of the repository::

    [[merge]]
    params = "*.bias"          # a glob over tensor names; without it, all
    strategy = "average"

    [[merge]]
    path = "models/*"          # a glob over paths; without it, all
    strategy = "ties"
    options = { density = 0.3 }

The first rule that matches a tensor decides. A file can choose among installed strategies; it can neither load code nor name other files.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, cast

from git_theta.core.names import display
from git_theta.errors import ThetaError, UsageError
from git_theta.merges import options as merge_options
from git_theta.plugins import registry

if TYPE_CHECKING:
    from git_theta.core.contracts import MergeStrategy
    from git_theta.workflows.session import Session

FILE = ".theta.toml"
_KEYS = {"params": str, "path": str, "strategy": str, "options": dict}


@dataclass(frozen=True, slots=True)
class Rule:
    """Tensors whose name matches the glob ``params`` are merged by ``strategy`` with these complete ``options``."""

    params: str
    strategy: str
    options: Mapping[str, object]

    def dump(self) -> dict[str, object]:
        """As JSON values, for a recipe or the environment."""
        return {"params": self.params, "strategy": self.strategy, "options": _plain(self.options)}


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules in order; the first that matches counts. No rule at all: every conflict is left to the user."""

    rules: tuple[Rule, ...] = ()
    source: str = ""

    def rule(self, names: Iterable[str]) -> Rule | None:
        """The rule for a tensor known by ``names``."""
        every = list(names)
        return next((rule for rule in self.rules if any(fnmatchcase(name, rule.params) for name in every)), None)

    @property
    def keep_state(self) -> bool:
        """Whether a strategy among them leaves statistics for the next merge (diloco's velocity)."""
        return any(hasattr(strategy_of(rule), "after") for rule in self.rules)

    def dump(self) -> str:
        """As one line of JSON, which :func:`load` reads."""
        return json.dumps([rule.dump() for rule in self.rules], sort_keys=True, separators=(",", ":"))


def load(text: str, source: str = "") -> Rules:
    """The rules that :meth:`Rules.dump` wrote; :class:`UsageError` for anything else."""
    try:
        rows = json.loads(text)
        return Rules(tuple(rule(row["strategy"], row["options"], row["params"]) for row in rows), source)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UsageError("merge rules are damaged: not what 'git theta merge' writes") from None


def rule(strategy: str, options: Mapping[str, object], params: str = "*") -> Rule:
    """A rule with its options checked and completed; :class:`MergeError` or :class:`PluginError` when it cannot be followed."""
    found = registry.merge_strategy(strategy)
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return Rule(params, strategy, merge_options.complete(found.name, found.options, given))


def from_words(strategy: str, words: Sequence[str], params: str = "*") -> Rule:
    """A rule from ``-s STRATEGY -o key=value …``."""
    found = registry.merge_strategy(strategy)
    return Rule(params, strategy, merge_options.parse(found, words))


def literal(name: str) -> str:
    """The glob that matches just ``name``."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def strategy_of(rule: Rule) -> MergeStrategy:
    """The strategy that a rule names."""
    return registry.merge_strategy(rule.strategy)


def parse_file(text: str, path: str) -> Rules:
    """The rules that a ``.theta.toml`` gives for the model at ``path``. :class:`UsageError` names the line of what is wrong."""
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{FILE}: {display(str(error), 200)}") from None
    for key in content:
        if key != "merge":
            raise UsageError(f"{FILE}, line {_line(text, key)}: unknown key '{display(key, 60)}'; it may hold [[merge]] tables")
    tables = content.get("merge", [])
    if not isinstance(tables, list):
        raise UsageError(f"{FILE}, line {_line(text, 'merge')}: write each rule as a [[merge]] table")
    starts = _table_lines(text)
    found = []
    for number, table in enumerate(tables):
        where = f"{FILE}, line {starts[number] if number < len(starts) else _line(text, 'merge')}"
        checked = _checked(table, text, where, starts, number)
        if fnmatchcase(path, str(checked.get("path", "*"))):
            try:
                given = cast("dict[str, object]", checked.get("options", {}))
                found.append(rule(str(checked["strategy"]), given, str(checked.get("params", "*"))))
            except ThetaError as error:
                raise UsageError(f"{where}: {error}") from None
    return Rules(tuple(found), FILE)


def in_force(session: Session, path: str, revision: str = "HEAD") -> Rules:
    """The rules for the model at ``path`` where none are given: a committed ``.theta.toml``'s, else that of ``theta.merge.strategy``."""
    text = session.blobs.read(f"{revision}:{FILE}", 1 << 20)
    if text is not None:
        try:
            rules = parse_file(text.decode("utf-8"), path)
        except UnicodeDecodeError:
            raise UsageError(f"{FILE} is not UTF-8") from None
        if rules.rules:
            return rules
    if session.settings.merge_strategy:
        return Rules((from_words(session.settings.merge_strategy, ()),), "theta.merge.strategy")
    return Rules()


def _checked(table: object, text: str, where: str, starts: Sequence[int], number: int) -> dict[str, object]:
    if not isinstance(table, dict):
        raise UsageError(f"{where}: a rule must be a table")
    for key, value in table.items():
        after = starts[number] if number < len(starts) else 1
        if key not in _KEYS:
            allowed = ", ".join(_KEYS)
            raise UsageError(f"{FILE}, line {_line(text, key, after)}: unknown key '{display(key, 60)}' in a rule; allowed are {allowed}")
        if not isinstance(value, _KEYS[key]):
            kind = "a table" if _KEYS[key] is dict else "a string"
            raise UsageError(f"{FILE}, line {_line(text, key, after)}: '{key}' must be {kind}")
    if "strategy" not in table:
        raise UsageError(f"{where}: the rule names no strategy")
    return table


def _line(text: str, key: str, after: int = 1) -> int:
    """The line on which ``key`` stands, looked for from line ``after`` on (the TOML reader keeps no positions)."""
    lines = text.splitlines()
    for number in range(max(0, after - 1), len(lines)):
        if re.match(rf"\s*(?:\[+\s*)?[\"']?{re.escape(key)}[\"']?\s*[\].=]", lines[number]):
            return number + 1
    return after


def _table_lines(text: str) -> list[int]:
    return [number for number, line in enumerate(text.splitlines(), start=1) if re.match(r"\s*\[\[\s*merge\s*\]\]", line)]


def _plain(options: Mapping[str, object]) -> dict[str, object]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
