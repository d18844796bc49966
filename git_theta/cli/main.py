"""The click group: commands by name, each imported only when it runs."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, cast

import click

from git_theta import __version__
from git_theta.cli.output import write_verbatim
from git_theta.core.names import did_you_mean, display

# Section, then command: where it is, and its line in the overview (a test holds it against the
# command's own help).
COMMANDS = {
    "Set up": {
        "install": (
            "git_theta.cli.commands.setup.cmd_install:install",
            "Configure git to use Git-Theta.",
        ),
        "uninstall": (
            "git_theta.cli.commands.setup.cmd_install:uninstall",
            "Remove what 'install' configured.",
        ),
        "track": (
            "git_theta.cli.commands.setup.cmd_track:track",
            "Have files stored by Git-Theta, or list those that are.",
        ),
        "untrack": (
            "git_theta.cli.commands.setup.cmd_track:untrack",
            "Stop having files stored by Git-Theta.",
        ),
    },
    "Work": {
        "add": (
            "git_theta.cli.commands.edit.cmd_add:add",
            "Stage files, or a change given as factors or an adapter.",
        ),
        "checkout": (
            "git_theta.cli.commands.edit.cmd_checkout:checkout",
            "Write models into the working tree.",
        ),
        "convert": (
            "git_theta.cli.commands.edit.cmd_convert:convert",
            "Write a checkpoint as a file of another format.",
        ),
    },
    "Merge": {
        "merge": (
            "git_theta.cli.commands.merge.cmd_merge:merge",
            "Merge branches, tensor by tensor, by a strategy.",
        ),
        "resolve": (
            "git_theta.cli.commands.merge.cmd_resolve:resolve",
            "Settle what a merge left in conflict.",
        ),
        "strategies": (
            "git_theta.cli.commands.merge.cmd_strategies:strategies",
            "List the merge strategies, with their options.",
        ),
        "verify-merge": (
            "git_theta.cli.commands.merge.cmd_verify_merge:verify_merge",
            "Compute a recorded merge again and compare.",
        ),
    },
    "Look": {
        "ls-files": (
            "git_theta.cli.commands.inspect.cmd_ls_files:ls_files",
            "List the tracked models with their sizes.",
        ),
        "show": (
            "git_theta.cli.commands.inspect.cmd_show:show",
            "Describe one version of a model.",
        ),
        "diff": (
            "git_theta.cli.commands.inspect.cmd_diff:diff",
            "Show how models changed, tensor by tensor.",
        ),
        "log": (
            "git_theta.cli.commands.inspect.cmd_log:log",
            "Show which commits changed a model, and how.",
        ),
        "blame": (
            "git_theta.cli.commands.inspect.cmd_log:blame",
            "Show for each tensor the commit that last changed it.",
        ),
        "env": (
            "git_theta.cli.commands.setup.cmd_env:env",
            "Show versions, settings, and what is missing.",
        ),
        "plugins": (
            "git_theta.cli.commands.setup.cmd_plugins:plugins",
            "List formats, updates and merge strategies.",
        ),
    },
    "Share": {
        "push": (
            "git_theta.cli.commands.share.cmd_push:push",
            "Send models' objects to a remote by hand.",
        ),
        "verify-push": (
            "git_theta.cli.commands.share.cmd_verify_push:verify_push",
            "Refuse commits with incomplete models, on a server or in CI.",
        ),
        "fetch": (
            "git_theta.cli.commands.share.cmd_fetch:fetch",
            "Bring the objects that models need into the local store.",
        ),
        "pull": (
            "git_theta.cli.commands.share.cmd_fetch:pull",
            "Fetch what the checked-out commit needs and write its models.",
        ),
        "remote": (
            "git_theta.cli.commands.share.cmd_remote:remote",
            "Say where a remote's objects are kept, or list it.",
        ),
    },
    "Clusters": {
        "export": (
            "git_theta.cli.commands.edit.cmd_export:export",
            "Write a model's tensors as zarr3 arrays.",
        ),
        "import": (
            "git_theta.cli.commands.edit.cmd_export:import_",
            "Make a file of what 'git theta export' wrote.",
        ),
    },
    "Look after the store": {
        "fsck": ("git_theta.cli.commands.store.cmd_fsck:fsck", "Check that models can be rebuilt."),
        "prune": (
            "git_theta.cli.commands.store.cmd_prune:prune",
            "Delete objects that nothing needs from the local store.",
        ),
        "migrate": (
            "git_theta.cli.commands.store.cmd_migrate:migrate",
            "Rewrite history to Git-Theta, or back.",
        ),
    },
    "Plumbing": {
        "pre-push": (
            "git_theta.cli.commands.share.cmd_push:pre_push",
            "Send the objects of commits that git is about to push.",
        ),
        "transfer-agent": (
            "git_theta.cli.commands.plumbing.cmd_transfer_agent:transfer_agent",
            "Move ordinary Git LFS files to and from object storage.",
        ),
        "merge-driver": (
            "git_theta.cli.commands.plumbing.cmd_merge_driver:merge_driver",
            "The merge driver that git runs by itself.",
        ),
        "diff-driver": (
            "git_theta.cli.commands.plumbing.cmd_diff_driver:diff_driver",
            "The diff driver that git runs by itself.",
        ),
        "filter-process": (
            "git_theta.cli.commands.plumbing.cmd_filter_process:filter_process",
            "The filter that git runs by itself.",
        ),
    },
}
TARGETS = {name: target for section in COMMANDS.values() for name, (target, _) in section.items()}
_START = """
git theta install                        # once per user
git theta track "*.safetensors" "*.pt"   # in a repository
git add .gitattributes model.safetensors
git commit -m "First version"
"""
_NAME = "git theta"
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class CommandTable(click.Group):
    """Commands of the table above, then those of plugins."""

    # Part of click's interface
    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names: ours in the order of the table."""
        return [*TARGETS, *_plugin_commands()]

    # ctx is part of click's interface.
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None when nobody provides it."""
        if cmd_name in TARGETS:
            return load(cmd_name)
        return _plugin_commands().get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; of a name that does not exist, say which are close."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(
                f"'{display(args[0], 40)}' is not a git theta"
                f" command{did_you_mean(args[0], self.list_commands(ctx))}"
            )
        return super().resolve_command(ctx, args)

    # ctx is part of click's interface.
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview, by section, without importing our commands."""
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([(name, summary) for name, (_, summary) in commands.items()])
        added = _plugin_commands()
        if added:
            with formatter.section("From plugins"):
                formatter.write_dl(
                    [(name, command.get_short_help_str(80)) for name, command in added.items()]
                )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """How to start, then where to read more."""
        write_verbatim(formatter, "To start", _START)
        super().format_epilog(ctx, formatter)


def load(name: str) -> click.Command:
    """One of our commands, imported now."""
    module, _, attribute = TARGETS[name].partition(":")
    return cast(click.Command, getattr(import_module(module), attribute))


def _plugin_commands() -> dict[str, click.Command]:
    from git_theta.plugins import registry

    return dict(registry.commands())


@click.group(
    cls=CommandTable,
    context_settings=CONTEXT,
    epilog="'git theta help COMMAND' tells more about a command.",
)
@click.version_option(
    __version__, "--version", prog_name="git-theta", message="%(prog)s version %(version)s"
)
def group() -> None:
    """Version control for machine-learning models.

    Git stores a tracked checkpoint as a short text, one line per tensor; the tensors are stored
    once each, beside Git. What you check out is what you added, byte for byte.
    """


def run(arguments: list[str]) -> int:
    """Run ``git theta ARGUMENTS``; the exit code. Errors of ours are left to the caller."""
    if not arguments:
        click.echo(group.get_help(click.Context(group, info_name=_NAME, **CONTEXT)), err=True)
        return 2
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "-h"]
    try:
        result = group.main(arguments, prog_name=_NAME, standalone_mode=False)
    except click.UsageError as error:
        command = [word for word in arguments[:1] if not word.startswith("-")]
        where = error.ctx.command_path if error.ctx else " ".join([_NAME, *command])
        click.echo(f"git-theta: {error.format_message()}\nSee '{where} -h'.", err=True)
        return error.exit_code
    except SystemExit:  # click's answer to a reader that has gone
        raise BrokenPipeError from None
    except click.Abort:  # click's word for Ctrl-C and for the end of input at a question
        raise KeyboardInterrupt from None
    sys.stdout.flush()
    return result if isinstance(result, int) else 0
