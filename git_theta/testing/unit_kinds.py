"""The contract of unit kinds: what they find is there, whole, and the same in any order of the
tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from git_theta.core import dtypes
from git_theta.core.contracts import UnitKind
from git_theta.core.tensors import Spec
from git_theta.testing.plugin_names import check_name

_SHAPES = ((), (0,), (1,), (7,), (3, 5), (2, 3, 4), (2**31, 2**31))


def check_unit_kind(
    kind: UnitKind, units: Iterable[Mapping[str, Spec]], others: Iterable[Mapping[str, Spec]] = ()
) -> None:
    """Prove as far as trying can that ``kind`` keeps the
    :class:`~git_theta.core.contracts.UnitKind` contract.

    Each of ``units`` holds the tensors (name, type and shape) of one unit, no others; each of
    ``others`` some that are not a unit.

    :class:`AssertionError` names the first thing that is wrong.
    """
    check_name(kind.name)
    assert kind.summary, "summary must say in a line what the unit is"
    assert "\n" not in kind.summary, "summary must be one line"
    beside = {
        f"beside.{number}": Spec(name, shape)
        for number, (name, shape) in enumerate((n, s) for n in dtypes.names() for s in _SHAPES)
    }
    assert not _found(kind, {}), f"{kind.name} found a unit in a model without tensors"
    assert not _found(kind, beside), (
        f"{kind.name} found a unit among tensors of all types and no relation"
    )
    given = list(units)
    assert given, "give at least one unit that the kind finds"
    for tensors in given:
        whole = {frozenset(tensors)}
        for model in (tensors, dict(reversed([*tensors.items()])), {**beside, **tensors}):
            found = _found(kind, model)
            assert found == whole, (
                f"{kind.name} found {_shown(found)} where {_shown(whole)} is the unit"
            )
    for tensors in others:
        found = _found(kind, tensors)
        assert not found, f"{kind.name} found {_shown(found)}, which is not a unit"


def _found(kind: UnitKind, tensors: Mapping[str, Spec]) -> set[frozenset[str]]:
    """The units that ``kind`` finds, those with parts in common joined."""
    try:
        units = [frozenset(names) for names in kind.find(dict(tensors))]
    except Exception as error:
        raise AssertionError(f"{kind.name} raised {type(error).__name__}: {error}") from error
    joined: set[frozenset[str]] = set()
    for names in units:
        assert names <= tensors.keys(), (
            f"{kind.name} named {sorted(names - tensors.keys())}, which the model does not have"
        )
        near = {other for other in joined if other & names}
        joined = (joined - near) | {names.union(*near)}
    return {names for names in joined if len(names) > 1}


def _shown(units: Iterable[frozenset[str]]) -> str:
    return " and ".join(str(sorted(names)) for names in units) or "nothing"
