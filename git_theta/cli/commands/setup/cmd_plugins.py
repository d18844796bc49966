"""``git theta plugins``: what is registered, and where it comes from."""

from __future__ import annotations

from collections import Counter

import click

from git_theta.cli.output import Command, page, path, table, warn


@click.command(cls=Command, examples="git theta plugins\ngit theta plugins --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> int:
    """List checkpoint formats, updates, merge strategies, kinds of units and commands, and the
    packages they come from.

    Other packages add to them: whatever a package installed beside Git-Theta offers under the entry
    point 'git_theta' is loaded. A name that two packages use is an error until one of them is
    uninstalled.
    """
    from git_theta.cli import builtin_commands
    from git_theta.plugins import registry

    registry.register(builtin_commands, registry.BUILT_IN)
    rows = registry.loaded()
    if as_json:
        import json

        click.echo(
            json.dumps(
                [
                    {"kind": r.kind, "name": r.name, "provider": r.provider, "module": r.module}
                    for r in rows
                ],
                indent=2,
            )
        )
    else:
        page(
            table(
                [(row.kind, row.name, path(row.provider), row.module) for row in rows],
                ("kind", "name", "from", "module"),
            )
        )
    twice = [
        key for key, count in Counter((row.kind, row.name) for row in rows).items() if count > 1
    ]
    for kind, name in twice:
        owners = " and ".join(
            path(row.provider) for row in rows if (row.kind, row.name) == (kind, name)
        )
        warn(
            f"two plugins provide {'an' if kind == 'update' else 'a'} {kind} called {name}:"
            f" {owners}; uninstall one of them"
        )
    return 1 if twice else 0
