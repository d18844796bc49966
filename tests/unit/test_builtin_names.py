"""Built-in formats, updates, statistics and strategies are known by name in the tables only, so
that nothing is done for one of them that a plugin could not have.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import git_theta
from git_theta.plugins import registry, tables

PACKAGE = Path(git_theta.__file__).parent
TABLES = {"checkpoints/builtin_formats.py", "plugins/tables.py"}
# Modules that define several: each family of strategies, and the kinds of units
STRATEGIES = PACKAGE / "merges" / "strategies"
FAMILIES = {path.relative_to(PACKAGE).as_posix() for path in STRATEGIES.glob("*.py")}
FAMILIES.add("merges/units.py")
OWN = {
    name: target.partition(":")[0].removeprefix("git_theta.").replace(".", "/") + ".py"
    for name, target in {
        **{name: row.target for name, row in tables.FORMATS.items()},
        **tables.UPDATES,
    }.items()
}
OWN["torch-zip"] = "checkpoints/torch/zip_archive.py"  # which its writer uses as well
# The same word with another meaning, and sides of a merge.
OTHER_MEANING = {
    "api/loading.py": {"safetensors"},  # a framework
    "cli/commands/setup/cmd_env.py": {"safetensors"},  # a package
    "checkpoints/gguf.py": {"mxfp4"},  # element types
    "core/dtypes.py": {"mxfp4"},
    "checkpoints/onnx.py": {"sparse"},  # ONNX's own tensors
    "merges/training_state.py": {"delta", "fisher"},  # names of tensors
}
SIDES = {"ours", "theirs", "base"}


def names() -> set[str]:
    found = {*tables.FORMATS, *tables.UPDATES, *tables.STATISTICS}
    found |= {strategy.name for strategy in registry.merge_strategies()}
    return (found | {kind.name for kind in registry.unit_kinds()}) - SIDES


def quoted(path: Path) -> set[str]:
    """Every string in a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return {value for value in constants if isinstance(value, str)}


QUOTED = {path.relative_to(PACKAGE).as_posix(): quoted(path) for path in PACKAGE.rglob("*.py")}


def places() -> dict[str, set[str]]:
    """The names that are quoted outside of the tables and of the modules that define them."""
    known, found = names(), dict[str, set[str]]()
    for place, texts in QUOTED.items():
        if place not in TABLES and place not in FAMILIES:
            found[place] = {text for text in texts & known if OWN.get(text) != place}
    return found


def test_no_built_in_is_known_by_name_outside_of_the_tables() -> None:
    left = {
        place: rest
        for place, found in places().items()
        if (rest := found - OTHER_MEANING.get(place, set()))
    }
    assert left == {}, "ask the format or update for a property instead (core/contracts.py)"


def test_what_has_another_meaning_is_still_there() -> None:
    found = places()
    gone = {place: words - found.get(place, set()) for place, words in OTHER_MEANING.items()}
    assert {place: words for place, words in gone.items() if words} == {}


@pytest.mark.parametrize("name", [*tables.FORMATS, *tables.UPDATES])
def test_a_format_or_update_stands_in_two_files(name: str) -> None:
    """Its module and a table: as many files as adding another one touches."""
    excused = {place for place, known in OTHER_MEANING.items() if name in known}
    found = {place for place, texts in QUOTED.items() if name in texts}
    assert len(found - excused) == 2, found


def test_a_strategy_stands_in_one_file() -> None:
    families = [texts for place, texts in QUOTED.items() if place.startswith("merges/strategies/")]
    for strategy in registry.merge_strategies():
        assert any(strategy.name in texts for texts in families), strategy.name
