"""The registry: built-ins by name, plugins when needed, and one bad plugin never in the way of the
rest.
"""

from __future__ import annotations

import subprocess
import sys
import types
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, cast

import click
import pytest

from git_theta.checkpoints import builtin_formats
from git_theta.core.contracts import (
    CheckpointFormat,
    MergeStrategy,
    UnitKind,
    Update,
    statistics_of,
)
from git_theta.errors import PluginError
from git_theta.plugins import builtin_plugin, hookspecs, registry, tables
from git_theta.plugins.discovery import OfferedPlugin
from git_theta.plugins.hookspecs import hookimpl
from git_theta.plugins.registry import BUILT_IN, Registry

SAFETENSORS = b"\x10\0\0\0\0\0\0\0{"
ZIP = b"PK\x03\x04" + bytes(60)


@dataclass
class Format:
    name: str = "odd"
    suffixes: tuple[str, ...] = (".odd",)
    magic: bytes = b"ODD"
    fails: bool = False

    def sniff(self, head: bytes) -> bool:
        if self.fails:
            raise RuntimeError("a mistake")
        return head.startswith(self.magic)

    def scan(self, source: Any) -> Any:
        raise NotImplementedError


class Doubling:
    name = "doubling"
    needs_base = True

    def encode(self, tensor: Any, base: Any, level: Any) -> Any:
        return None

    def decode(self, payload: Any, spec: Any, base: Any) -> Any:
        raise NotImplementedError


class Halving(Doubling):
    name = "halving"


class Coin:
    name = "coin"
    summary = "a side at random"
    options = ()
    needs_base = False
    min_sides = 2
    max_sides = None

    def merge(self, case: Any, options: Any) -> Any:
        return case.sides[0]


class Pairs:
    name = "pairs"
    summary = "a and b"

    def find(self, tensors: Any) -> Any:
        return [("a", "b")] if "a" in tensors and "b" in tensors else []


@click.command("weigh")
def weigh() -> None:
    """Weigh a model."""


def plugin(**hooks: Any) -> types.ModuleType:
    """A module that registers ``formats=[…]``, ``updates=[…]``, ``strategies=[…]``, ``units=[…]``,
    ``commands=[…]``.
    """
    module = types.ModuleType("a_plugin")
    names = {
        "formats": "register_checkpoint_formats",
        "updates": "register_updates",
        "strategies": "register_merge_strategies",
        "units": "register_unit_kinds",
        "commands": "register_commands",
    }
    for key, value in hooks.items():

        def hook(value: Any = value) -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        setattr(module, names[key], hookimpl(lambda hook=hook: hook()))
    return module


@dataclass(frozen=True)
class Point:
    """An entry point that loads what it holds."""

    name: str
    value: Any

    def load(self) -> Any:
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


def made(*offers: tuple[str, Any]) -> tuple[Registry, list[str]]:
    """A registry with plugins (distribution, module or error), and the warnings it will give."""
    warnings: list[str] = []
    found = [
        OfferedPlugin(provider, cast(EntryPoint, Point(f"p{number}", value)))
        for number, (provider, value) in enumerate(offers)
    ]
    return Registry(lambda: found, warnings.append), warnings


EVERYTHING = {
    "formats": [Format()],
    "updates": [Doubling()],
    "strategies": [Coin()],
    "units": [Pairs()],
    "commands": [weigh],
}


def names(candidates: Any) -> list[str]:
    return [candidate.name for candidate in candidates]


# Built-ins


def test_each_built_in_fits_its_contract_and_has_the_name_it_is_found_by() -> None:
    for name in tables.FORMATS:
        found = registry.checkpoint_format(name)
        assert found.name == name
        assert isinstance(found, CheckpointFormat)
        assert tables.FORMATS[name].generic or tables.FORMATS[name].suffixes == found.suffixes
    for name in tables.UPDATES:
        assert registry.update(name).name == name
        assert isinstance(registry.update(name), Update)
    for strategy in registry.merge_strategies():
        assert isinstance(strategy, MergeStrategy)
        assert registry.merge_strategy(strategy.name) is strategy
    for kind in registry.unit_kinds():
        assert isinstance(kind, UnitKind)


def test_the_same_instance_is_given_again() -> None:
    assert registry.update("dense") is registry.update("dense")


def test_the_shortcut_without_pluggy_gives_what_the_hooks_give() -> None:
    plain, _ = made()
    hooked, _ = made(("p 1", plugin()))
    assert [(row.kind, row.name, row.module) for row in plain.loaded()] == [
        (row.kind, row.name, row.module) for row in hooked.loaded()
    ]
    assert plain._manager is None
    assert hooked._manager is not None
    assert names(builtin_plugin.register_updates()) == list(tables.UPDATES)
    assert names(builtin_plugin.register_checkpoint_formats()) == list(tables.FORMATS)


def test_a_built_in_is_found_without_looking_for_plugins() -> None:
    def fail() -> list[OfferedPlugin]:
        raise AssertionError("packages were searched")

    lean = Registry(fail, print)
    assert lean.update("dense").name == "dense"
    assert lean.checkpoint_format("opaque").name == "opaque"
    assert next(lean.detect(SAFETENSORS, ".bin")).name == "safetensors"


def test_the_hot_path_imports_neither_pluggy_nor_entry_points() -> None:
    code = (
        "import sys; from git_theta.plugins import registry as r; r.update('dense'); r.updates();"
        " next(r.detect(b'junk', '.x'));print([m for m in ('pluggy', 'importlib.metadata', 'click')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr


# Detection


@pytest.mark.parametrize(
    ("head", "suffix", "expected"),
    [
        (SAFETENSORS, ".safetensors", ["safetensors", "opaque"]),
        (SAFETENSORS, ".bin", ["safetensors", "opaque"]),
        (b"", ".safetensors", ["safetensors", "opaque"]),
        (b"<html>", ".safetensors", ["safetensors", "opaque"]),
        (b"\x80\x02legacy", ".pt", ["opaque"]),
        (b"junk", "", ["opaque"]),
        (ZIP, ".zip", ["stored-zip", "opaque"]),
        (ZIP, ".pt", ["torch-zip", "stored-zip", "opaque"]),
        (ZIP[:26] + b"\x0c\0\0\0" + b"arc/data.pkl", ".zip", ["torch-zip", "stored-zip", "opaque"]),
    ],
)
def test_content_decides_then_the_suffix(head: bytes, suffix: str, expected: list[str]) -> None:
    plain, _ = made()
    assert names(plain.detect(head, suffix)) == expected


def test_every_file_of_a_format_starts_as_its_row_says() -> None:
    folder = Path(__file__).parents[2] / "data"
    for path in (*folder.glob("formats/*"), *folder.glob("torch/*")):
        head = path.read_bytes()[:4096]
        for name, row in tables.FORMATS.items():
            if row.starts and registry.checkpoint_format(name).sniff(head):
                assert head.startswith(row.starts), f"{path.name}: {name}"


def test_plugins_come_before_the_generic_formats_only() -> None:
    greedy, warnings = made(("p 1", plugin(formats=[Format("greedy", (".pt",), b"")])))
    assert names(greedy.detect(SAFETENSORS, ".pt")) == ["safetensors", "opaque"]
    assert names(greedy.detect(ZIP, ".zip"))[:2] == ["greedy", "stored-zip"]
    assert names(greedy.detect(b"junk", ".x")) == ["greedy", "opaque"]
    specific = [name for name, row in tables.FORMATS.items() if not row.generic]
    assert names(greedy.checkpoint_formats()) == [
        *specific,
        "greedy",
        *(name for name in tables.FORMATS if name not in specific),
    ]
    assert warnings == []


def test_a_plugins_suffix_claims_a_file_whose_content_nobody_knows() -> None:
    odd, _ = made(("p 1", plugin(formats=[Format()])))
    assert names(odd.detect(b"junk", ".odd")) == ["odd", "opaque"]
    assert names(odd.detect(b"ODD", ".odd")) == ["odd", "opaque"]


def test_a_plugin_that_cannot_sniff_keeps_no_file_out() -> None:
    failing, warnings = made(("p 1", plugin(formats=[Format(fails=True)])))
    assert names(failing.detect(b"junk", ".x")) == ["opaque"]
    assert "a mistake" in warnings[0]


# Plugins


def test_a_plugin_adds_to_every_kind() -> None:
    full, warnings = made(("p 1.2", plugin(**EVERYTHING)))
    assert full.checkpoint_format("odd").suffixes == (".odd",)
    assert full.update("doubling").needs_base
    assert full.merge_strategy("coin").summary == "a side at random"
    assert full.commands() == {"weigh": weigh}
    assert names(full.updates())[-1] == "doubling"
    assert names(full.unit_kinds())[-1] == "pairs"
    rows = [row for row in full.loaded() if row.provider != BUILT_IN]
    assert [(row.kind, row.name, row.provider) for row in rows] == [
        ("checkpoint format", "odd", "p 1.2"),
        ("update", "doubling", "p 1.2"),
        ("merge strategy", "coin", "p 1.2"),
        ("unit kind", "pairs", "p 1.2"),
        ("command", "weigh", "p 1.2"),
    ]
    assert {row.module for row in rows} == {__name__}
    assert warnings == []


def test_every_hook_has_a_one_sentence_doc_and_is_used_here() -> None:
    specs = [value for name, value in vars(hookspecs).items() if name.startswith("register_")]
    assert len(specs) == len(EVERYTHING)
    for spec in specs:
        sentence = " ".join((spec.__doc__ or "").split())
        assert sentence.endswith(".")
        assert sentence.count(".") == 1


def test_a_missing_plugin_is_named_with_what_to_do() -> None:
    plain, _ = made()
    for ask in (plain.checkpoint_format, plain.update):
        with pytest.raises(
            PluginError,
            match=r"'gguf2' is neither built in nor .* install the package .*'git theta plugins'",
        ):
            ask("gguf2")
    with pytest.raises(PluginError, match="no merge strategy 'x'; there are:"):
        plain.merge_strategy("x")


def test_a_strange_name_in_a_message_cannot_move_the_cursor() -> None:
    plain, _ = made()
    with pytest.raises(PluginError) as caught:
        plain.update("\x1b[2J\n")
    assert str(caught.value).isprintable()


def test_of_two_plugins_with_one_name_neither_is_used_and_the_rest_works() -> None:
    other = plugin(updates=[Doubling(), Halving()])
    twice, warnings = made(
        ("first 1.0", plugin(**EVERYTHING)),
        ("second 2.0", plugin(**EVERYTHING)),
        ("third 3", other),
    )
    for ask in (
        lambda: twice.update("doubling"),
        lambda: twice.merge_strategy("coin"),
        lambda: twice.checkpoint_format("odd"),
    ):
        with pytest.raises(
            PluginError,
            match=r"first 1\.0 and second 2\.0.*neither is used until one of them is uninstalled",
        ):
            ask()
    assert twice.update("halving").name == "halving"
    assert [update.name for update in twice.added_updates()] == ["halving"]
    assert "coin" not in [strategy.name for strategy in twice.merge_strategies()]
    assert twice.commands() == {}
    assert [found.name for found in twice.detect(b"ODD", ".odd")] == ["opaque"]
    assert [row.provider for row in twice.loaded() if row.name == "coin"] == [
        "first 1.0",
        "second 2.0",
    ]
    assert sorted(line.partition(":")[0] for line in warnings) == [
        f"two plugins provide {what}"
        for what in (
            "a checkpoint format called 'odd'",
            "a command called 'weigh'",
            "a merge strategy called 'coin'",
            "an update called 'doubling'",
        )
    ]


def test_a_plugin_cannot_take_a_built_in_name() -> None:
    clash, warnings = made(("p 1", plugin(formats=[Format("opaque"), Format("other")])))
    assert type(clash.checkpoint_format("opaque")).__module__ == "git_theta.checkpoints.opaque"
    names = [found.name for found in clash.checkpoint_formats()]
    assert names.count("opaque") == 1
    assert "other" in names
    assert warnings == [
        "two plugins provide a checkpoint format called 'opaque': built in and p 1; the built-in"
        " one is used"
    ]


@pytest.mark.parametrize(
    "error", [ImportError("no module named x"), SyntaxError("bad"), RuntimeError("two\nlines")]
)
def test_a_plugin_that_fails_to_import_is_warned_of_once_and_the_rest_works(
    error: Exception,
) -> None:
    some, warnings = made(("bad 1", error), ("good 2", plugin(**EVERYTHING)))
    assert some.update("doubling").needs_base
    assert some.merge_strategy("coin").name == "coin"
    assert len(some.loaded()) > 4
    assert len(warnings) == 1
    assert warnings[0].startswith("plugin bad 1 cannot be imported and is ignored: ")
    assert "\n" not in warnings[0]


def test_a_hook_that_fails_is_warned_of_once_and_the_rest_works() -> None:
    some, warnings = made(
        ("bad 1", plugin(updates=ValueError("oh"), strategies=[Coin()])),
        ("good 2", plugin(updates=[Doubling()])),
    )
    assert some.update("doubling").needs_base
    assert some.updates() == some.updates()
    assert some.merge_strategy("coin").name == "coin"
    assert warnings == ["plugin bad 1 does not work and is ignored: ValueError: oh"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Doubling, "is a class"),
        (object(), "lacks name"),
        (Format("Upper Case"), "must be a lower-case word"),
        (Format("x" * 65), "must be a lower-case word"),
        (Format("\x1b[2J"), "must be a lower-case word"),
    ],
)
def test_what_does_not_fit_the_contract_is_ignored_with_a_warning(value: Any, reason: str) -> None:
    some, warnings = made(("p 1", plugin(formats=[value, Format()])))
    assert some.checkpoint_format("odd").name == "odd"
    assert len(warnings) == 1
    assert reason in warnings[0]
    assert warnings[0].isprintable()


def test_a_hook_that_does_not_exist_is_pointed_out() -> None:
    module = types.ModuleType("misspelt")

    def register_update() -> list[Any]:
        return []

    module.register_update = hookimpl(register_update)  # type: ignore[attr-defined]
    some, warnings = made(("p 1", module))
    some.updates()
    assert warnings == [
        "plugin p 1 implements register_update, a hook that this Git-Theta does not have"
    ]


def test_a_hook_with_wrong_arguments_is_refused() -> None:
    module = types.ModuleType("wrong")
    module.register_updates = hookimpl(lambda catalogue: [])  # type: ignore[attr-defined]
    some, warnings = made(("p 1", module))
    assert names(some.updates()) == list(tables.UPDATES)
    assert len(warnings) == 1
    assert "does not fit this Git-Theta" in warnings[0]


def test_a_plugin_can_be_registered_by_hand_at_any_time() -> None:
    some, _ = made()
    assert "doubling" not in names(some.updates())
    some.register(plugin(updates=[Doubling()]), "by hand")
    assert names(some.updates())[-1] == "doubling"


def test_the_entry_point_type_is_the_real_one() -> None:
    point = EntryPoint("p", "git_theta.plugins.builtin_plugin", "git_theta")
    some = Registry(lambda: [OfferedPlugin("again 1", point)], print)
    assert [row.provider for row in some.loaded() if row.name == "dense"] == [BUILT_IN]


def test_the_table_of_statistics_is_what_strategies_declare() -> None:
    plain, _ = made()
    declared = [pair for each in plain.merge_strategies() for pair in statistics_of(each).items()]
    assert declared == list(tables.STATISTICS.items())
    assert plain.statistics() == tables.STATISTICS


def test_a_kind_of_change_that_is_unknown_is_pointed_out() -> None:
    class Odd(Doubling):
        meant_for = "large"

    some, warnings = made(("p 1", plugin(updates=[Odd()])))
    assert names(some.updates()) == list(tables.UPDATES)
    assert "its meant_for must be one of text, small, few, rule" in warnings[0]


def test_which_formats_know_tensors() -> None:
    some, _ = made(("p 1", plugin(formats=[Format()])))
    without = [name for name in [*tables.FORMATS, "odd"] if not some.knows_tensors(name)]
    assert without == ["stored-zip", "opaque"]
    assert some.knows_tensors("not-installed")
    assert some.known_format("not-installed") is None
    assert some.fallback() is some.checkpoint_format("opaque")


def test_a_companion_is_known_by_its_name() -> None:
    known = [".metadata", "x.index", "x.metadata", "index", "x.index.bak"]
    assert [name for name in known if builtin_formats.explains(name)] == [".metadata", "x.index"]
    assert builtin_formats.beside("__0_0.distcp") == ["torch-zip"]
    assert builtin_formats.beside("x.data-00000-of-00001") == ["tf-checkpoint"]


class Trusting(Coin):
    name = "trusting"

    def __init__(self, statistics: Any) -> None:
        self.statistics = statistics


def test_statistics_of_plugins_are_listed_behind_those_built_in() -> None:
    some, _ = made()
    some.register(plugin(strategies=[Trusting({"trust": "mean", "fisher": "mean"})]), "by hand")
    assert some.statistics() == {**tables.STATISTICS, "trust": "mean"}


@pytest.mark.parametrize(
    "statistics", [("trust",), {"trust": "median"}, {"../trust": "sum"}, {"trust": []}, None]
)
def test_a_strategy_whose_statistics_do_not_say_how_they_combine_is_ignored(
    statistics: Any,
) -> None:
    some, warnings = made()
    some.register(plugin(strategies=[Trusting(statistics)]), "by hand")
    assert "trusting" not in names(some.merge_strategies())
    assert "its statistics must map lower-case words to 'sum', 'weighted' or 'mean'" in warnings[0]
