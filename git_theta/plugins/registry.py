"""Which checkpoint formats, updates, merge strategies, kinds of units and commands there are: the
built-in ones and those of plugins.

A built-in is found by its name in a table and imported alone; pluggy is imported, and installed
packages are searched, only when something is asked for that may be a plugin's. The functions below
the class serve the whole program; their state is what was loaded so far. Safe to use from several
threads.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast, get_args

from git_theta import __version__
from git_theta.core.contracts import Change, MeantFor, ScansInside, cuts_bytes, statistics_of
from git_theta.core.names import did_you_mean
from git_theta.errors import PluginError
from git_theta.plugins import discovery, tables

if TYPE_CHECKING:
    import click
    import pluggy

    from git_theta.core.contracts import (
        CheckpointFormat,
        Combination,
        MergeStrategy,
        UnitKind,
        Update,
    )
    from git_theta.core.layout import Layout
    from git_theta.core.source import Source

BUILT_IN = "built in"
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,63}\Z")


class _Kind(NamedTuple):
    """One kind of thing that plugins provide: what it is called, its hook, and the attributes it
    must have.
    """

    title: str
    hook: str
    attributes: tuple[str, ...]


_FORMAT = _Kind(
    "checkpoint format", "register_checkpoint_formats", ("name", "suffixes", "sniff", "scan")
)
_UPDATE = _Kind("update", "register_updates", ("name", "needs_base", "encode", "decode"))
_STRATEGY = _Kind(
    "merge strategy",
    "register_merge_strategies",
    ("name", "summary", "options", "needs_base", "min_sides", "max_sides", "merge"),
)
_COMMAND = _Kind("command", "register_commands", ("name", "callback", "get_short_help_str"))
_UNIT = _Kind("unit kind", "register_unit_kinds", ("name", "summary", "find"))
_KINDS = (_FORMAT, _UPDATE, _STRATEGY, _UNIT, _COMMAND)


class Registered(NamedTuple):
    """One registered thing: its kind, name, the distribution it comes from (or ``built in``), and
    its module.
    """

    kind: str
    name: str
    provider: str
    module: str
    value: object


class Registry:
    """What is registered.

    ``find`` lists the plugins on offer; ``warn`` gets one line for each that does not work.
    """

    def __init__(
        self, find: Callable[[], Sequence[discovery.OfferedPlugin]], warn: Callable[[str], None]
    ) -> None:
        self._find = find
        self._warn = warn
        self._lock = threading.RLock()
        self._made: dict[tuple[_Kind, str], object] = {}
        self._offers: Sequence[discovery.OfferedPlugin] | None = None
        self._manager: pluggy.PluginManager | None = None
        self._providers: dict[str, str] = {}
        self._listed: dict[_Kind, tuple[Registered, ...]] = {}
        self._warned: set[tuple[_Kind, str]] = set()

    def register(self, plugin: object, provider: str) -> None:
        """Add a plugin (a module or object with hook implementations) that no installed package
        offers.
        """
        with self._lock:
            manager = self._load(needed=True)
            assert manager is not None
            self._add(manager, plugin, provider, provider)
            self._listed.clear()

    def checkpoint_format(self, name: str) -> CheckpointFormat:
        """The format that manifests call ``name``; :class:`PluginError` if neither built in nor
        installed.
        """
        if name in tables.FORMATS:
            return cast("CheckpointFormat", self._built_in(_FORMAT, name, tables.checkpoint_format))
        return cast("CheckpointFormat", self._named(_FORMAT, name))

    def fallback(self) -> CheckpointFormat:
        """The format of any bytes that no other format knows."""
        return self.checkpoint_format(tables.FALLBACK_FORMAT)

    def known_format(self, name: str) -> CheckpointFormat | None:
        """As :meth:`checkpoint_format`; None instead of an error."""
        try:
            return self.checkpoint_format(name)
        except PluginError:
            return None

    def knows_tensors(self, name: str) -> bool:
        """Whether files of the format ``name`` are cut into tensors, not just runs of bytes.

        True for a format that is not installed.
        """
        found = self.known_format(name)
        return found is None or not cuts_bytes(found)

    def scan(self, found: CheckpointFormat, source: Source) -> Layout:
        """The layout of ``source``, a file of the format ``found``; a container's members are cut
        by the formats of plugins too.
        """
        if not isinstance(found, ScansInside):
            return found.scan(source)
        from git_theta.checkpoints.containers.nested import Members

        added = (row for row in self._rows(_FORMAT) if row.provider != BUILT_IN)
        return found.scan_inside(
            source, Members(tuple(cast("CheckpointFormat", row.value) for row in added))
        )

    def checkpoint_formats(self) -> tuple[CheckpointFormat, ...]:
        """All formats, in the order in which they are tried: the specific built-in ones, plugins',
        the generic built-in ones.
        """
        rows = self._rows(_FORMAT)
        generic = [
            row for row in rows if row.provider == BUILT_IN and tables.FORMATS[row.name].generic
        ]
        return tuple(
            cast("CheckpointFormat", row.value)
            for row in [*(row for row in rows if row not in generic), *generic]
        )

    def detect(self, head: bytes, suffix: str) -> Iterator[CheckpointFormat]:
        """The formats a file may be of, the likeliest first; the last is always the fallback.

        None comes twice.

        ``head`` holds the file's first 4096 bytes (all, if it is shorter), ``suffix`` is lower-case
        with its dot. Content decides, then the suffix: a file whose suffix is a format's own but
        whose content is not is a broken one of that format. When the first format's ``scan``
        refuses the file, it is broken; the others say how else it could be seen.
        """
        specific = [name for name, row in tables.FORMATS.items() if not row.generic and row.sniffed]
        seen = set[str]()
        for name in specific:
            starts = tables.FORMATS[name].starts
            if (not starts or head.startswith(starts)) and self.checkpoint_format(name).sniff(head):
                seen.add(name)
                yield self.checkpoint_format(name)
        plugins = (
            []
            if seen
            else [
                cast("CheckpointFormat", row.value)
                for row in self._rows(_FORMAT)
                if row.provider != BUILT_IN
            ]
        )
        for plugin in plugins:
            if self._sniffs(plugin, head):
                seen.add(plugin.name)
                yield plugin
        for name in specific:
            row = tables.FORMATS[name]
            if name not in seen and suffix in row.suffixes and head.startswith(row.magic):
                yield self.checkpoint_format(name)
        yield from (
            plugin for plugin in plugins if plugin.name not in seen and suffix in plugin.suffixes
        )
        for name, row in tables.FORMATS.items():
            if row.generic and self.checkpoint_format(name).sniff(head):
                yield self.checkpoint_format(name)

    def update(self, name: str) -> Update:
        """The update that manifests call ``name``; :class:`PluginError` if neither built in nor
        installed.
        """
        if name in tables.UPDATES:
            return cast("Update", self._built_in(_UPDATE, name, tables.update))
        return cast("Update", self._named(_UPDATE, name))

    def updates(self) -> tuple[Update, ...]:
        """All updates, the built-in ones first."""
        return tuple(cast("Update", row.value) for row in self._rows(_UPDATE))

    def unknown_updates(self, names: Iterable[str]) -> list[str]:
        """Those of the updates ``names`` that are neither built in nor installed."""
        unknown = []
        for name in sorted(set(names).difference(tables.UPDATES)):
            try:
                self.update(name)
            except PluginError:
                unknown.append(name)
        return unknown

    def require_updates(self, names: Iterable[str]) -> None:
        """:class:`PluginError`, with all updates that are not known here, unless all of ``names``
        are.
        """
        unknown = self.unknown_updates(names)
        if unknown:
            raise PluginError(unknown_text(unknown))

    def added_updates(self) -> tuple[Update, ...]:
        """The updates of plugins alone; where no plugin is installed, nothing is imported to find
        that out.
        """
        if self._load() is None:
            return ()
        return tuple(
            cast("Update", row.value) for row in self._rows(_UPDATE) if row.provider != BUILT_IN
        )

    def merge_strategy(self, name: str) -> MergeStrategy:
        """The strategy called ``name``; :class:`PluginError`, with the names there are, if there is
        none.
        """
        return cast("MergeStrategy", self._named(_STRATEGY, name))

    def merge_strategies(self) -> tuple[MergeStrategy, ...]:
        """All merge strategies, the built-in ones first."""
        return tuple(cast("MergeStrategy", row.value) for row in self._rows(_STRATEGY))

    def statistics(self) -> Mapping[str, Combination]:
        """The names of companion files that merge strategies use, and how they combine.

        Of strategies that declare one statistic differently, the first counts; what is built in
        comes first.
        """
        found = dict(tables.STATISTICS)
        for row in self._rows(_STRATEGY) if self._load() is not None else ():
            for name, how in statistics_of(cast("MergeStrategy", row.value)).items():
                found.setdefault(name, how)
        return found

    def unit_kinds(self) -> tuple[UnitKind, ...]:
        """All kinds of units, the built-in ones first."""
        return tuple(cast("UnitKind", row.value) for row in self._rows(_UNIT))

    def commands(self) -> Mapping[str, click.Command]:
        """The commands that plugins add, by name."""
        return {row.name: cast("click.Command", row.value) for row in self._rows(_COMMAND)}

    def loaded(self) -> tuple[Registered, ...]:
        """Everything that is registered, kind by kind; two rows of one kind and name are a clash,
        which this does not raise.
        """
        return tuple(row for kind in _KINDS for row in self._all_rows(kind))

    def _sniffs(self, plugin: CheckpointFormat, head: bytes) -> bool:
        try:
            return bool(plugin.sniff(head))
        except Exception as error:
            # One plugin's mistake must not keep other files from being added
            self._warn(
                f"checkpoint format {plugin.name!r} cannot tell whether a file is its own:"
                f" {_reason(error)}"
            )
            return False

    def _built_in(self, kind: _Kind, name: str, make: Callable[[str], object]) -> object:
        try:
            return self._made[kind, name]
        except KeyError:
            return self._made.setdefault((kind, name), make(name))

    def _all_built_in(self, kind: _Kind) -> Iterable[object]:
        """What the built-in plugin's hooks return, without importing pluggy."""
        if kind is _FORMAT:
            return [self.checkpoint_format(name) for name in tables.FORMATS]
        if kind is _UPDATE:
            return [self.update(name) for name in tables.UPDATES]
        if kind is _UNIT:
            return tables.unit_kinds()
        return tables.merge_strategies() if kind is _STRATEGY else ()

    def _named(self, kind: _Kind, name: str) -> object:
        rows = self._rows(kind)
        for row in rows:
            if row.name == name:
                return row.value
        owners = [row.provider for row in self._all_rows(kind) if row.name == name]
        if owners:
            raise PluginError(_clash(kind, name, owners))
        if kind is _STRATEGY:
            known = [row.name for row in rows]
            hint = did_you_mean(name, known) or f"; there are: {', '.join(known)}"
            raise PluginError(f"there is no merge strategy {name!a}{hint}")
        raise PluginError(
            f"{kind.title} {name!a} is neither built in nor offered by a plugin installed for"
            f" {sys.executable}; install the package that provides it there ('git theta plugins',"
            " run where the file was committed, names it)"
        )

    def _rows(self, kind: _Kind) -> tuple[Registered, ...]:
        """What is registered of one kind, in order.

        Of a name that two plugins use, neither: no rule could say which is meant.

        What is built in keeps its name. Each clash is warned of once; everything else works.
        """
        rows = self._all_rows(kind)
        owners: dict[str, list[str]] = {}
        for row in rows:
            owners.setdefault(row.name, []).append(row.provider)
        twice = {name for name, providers in owners.items() if len(providers) > 1}
        for name in sorted(twice):
            if (kind, name) not in self._warned:
                self._warned.add((kind, name))
                self._warn(_clash(kind, name, owners[name]))
        return (
            tuple(row for row in rows if row.name not in twice or row.provider == BUILT_IN)
            if twice
            else rows
        )

    def _all_rows(self, kind: _Kind) -> tuple[Registered, ...]:
        with self._lock:
            if kind not in self._listed:
                self._listed[kind] = tuple(self._collect(kind))
            return self._listed[kind]

    def _collect(self, kind: _Kind) -> Iterator[Registered]:
        for provider, value in self._provided(kind):
            problem = _problem(kind, value)
            if problem:
                self._warn(f"plugin {provider}: a {kind.title} is ignored: {problem}")
                continue
            name = str(value.name)  # type: ignore[attr-defined]  # _problem has checked it
            yield Registered(kind.title, name, provider, _module(value), value)

    def _provided(self, kind: _Kind) -> Iterator[tuple[str, object]]:
        """What each plugin returns for one hook, with its provider: the built-in ones first, then
        in the order of registration.
        """
        manager = self._load()
        if manager is None:
            yield from ((BUILT_IN, value) for value in self._all_built_in(kind))
            return
        hooks = {
            hook.plugin_name: hook for hook in getattr(manager.hook, kind.hook).get_hookimpls()
        }
        for name, provider in self._providers.items():
            if name in hooks:
                try:
                    values = list(hooks[name].function())
                except Exception as error:
                    if provider == BUILT_IN:
                        raise
                    self._warn(f"plugin {provider} does not work and is ignored: {_reason(error)}")
                    continue
                yield from ((provider, value) for value in values)

    def _load(self, needed: bool = False) -> pluggy.PluginManager | None:
        """The plugin manager with every plugin in it; None when there is no plugin and it is not
        ``needed``.
        """
        with self._lock:
            if self._offers is None:
                self._offers = self._find()
            if self._manager is None and (needed or self._offers):
                import pluggy

                from git_theta.plugins import builtin_plugin, hookspecs

                self._manager = pluggy.PluginManager("git_theta")
                self._manager.add_hookspecs(hookspecs)
                self._add(self._manager, builtin_plugin, "git-theta", BUILT_IN)
                for offer in self._offers:
                    try:
                        plugin = offer.entry_point.load()
                    except (Exception, SystemExit) as error:
                        self._warn(
                            f"plugin {offer.provider} cannot be imported and is ignored:"
                            f" {_reason(error)}"
                        )
                        continue
                    self._add(
                        self._manager,
                        plugin,
                        f"{offer.provider} {offer.entry_point.name}",
                        offer.provider,
                    )
            return self._manager

    def _add(self, manager: pluggy.PluginManager, plugin: object, name: str, provider: str) -> None:
        if manager.is_registered(plugin):
            return
        import pluggy

        try:
            manager.register(plugin, name)
        except (pluggy.PluginValidationError, ValueError) as error:
            self._warn(
                f"plugin {provider} does not fit this Git-Theta and is ignored: {_reason(error)}"
            )
            return
        self._providers[name] = provider
        for hook in manager.get_hookcallers(plugin) or []:
            if not hook.has_spec():
                self._warn(
                    f"plugin {provider} implements {hook.name}, a hook that this Git-Theta does not"
                    " have"
                )


def _clash(kind: _Kind, name: str, owners: Sequence[str]) -> str:
    what = (
        "the built-in one is used"
        if BUILT_IN in owners
        else "neither is used until one of them is uninstalled"
    )
    article = "an" if kind is _UPDATE else "a"
    return (
        f"two plugins provide {article} {kind.title} called {name!r}: {' and '.join(owners)};"
        f" {what}"
    )


def unknown_text(names: Sequence[str]) -> str:
    """That updates are not known here, and what to do."""
    shown = ", ".join(f"'{name}'" for name in names)
    return (
        f"tensors are stored as {shown}, unknown to Git-Theta {__version__} as it is installed for"
        f" {sys.executable}; upgrade it, or install the plugin that provides"
        f" {'them' if len(names) > 1 else 'it'} ('git theta plugins', run where the file was"
        " committed, names it)"
    )


def _problem(kind: _Kind, value: object) -> str:
    lacking = [attribute for attribute in kind.attributes if not hasattr(value, attribute)]
    if isinstance(value, type):
        return f"{value.__qualname__} is a class; register an instance of it"
    if lacking:
        return f"{type(value).__qualname__} lacks {', '.join(lacking)}"
    name = getattr(value, "name", None)
    if not isinstance(name, str) or not _WORD.match(name):
        return f"its name {name!a} must be a lower-case word of letters, digits, '-' and '_'"
    if isinstance(value, MeantFor) and value.meant_for not in get_args(Change):
        return f"its meant_for must be one of {', '.join(get_args(Change))}"
    if kind is _STRATEGY and not _fits(getattr(value, "statistics", {})):
        return "its statistics must map lower-case words to 'sum', 'weighted' or 'mean'"
    return ""


def _fits(statistics: object) -> bool:
    """Whether a strategy declares its statistics as
    :class:`~git_theta.core.contracts.UsesStatistics` says.
    """
    return isinstance(statistics, Mapping) and all(
        isinstance(name, str) and _WORD.match(name) and how in (*tables.COMBINING,)
        for name, how in statistics.items()
    )


def _module(value: object) -> str:
    # A click command's own function says more than click's class
    function = getattr(value, "callback", None)
    return str(getattr(function, "__module__", None) or type(value).__module__)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _warn(line: str) -> None:
    print(f"git-theta: warning: {line}", file=sys.stderr)


_registry = Registry(discovery.find, _warn)
register = _registry.register
checkpoint_format = _registry.checkpoint_format
checkpoint_formats = _registry.checkpoint_formats
fallback = _registry.fallback
known_format = _registry.known_format
knows_tensors = _registry.knows_tensors
scan = _registry.scan
detect = _registry.detect
update = _registry.update
updates = _registry.updates
added_updates = _registry.added_updates
unknown_updates = _registry.unknown_updates
require_updates = _registry.require_updates
merge_strategy = _registry.merge_strategy
merge_strategies = _registry.merge_strategies
statistics = _registry.statistics
unit_kinds = _registry.unit_kinds
commands = _registry.commands
loaded = _registry.loaded
