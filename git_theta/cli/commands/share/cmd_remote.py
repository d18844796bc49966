"""``git theta remote``: where a git remote's objects are."""

from __future__ import annotations

import os
import sys

import click

from git_theta.cli.output import Command, CommandGroup, path, table
from git_theta.errors import UsageError
from git_theta.git.config import config_file, consent, programs, remotes
from git_theta.git.config.remotes import Remote, without_secret
from git_theta.git.repository import Repository, discover

_LFS_AGENT = consent.AGENT[1]
_AGENT_KEY = "lfs.standalonetransferagent"


@click.group(
    cls=CommandGroup,
    invoke_without_command=True,
    examples="""
git theta remote                                        # where the objects of each remote are
git theta remote set origin s3://my-models/project
git theta remote confirm                                # agree to what the repository names
""",
)
@click.pass_context
def remote(context: click.Context) -> None:
    """Say where a remote's objects are kept, or list it.

    A git remote holds commits; models' objects are beside them: at its Git LFS server, in its own
    folder if it is one on this machine, or in object storage named here. Without a subcommand: the
    list.
    """
    if context.invoked_subcommand is None:
        context.invoke(show)


@remote.command("list", cls=Command)
def show() -> None:
    """List the remotes and where their objects are."""
    repository = discover()
    every, offer = remotes.read(repository).every, consent.read(repository)
    rows = []
    for item in every:
        rows += [
            (item.title, path(without_secret(url)), "mirror, read first")
            for url in item.values("thetamirror")
        ]
        own = item.values("thetaurl")
        if own:
            rows.append((item.title, path(without_secret(own[-1])), "object storage"))
        elif offer.storage:
            agreed = (
                ""
                if offer.storage in offer.confirmed
                else "; not confirmed: 'git theta remote confirm'"
            )
            rows.append(
                (
                    item.title,
                    path(without_secret(offer.storage)),
                    f"object storage, named by {consent.FILE}{agreed}",
                )
            )
        elif remotes.local_path(
            item.push_url, remotes.base_folder(repository)
        ) is not None and not offer.server_named(item):
            rows.append((item.title, path(item.push_url), "its own folder"))
        else:
            rows.append((item.title, path(without_secret(item.push_url)), "its Git LFS server"))
    for line in (
        table(rows, ("remote", "objects at", ""))
        if rows
        else ["There is no remote; 'git remote add' makes one."]
    ):
        click.echo(line)


@remote.command(
    "set",
    cls=Command,
    examples="""
git theta remote set origin s3://my-models/project
git theta remote set origin "s3://models/p?endpoint=https://minio.example.com&region=eu-1"
git theta remote set origin https://models.example.com/project --mirror
""",
)
@click.argument("name")
@click.argument("url")
@click.option(
    "--mirror", is_flag=True, help="Fetch from there first; pushes go where they went before."
)
@click.option(
    "--share",
    is_flag=True,
    help=f"Write it into {consent.FILE} too, for everyone who clones (each confirms it once).",
)
@click.option(
    "--with-lfs",
    is_flag=True,
    help="Have ordinary Git LFS files of this repository kept there as well.",
)
def set_(name: str, url: str, mirror: bool, share: bool, with_lfs: bool) -> None:
    """Keep a remote's objects in object storage.

    URL is file:///PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, or http(s)://HOST/PATH, which is
    read-only. Credentials come from your own environment and configuration, as for the AWS and
    Google Cloud tools; none are stored.
    """
    from git_theta.store.storage_url import parse_url

    storage, repository = parse_url(url), discover()
    target = _existing(repository, name)
    if storage.scheme == "file" and not os.path.isdir(storage.path):
        raise UsageError(f"there is no folder {path(storage.path)}; make it, or mount it, first")
    if mirror and with_lfs:
        raise click.UsageError("--with-lfs needs a place to write to, not a mirror")
    if storage.read_only and with_lfs:
        raise click.UsageError("http(s):// is read-only; --with-lfs needs a place to write to")
    if with_lfs and _agent() not in ("", _LFS_AGENT):
        raise UsageError(
            f"Git LFS has another transfer agent here: {path(_agent())} (git config"
            " lfs.standalonetransferagent)"
        )
    key = "thetaMirror" if mirror else "thetaUrl"
    if not mirror or url not in target.values(key):
        give = config_file.add_value if mirror else config_file.set_value
        give("local", f"remote.{target.name}.{key}", url)
    if share:
        _share(repository, "mirror" if mirror else "url", url)
    if with_lfs:
        for key, text in zip(("path", "args"), programs.agent(programs.program()), strict=True):
            config_file.set_value("local", f"lfs.customtransfer.{_LFS_AGENT}.{key}", text)
        config_file.set_value("local", _AGENT_KEY, _LFS_AGENT)
    if mirror:
        click.echo(
            f"Objects of {target.title} are looked for at {path(without_secret(url))} first."
        )
    elif storage.read_only:
        click.echo(
            f"Objects of {target.title} come from {path(without_secret(url))}, which is read-only:"
            " pushes of models to it will fail."
        )
    else:
        click.echo(f"Objects pushed to {target.title} now go to {path(without_secret(url))}.")
        click.echo(
            "For those of commits it has already: git theta fetch --all, then git theta push"
            f" {target.title} --all"
        )
    if share:
        click.echo(f"Now: git add {consent.FILE}")


@remote.command("remove", cls=Command)
@click.argument("name")
@click.argument("url", required=False)
def remove(name: str, url: str | None) -> None:
    """Forget the object storage of a remote, and its mirrors.

    With URL, that one alone. Nothing is deleted there. Objects are then at the remote's Git LFS
    server again.
    """
    repository = discover()
    target = _existing(repository, name)
    found = [
        (key, text)
        for key in ("thetaUrl", "thetaMirror")
        for text in target.values(key)
        if url in (None, text)
    ]
    if not found:
        offer = consent.read(repository)
        if offer.storage or offer.mirrors:
            raise UsageError(
                f"what there is, {consent.FILE} names: 'git config --file {consent.FILE}"
                " --remove-section theta' forgets it"
            )
        raise UsageError(
            f"{target.title} has no object storage{f' {path(url)}' if url else ''}; 'git theta"
            " remote' lists what there is"
        )
    for key, text in found:
        config_file.unset("local", f"remote.{target.name}.{key}", text)
        click.echo(f"{target.title} no longer uses {path(without_secret(text))}.")
    if _agent() == _LFS_AGENT and not any(
        item.values("thetaUrl") for item in remotes.read(repository).every
    ):
        config_file.unset("local", _AGENT_KEY)
        config_file.remove_section("local", f"lfs.customtransfer.{_LFS_AGENT}")


@remote.command("confirm", cls=Command)
@click.argument("url", required=False)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def confirm(url: str | None, yes: bool) -> int:
    """Agree to servers and storage that the repository names.

    A URL in the repository's own .thetaconfig or .lfsconfig is not used before you agreed to it, as
    others chose it. What you agree to is noted in this repository's .git/config; should they change
    the URL, you are asked again.
    """
    repository = discover()
    waiting = consent.read(repository).unconfirmed(list(remotes.read(repository).every))
    if url is not None and url not in waiting:
        raise UsageError(f"the repository does not name {path(url)}, or you agreed to it already")
    chosen = [url] if url is not None else waiting
    if not chosen:
        click.echo("Nothing to confirm.")
        return 0
    agreed = 0
    for item in chosen:
        if yes or _agrees(item):
            consent.confirm(repository, item)
            agreed += 1
    if agreed:
        click.echo(
            "Agreed. 'git theta pull' fetches what is missing (after a clone whose checkout failed:"
            " 'git reset --hard')."
        )
    return 0 if agreed == len(chosen) else 1


def _agrees(url: str) -> bool:
    try:
        return click.confirm(f"Use {path(without_secret(url))} for this repository's objects?")
    except click.Abort:
        if sys.stdin.isatty():
            raise
        click.echo()
        raise UsageError("nothing is agreed to without an answer; --yes gives it") from None


def _existing(repository: Repository, name: str) -> Remote:
    known = remotes.read(repository)
    found = known.find(name)
    if found is None:
        names = ", ".join(item.title for item in known.every) or "none"
        raise UsageError(
            f"there is no remote {path(name)!r} (configured: {names}); 'git remote add' makes one"
        )
    return found


def _agent() -> str:
    """The program that moves Git LFS's files in place of a server; empty where none does."""
    return config_file.get(_AGENT_KEY) or ""


def _share(repository: Repository, key: str, url: str) -> None:
    if repository.worktree is None:
        raise UsageError(f"a bare repository has no {consent.FILE} to write")
    file = repository.worktree / consent.FILE
    if file.is_symlink():
        raise UsageError(f"{consent.FILE} is a symbolic link; it is not written")
    offer = consent.read(repository)
    if url not in (*offer.mirrors, offer.storage):
        config_file.write_file(file, f"theta.{key}", url, beside=key == "mirror")
    if url not in offer.confirmed:
        consent.confirm(repository, url)
