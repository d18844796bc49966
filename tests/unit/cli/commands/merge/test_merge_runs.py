"""What counts as the score that a command of the user's prints."""

from __future__ import annotations

import pytest

from git_theta.cli.commands.merge.merge_runs import last_number


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("0.93\n", 0.93),
        ("epoch 3: accuracy=0.5, loss=-1.25e-2\n", -0.0125),
        ("accuracy 94.5 %", 94.5),
        ("accuracy is 94.", 94.0),
        (".5", 0.5),
        ("+7", 7.0),
        ("score: 12 (of model2, /tmp/git-theta-5/model.7.safetensors, layer3.weight)", 12.0),
        ("f1 0.25\n/tmp/git-theta-81/m.pt", 0.25),
        ("0.94 (940/1000)", 0.94),
        ("epoch 3 loss nan", None),
        ("accuracy 0.5\nloss: -Infinity\n", None),
        ("1e999", None),
        ("no number", None),
        ("", None),
    ],
)
def test_the_last_number_counts(text: str, score: float | None) -> None:
    assert last_number(text) == score
