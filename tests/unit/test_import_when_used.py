"""A module that is only imported once something in it is asked for."""

from __future__ import annotations

import sys
import types
from concurrent.futures import ThreadPoolExecutor

import pytest

from git_theta.__main__ import _import_when_used


@pytest.fixture
def without_colorsys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)


@pytest.mark.usefixtures("without_colorsys")
def test_nothing_is_imported_before_it_is_used() -> None:
    _import_when_used("colorsys")
    import colorsys

    assert type(colorsys) is not types.ModuleType
    assert not hasattr(colorsys, "nothing_of_that_name")
    assert colorsys.rgb_to_hsv(1, 0, 0) == (0.0, 1.0, 1.0)
    assert type(sys.modules["colorsys"]) is types.ModuleType
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = colorsys.nothing_of_that_name  # type: ignore[attr-defined]


@pytest.mark.usefixtures("without_colorsys")
def test_it_is_the_same_for_every_thread() -> None:
    for _ in range(20):
        sys.modules.pop("colorsys", None)
        _import_when_used("colorsys")
        import colorsys

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda module: module.rgb_to_hsv, [colorsys] * 64))
        assert all(function is found[0] for function in found)


def test_what_is_imported_already_stays() -> None:
    before = sys.modules["types"]
    _import_when_used("types")
    assert sys.modules["types"] is before
