"""The blame on a terminal of any width."""

from __future__ import annotations

import pytest
from making import entry

from git_theta.git.history.commits import Commit
from git_theta.reports.history_tables import blame
from git_theta.reports.table import Style
from git_theta.workflows.comparing.blame import Origin

AUTHOR = "Ada Lovelace"


def origins() -> list[Origin]:
    names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 10, 2)]
    commit = Commit("c" * 40, (), AUTHOR, "", "2026-12-01T04:15:00+00:00", "", "m", None, "b" * 40)
    return [Origin(entry(name), commit, entry(name)) for name in names]


def test_layers_come_in_order() -> None:
    lines = blame(origins(), Style())
    assert [line.rpartition("layers.")[2].split(".")[0] for line in lines] == ["0", "2", "10"]


@pytest.mark.parametrize(
    ("width", "told"), [(61, []), (80, [AUTHOR]), (200, [AUTHOR, "dense"]), (None, [AUTHOR])]
)
def test_columns_make_room_for_names(width: int | None, told: list[str]) -> None:
    lines = blame(origins(), Style(width))
    for line in lines:
        assert line.startswith("cccccccc (")
        assert "2026-12-01) " in line
        assert all(word in line for word in told)
        assert width is None or len(line) <= width
    assert lines[2].endswith("model.layers.10.self_attn.q_proj.weight")


@pytest.mark.parametrize("width", [20, 40, 60])
def test_names_are_told_apart_on_a_narrow_screen(width: int) -> None:
    lines = blame(origins(), Style(width))
    assert [line.partition(") ")[2] for line in lines] == [
        f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 2, 10)
    ]
