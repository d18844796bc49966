"""The manual page tells of every command and option there is."""

from pathlib import Path

import click

from git_theta.cli import main, manual

COMMITTED = Path(__file__).parents[3] / "docs" / "git-theta.1"


def test_the_committed_page_names_every_command_and_option() -> None:
    text = COMMITTED.read_text("utf-8").replace("\\-", "-")
    context = click.Context(main.group, info_name="git theta")
    for name in main.TARGETS:
        command = main.group.get_command(context, name)
        assert command is not None
        section = text.partition(f".B git theta {name}\n")[2].partition("\n.B git theta ")[0]
        assert section, (
            f"git theta {name} is missing: python -m git_theta.cli.manual > docs/git-theta.1"
        )
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert all(option in section for option in parameter.opts), (name, parameter.opts)


def test_the_page_is_plain_troff() -> None:
    page = manual.page()
    assert page.startswith(".TH GIT\\-THETA 1")
    requests = {line.split(" ", 1)[0] for line in page.splitlines() if line.startswith((".", "'"))}
    assert requests <= {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".RS", ".RE", ".nf", ".fi"}


def test_text_cannot_pass_for_a_request() -> None:
    assert manual._plain(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert manual._plain("'x") == "\\&'x"
    assert manual._plain("a\\b-c") == "a\\eb\\-c"
