"""``git theta strategies``: the ways to merge a tensor that changed on several sides."""

from __future__ import annotations

import json

import click

from git_theta.cli.output import Command, bold, page


@click.command(
    cls=Command,
    examples="""
git theta strategies            # all of them, a line each
git theta strategies ties       # one, with its options
git theta merge fine-tuned -s ties -o density=0.3
""",
)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def strategies(names: tuple[str, ...], as_json: bool) -> int:
    """List merge strategies, or describe some with their options, defaults and ranges."""
    from git_theta.merges import options
    from git_theta.plugins import registry

    found = [registry.merge_strategy(name) for name in names] or list(registry.merge_strategies())
    if as_json:
        click.echo(json.dumps([options.describe(strategy) for strategy in found], indent=2))
        return 0
    lines: list[str] = []
    for strategy in found:
        first, *more = options.lines(strategy)
        name, _, rest = first.partition(": ")
        lines.append(f"{bold(name)}: {rest}")
        if names:
            lines += more
    page(lines)
    return 0
