from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.names import display, escape, shell_word, unescape
from git_theta.errors import ManifestError

ANY = st.text(st.characters(), max_size=30)
EVEN_SURROGATES = st.text(st.characters(codec=None, categories=None), max_size=30) | st.text(
    st.sampled_from("\ud800\udfff\udc80a\\x \n\x1b"), max_size=9
)


@given(ANY | EVEN_SURROGATES)
def test_unescape_is_the_inverse_of_escape(name: str) -> None:
    text = escape(name)
    assert unescape(text) == name
    assert text
    assert all("!" <= character <= "~" for character in text)


@given(ANY | EVEN_SURROGATES)
def test_displayed_names_are_harmless(name: str) -> None:
    for width in (0, 1, 10):
        shown = display(name, width)
        assert all(" " <= character <= "~" for character in shown)
        assert not width or len(shown) <= width


@given(st.text(st.sampled_from("\\xu{}0123456789abcdefABCDEFe \x7fé"), max_size=14))
def test_unescape_takes_only_what_escape_writes(text: str) -> None:
    try:
        name = unescape(text)
    except ManifestError:
        return
    assert escape(name) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model.layers.0.weight", "model.layers.0.weight"),
        ("", "\\e"),
        ("a b", "a\\x20b"),
        ("tab\tline\n", "tab\\x09line\\x0a"),
        ("back\\slash", "back\\x5cslash"),
        ('quote"', "quote\\x22"),
        ("é", "\\xe9"),
        ("漢", "\\u{6f22}"),
        ("😀", "\\u{1f600}"),
        ("\ud800", "\\u{d800}"),
        ("\x00\x7f\x1b[31m", "\\x00\\x7f\\x1b[31m"),
        ("../../etc/x", "../../etc/x"),
    ],
)
def test_examples(name: str, text: str) -> None:
    assert escape(name) == text
    assert unescape(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\\",
        "\\x4",
        "\\x41",
        "\\x4G",
        "\\xE9",
        "\\u{41}",
        "\\u{0041}",
        "\\u{110000}",
        "\\u{ffffff}",
        "\\e\\e",
        "a\\e",
        "é",
        "\\n",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        unescape(text)


def test_long_names_stay_fast_and_are_cut_in_messages() -> None:
    name = "\n" * 100_000
    assert unescape(escape(name)) == name
    with pytest.raises(ManifestError) as caught:
        unescape("\\" * 100_000)
    assert len(str(caught.value)) < 300


def test_display_keeps_spaces() -> None:
    assert display("a file name.pt") == "a file name.pt"
    assert display(" ") == "\\x20"
    assert display("a  b ") == "a  b "
    assert display("abcdef", 4) == "abc~"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    "name",
    [
        "plain.pt",
        "it's $x `y`.pt",
        "\u043c\u043e\u0434\u0435\u043b\u044c 1.pt",
        "a\nb\x1b[2J'\\0.pt",
        "\udcff7.pt",
    ],
)
def test_words_for_a_shell(name: str) -> None:
    word = shell_word(name)
    assert word.isascii()
    assert word.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout == os.fsencode(name)
