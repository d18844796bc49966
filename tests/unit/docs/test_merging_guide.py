"""docs/merging.md says what the registry says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from git_theta.core.contracts import MergeStrategy
from git_theta.merges import options
from git_theta.plugins import registry
from git_theta.workflows.merging import merge_rules

TEXT = (Path(__file__).parents[3] / "docs" / "merging.md").read_text(encoding="utf-8")


def row(strategy: MergeStrategy) -> tuple[str, str, str]:
    """Options with defaults, base, sides: as the table writes them."""
    facts = options.describe(strategy)
    listed = facts["options"]
    assert isinstance(listed, list)
    given = ", ".join(f"{option['name']}={shown(option['default'])}" for option in listed)
    sides = (
        f"{facts['min_sides']}"
        if facts["max_sides"] == facts["min_sides"]
        else f"{facts['min_sides']}+"
    )
    return (
        given,
        "yes" if facts["needs_base"] else "",
        sides + (", any order" if facts["order_free"] else ""),
    )


def shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_table_lists_every_built_in_strategy_with_its_options_and_defaults() -> None:
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TEXT.splitlines()
        if re.match(r"\| [a-z_]+ \| .* \|", line)
    ]
    found = {
        cells[0]: (cells[2], cells[3], cells[4])
        for cells in table
        if len(cells) == 6 and cells[0] != "strategy"
    }
    assert found == {strategy.name: row(strategy) for strategy in registry.merge_strategies()}


def test_the_rules_shown_are_rules() -> None:
    block = re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    assert set(tomllib.loads(block[1])) == {"by-name", "merge"}
    rules = merge_rules.parse_file(block[1], "models/one.safetensors")
    assert rules.by_name
    assert [(rule.params, rule.strategy) for rule in rules.rules] == [
        ("*.bias", "average"),
        ("*", "ties"),
    ]
    assert [
        rule.strategy for rule in merge_rules.parse_file(block[1], "other.safetensors").rules
    ] == ["average"]


def test_strategies_verified_to_a_tolerance_are_named() -> None:
    loose = {s.name for s in registry.merge_strategies() if not getattr(s, "reproducible", True)}
    assert loose == {"regmean", "permute"}
    assert "Two strategies, regmean and permute," in TEXT.replace("\n", " ")
