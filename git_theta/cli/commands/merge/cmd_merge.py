"""``git theta merge``: ``git merge`` with a strategy for tensors that changed on both sides."""

from __future__ import annotations

import click

from git_theta.cli.output import Command
from git_theta.git.writing.merge_trees import merge as git_merge


@click.command(
    cls=Command,
    context_settings={"ignore_unknown_options": True},
    examples="""
git theta merge fine-tuned -s average
git theta merge task-a task-b task-c -s ties -o density=0.3 -m "Three tasks"
git theta merge fine-tuned -s slerp -o t=0.3 --params '*.weight' --no-commit
git theta merge fine-tuned -s task_arithmetic --sweep lambda=0:1:0.1 --eval './score {checkpoint}'
git theta merge fine-tuned --write-models /tmp/three   # hand the versions to code of your own
""",
)
@click.argument("branches", metavar="BRANCH...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "-s",
    "--strategy",
    "strategies",
    metavar="NAME",
    multiple=True,
    help="The strategy for tensors in conflict.",
)
@click.option(
    "-o", "--option", "words", metavar="KEY=VALUE", multiple=True, help="An option of the strategy."
)
@click.option(
    "--params",
    metavar="GLOB",
    default="*",
    show_default=True,
    help="Only tensors whose name matches; others follow .theta.toml.",
)
@click.option(
    "--by-name",
    is_flag=True,
    help="Merge one model in two file formats (.pt and .safetensors) by tensor name.",
)
@click.option("-m", "--message", help="The commit's message.")
@click.option("-F", "--file", metavar="FILE", help="Read the commit's message from a file.")
@click.option(
    "-X",
    "--strategy-option",
    "side_options",
    metavar="OPTION",
    multiple=True,
    help="Hand OPTION to git. Without -s, 'ours' and 'theirs' decide tensors, too.",
)
@click.option(
    "--sweep",
    "sweeps",
    metavar="KEY=FROM:TO:STEP",
    multiple=True,
    help="Try a range of values for an option; needs --eval.",
)
@click.option(
    "--eval",
    "evaluation",
    metavar="COMMAND",
    help="Score a candidate; {checkpoint} is its file. The last number printed counts.",
)
@click.option(
    "--minimize", is_flag=True, help="The smallest score is the best (default: the largest)."
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="With --eval: print the scores and merge nothing. Else: say what would conflict.",
)
@click.option(
    "--write-models",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Write base, ours and theirs of each conflict to DIR.",
)
@click.option("--json", "as_json", is_flag=True, help="Print scores as JSON.")
def merge(
    branches: tuple[str, ...],
    strategies: tuple[str, ...],
    words: tuple[str, ...],
    params: str,
    by_name: bool,
    message: str | None,
    file: str | None,
    side_options: tuple[str, ...],
    sweeps: tuple[str, ...],
    evaluation: str | None,
    minimize: bool,
    dry_run: bool,
    write_models: str | None,
    as_json: bool,
) -> int:
    """Merge branches as 'git merge' does, and tensors that changed on several sides by a strategy.

    Options that are not listed here are handed to 'git merge'. Without -s, the rules in a committed
    .theta.toml apply, then the setting theta.merge.strategy; without any, tensors changed on
    several sides are a conflict, and 'git theta resolve' goes on. Several branches make one commit
    with as many parents.
    """
    from git_theta.cli import targets
    from git_theta.cli.commands.merge import merge_runs

    names = [word for word in branches if not word.startswith("-")]
    passed = [word for word in branches if word.startswith("-")]
    if not names and not {"--abort", "--continue", "--quit"}.isdisjoint(passed):
        return git_merge(passed)
    passed += [word for option in side_options for word in ("-X", option)] + (
        ["-F", file] if file is not None else []
    )
    if not names:
        raise click.UsageError("name at least one branch to merge")
    chosen = [name for word in strategies for name in word.split(",")]
    if (sweeps or len(chosen) > 1) and not evaluation:
        raise click.UsageError("--sweep, and more than one strategy, need --eval to choose by")
    if words and not chosen:
        raise click.UsageError("-o belongs to -s")
    merge_runs.check_side_options(side_options, chosen)
    sides = [option for option in side_options if option in ("ours", "theirs")]
    if sides and not chosen and not evaluation:
        chosen = sides[-1:]
    request = merge_runs.Request(
        tuple(names), tuple(chosen), words, params, message, tuple(passed), by_name
    )
    if evaluation:
        return merge_runs.by_score(request, sweeps, evaluation, minimize, dry_run, as_json)
    if write_models is not None:
        targets.check(write_models, "--write-models names a folder to write")
        return merge_runs.write_models(request, write_models)
    return merge_runs.run_merge(request, dry_run)
