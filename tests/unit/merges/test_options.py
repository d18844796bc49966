from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.contracts import MergeCase, Option
from git_theta.errors import MergeError
from git_theta.merges.builtin_strategies import strategies
from git_theta.merges.options import (
    REQUIRED,
    allowed,
    complete,
    describe,
    for_sides,
    lines,
    number,
    parse,
    per_side,
)

STRATEGIES = {strategy.name: strategy for strategy in strategies()}


@dataclass
class Any:
    """A strategy with an option of each kind, as a plugin might have one."""

    name: str = "any"
    summary: str = "for tests"
    options: tuple[Option, ...] = (
        Option("share", "float", 0.5, "a share", minimum=0, maximum=1),
        Option("steps", "int", 3, "steps", minimum=1),
        Option("fast", "bool", False, "hurry"),
        Option("mode", "str", "a", "a mode", choices=("a", "b")),
        Option("label", "str", "", "any word"),
        Option("weights", "floats", None, "weights", minimum=0, maximum=10),
        Option("must", "float", REQUIRED, "no default", maximum=7),
    )
    needs_base: bool = False
    min_sides: int = 2
    max_sides: int | None = 4

    def merge(self, case: MergeCase, options: object) -> np.ndarray:
        return case.sides[0]


def test_text_becomes_typed_values_and_defaults_fill_the_rest() -> None:
    given = [
        "share=.25",
        "steps=+7",
        "fast=Yes",
        "mode=b",
        "label=a=b c",
        "weights=1, 2.5,3e-1",
        "must=-1",
    ]
    assert parse(Any(), given) == {
        "share": 0.25,
        "steps": 7,
        "fast": True,
        "mode": "b",
        "label": "a=b c",
        "weights": (1.0, 2.5, 0.3),
        "must": -1.0,
        "rows": "same",
    }
    assert parse(Any(), ["must=0", "rows=common"])["weights"] is None
    assert parse(Any(), ["must=0"])["share"] == 0.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("share", "needs a value"),
        ("share=2", "0 to 1, not '2'"),
        ("share=-0.1", "0 to 1"),
        ("share=nan", "a number"),
        ("share=inf", "a number"),
        ("share=1e999", "0 to 1"),
        ("share=0x1", "a number"),
        ("share=1_0", "a number"),
        ("share=\u0661", "a number"),
        ("share=", "a number"),
        ("share=" + "1" * 100000, "a number"),
        ("steps=1.5", "a whole number"),
        ("steps=0", "at least 1"),
        ("steps=" + "9" * 5000, "a whole number"),
        ("fast=maybe", "true or false"),
        ("mode=c", "a or b, not 'c'"),
        ("weights=1,,2", "numbers with commas"),
        ("weights=1,x", "numbers with commas"),
        ("weights=1,11", "0 to 10, not '11'"),
        ("weights=" + "1," * 5000, "more than"),
        ("must=8", "at most 7"),
        ("shar=1", "did you mean 'share'?"),
        ("zzz=1", "it has: share, steps"),
        ("\x1b[31m=1", "no option '\\x1b[31m'"),
    ],
)
def test_wrong_texts_are_refused(text: str, words: str) -> None:
    with pytest.raises(MergeError) as error:
        parse(Any(), [text, "must=0"] if "must" not in text else [text])
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_repeated_and_missing_options() -> None:
    with pytest.raises(MergeError, match="given twice"):
        parse(Any(), ["must=1", "share=1", "share=1"])
    with pytest.raises(MergeError, match=r"needs option must \(no default\): add -o must="):
        parse(Any(), [])
    with pytest.raises(MergeError, match="needs option t"):
        parse(STRATEGIES["nearswap"], [])


@pytest.mark.parametrize(
    "given",
    [
        {"share": "0.5"},
        {"share": True},
        {"share": 10**400},
        {"steps": 2.0},
        {"steps": True},
        {"fast": 1},
        {"mode": None},
        {"weights": 1.0},
        {"weights": ["1"]},
    ],
)
def test_values_from_configuration_must_have_the_options_type(given: dict[str, object]) -> None:
    with pytest.raises(MergeError, match="must be"):
        complete("any", Any().options, {"must": 0, **given})


def test_configuration_may_write_whole_numbers_and_lists() -> None:
    done = complete("any", Any().options, {"must": 1, "share": 1, "weights": [1, 2]})
    assert (done["share"], done["weights"], done["must"]) == (1.0, (1.0, 2.0), 1.0)
    assert complete("any", Any().options, done) == done


@given(st.text(max_size=30))
def test_any_text_is_understood_or_refused(text: str) -> None:
    for strategy in (Any(), STRATEGIES["ties"]):
        try:
            parse(strategy, [text, "must=0"] if strategy.name == "any" else [text])
        except MergeError as error:
            message = str(error)
        else:
            message = ""
        assert "\n" not in message


@given(
    st.floats(0, 1),
    st.integers(1, 10**15),
    st.booleans(),
    st.lists(st.floats(0, 10), min_size=1, max_size=5),
)
def test_written_options_read_back(
    share: float, steps: int, fast: bool, weights: list[float]
) -> None:
    texts = [
        f"share={share!r}",
        f"steps={steps}",
        f"fast={str(fast).lower()}",
        "weights=" + ",".join(map(repr, weights)),
        "must=0",
    ]
    done = parse(Any(), texts)
    assert (done["share"], done["steps"], done["fast"], done["weights"]) == (
        share,
        steps,
        fast,
        tuple(weights),
    )


def test_lists_with_a_value_a_side_are_cut_to_the_sides_of_a_case() -> None:
    assert for_sides({"weights": (1.0, 2.0, 3.0), "lambda": 1.0}, [0, 2], 3) == {
        "weights": (1.0, 3.0),
        "lambda": 1.0,
    }
    assert for_sides({"weights": None}, [0], 3) == {"weights": None}
    with pytest.raises(MergeError, match="2 values for 3 sides"):
        for_sides({"weights": (1.0, 2.0)}, [0], 3)
    assert per_side({}, "weights", 2) is None
    with pytest.raises(MergeError, match="must be a number"):
        number({"t": True}, "t")


def test_descriptions() -> None:
    for strategy in strategies():
        json.dumps(describe(strategy))
        text = lines(strategy)
        assert text[0].startswith(f"{strategy.name}: ")
        assert len(text) == 1 + len(strategy.options)
        assert all(line.startswith("    ") and "\n" not in line for line in text[1:])
    assert lines(STRATEGIES["nearswap"])[1].startswith(
        "    t: float, 1e-300 to 1e+300 (required): "
    )
    assert "needs a base" in lines(STRATEGIES["ties"])[0]
    assert "verified to a tolerance" in lines(STRATEGIES["permute"])[0]
    assert describe(STRATEGIES["permute"])["whole_model"] is True
    assert describe(Any())["reproducible"] is True
    assert "2 to 4 sides" in lines(Any())[0]
    assert [allowed(option) for option in Any().options] == [
        "0 to 1",
        "at least 1",
        "",
        "a or b",
        "",
        "0 to 10",
        "at most 7",
    ]
