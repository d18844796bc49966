"""What install writes and uninstall removes: ours, and nothing of anybody else's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import git_theta
from git_theta.git.config import programs as programs_module
from git_theta.git.config.config_file import Value
from git_theta.git.config.programs import (
    ALIAS,
    MARK,
    PROCESS,
    REQUIRED,
    plan_install,
    plan_uninstall,
    program,
)

WORDS = ("/opt/it's here/python", "-I", "/opt/it's here/git_theta/start.py")
ELSEWHERE = ("/elsewhere/python", "-I", "/elsewhere/start.py")
KEYS = st.sampled_from(
    [
        PROCESS,
        REQUIRED,
        ALIAS,
        "filter.theta.clean",
        "filter.theta.smudge",
        "diff.theta.command",
        "merge.theta.driver",
    ]
)
TEXTS = st.sampled_from(
    [
        "true",
        "false",
        "other --tool",
        "git-theta-filter clean %f",
        "git-theta-diff",
        programs_module.command(WORDS, "filter-process"),
        programs_module.command(ELSEWHERE, "filter-process --skip"),
        programs_module.alias(ELSEWHERE),
    ]
)
HELD = st.lists(
    st.builds(lambda key, text: Value(key, text, "global", "file:x"), KEYS, TEXTS | st.none()),
    max_size=6,
)


def after(
    held: list[Value], change: programs_module.ConfigChange, force: bool = False
) -> list[Value]:
    """What a scope holds once a plan was carried out, as git would do it."""
    removed = [*change.remove, *(change.foreign if force else ())]
    left = [
        value
        for value in held
        if not any((value.key, value.text) == (gone.key, gone.text) for gone in removed)
    ]
    for key, text in change.write:
        left = [value for value in left if value.key != key] + [
            Value(key, text, "global", "file:x")
        ]
    return left


@given(HELD, st.booleans(), st.booleans())
def test_installing_twice_changes_nothing_more(held: list[Value], skip: bool, force: bool) -> None:
    taken = any(value.key == ALIAS and not programs_module.is_ours(value) for value in held)
    change = plan_install(held, WORDS, skip, taken)
    if change.foreign and not force:
        return
    done = after(held, change, force)
    again = plan_install(done, WORDS, skip, taken)
    assert again == programs_module.ConfigChange()
    found = {value.key: value.text for value in done}
    assert found[PROCESS] == programs_module.command(
        WORDS, "filter-process --skip" if skip else "filter-process"
    )
    assert found[REQUIRED] == "true"


@given(HELD, st.booleans())
def test_values_of_others_survive_install_and_uninstall(held: list[Value], skip: bool) -> None:
    taken = any(value.key == ALIAS and not programs_module.is_ours(value) for value in held)
    change = plan_install(held, WORDS, skip, taken)
    foreign = [
        value
        for value in held
        if not programs_module.is_ours(value) and (value.key, value.text) != (REQUIRED, "true")
    ]
    if change.foreign:
        assert set(change.foreign) <= set(foreign)
        return
    done = after(held, change)
    left = after(done, plan_uninstall(done))
    assert [(value.key, value.text) for value in left] == [
        (value.key, value.text) for value in foreign
    ]


def test_installing_in_an_empty_scope_and_removing_it_again() -> None:
    change = plan_install([], WORDS, False, False)
    assert dict(change.write) == {
        **programs_module.wanted(WORDS, False),
        ALIAS: programs_module.alias(WORDS),
    }
    done = after([], change)
    assert after(done, plan_uninstall(done)) == []


def test_an_alias_of_the_users_own_is_left_alone() -> None:
    mine = Value(ALIAS, "log --oneline", "global", "file:x")
    change = plan_install([mine], WORDS, False, True)
    assert ALIAS not in dict(change.write)
    assert mine in after([mine], change)
    assert mine in after([mine], change, force=True)


def test_a_required_of_its_own_is_not_ours_to_remove() -> None:
    held = [Value(PROCESS, "other", "local", "file:x"), Value(REQUIRED, "true", "local", "file:x")]
    assert plan_uninstall(held) == programs_module.ConfigChange(foreign=tuple(held))


def test_what_the_first_git_theta_wrote_is_replaced() -> None:
    old = [
        Value("filter.theta.clean", "git-theta-filter clean %f", "global", "file:x"),
        Value("filter.theta.smudge", "git-theta-filter smudge %f", "global", "file:x"),
        Value(REQUIRED, "true", "global", "file:x"),
        Value("merge.theta.name", "Merge Models with Git-Theta", "global", "file:x"),
        Value("merge.theta.driver", "git-theta-merge %O %A %B %P", "global", "file:x"),
        Value("diff.theta.command", "git-theta-diff", "global", "file:x"),
    ]
    change = plan_install(old, WORDS, False, False)
    assert change.foreign == ()
    assert {value.key for value in after(old, change)} == {
        *programs_module.wanted(WORDS, False),
        ALIAS,
    }
    assert after(old, plan_uninstall(old)) == []


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), min_size=1, max_size=30))
def test_the_recorded_program_can_be_read_back(path: str) -> None:
    words = (path, "-I", f"{path}/start.py")
    for text in (programs_module.command(words, "filter-process"), programs_module.alias(words)):
        assert programs_module.recorded_program(text) == path
    assert programs_module.recorded_program(path) is None


def test_git_replaces_nothing_in_the_path_of_a_driver() -> None:
    line = programs_module.driver(("/100%O/python", "-I", "/50%A/start.py"), "merge-driver %O %A")
    assert "p='/100%%O/python'; s='/50%%A/start.py'" in line
    assert 'exec "$p" -I "$s" merge-driver %O %A;' in line
    assert (
        programs_module.summary(Value(programs_module.MERGE, line, "global", "file:x"))
        == "/100%O/python /50%A/start.py"
    )


def test_a_value_for_a_person() -> None:
    process = Value(
        PROCESS, programs_module.command(WORDS, "filter-process --skip"), "global", "file:x"
    )
    assert (
        programs_module.summary(process)
        == "/opt/it's here/python /opt/it's here/git_theta/start.py --skip"
    )
    older = Value(
        PROCESS,
        f'{MARK}p=\'/opt/git-theta\'; test -x "$p" && exec "$p" filter-process --skip; x',
        "global",
        "file:x",
    )
    assert programs_module.summary(older) == "/opt/git-theta --skip"
    assert programs_module.summary(Value(ALIAS, "log", "global", "file:x")) == "log"
    assert programs_module.summary(Value(REQUIRED, None, "global", "file:x")) == ""


def test_the_program_is_this_python_isolated() -> None:
    python, *options, script = program()
    assert Path(python) == Path(sys.executable)
    assert options[0] == "-I"
    assert Path(script) == Path(git_theta.__file__).parent / "start.py"


def test_what_an_earlier_release_wrote_is_told_from_what_this_one_writes() -> None:
    assert not any(
        programs_module.is_older(Value(key, text, "global", "file:x"))
        for key, text in programs_module.wanted(WORDS, True).items()
    )
    assert not programs_module.is_older(
        Value(ALIAS, programs_module.alias(WORDS), "global", "file:x")
    )
    for words in ('"$p"', '"$p" -P -m git_theta'):
        text = (
            f"{MARK}p='/opt/x'; test -x \"$p\" && exec {words} filter-process; exec git-theta"
            " filter-process"
        )
        assert programs_module.is_older(Value(PROCESS, text, "global", "file:x"))
    assert not programs_module.is_older(Value(PROCESS, "other --tool", "global", "file:x"))


# The snippets, run by sh

needs_sh = pytest.mark.skipif(
    shutil.which("sh") is None or os.name == "nt", reason="a POSIX shell is needed"
)


def sh(line: str, path: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    words = [shutil.which("sh") or "sh", "-c", line]
    return subprocess.run(
        words,
        env={"PATH": path or "/nonexistent", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def script(path: Path, said: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "{said}: $*"\nexit 7\n')
    path.chmod(0o755)
    return path


@needs_sh
@pytest.mark.parametrize(
    "folder",
    [
        "plain",
        "with space",
        "quo'te",
        'dou"ble',
        "dol$lar `tick` \\back",
        "-dash",
        "semi;colon&and",
        "über",
    ],
)
def test_the_command_finds_its_program_whatever_the_folder_is_called(
    folder: str, tmp_path: Path
) -> None:
    recorded = script(tmp_path / folder / "python", "recorded")
    start = script(tmp_path / folder / "start.py", "not run by sh")
    other = script(tmp_path / "bin" / "git-theta", "on path")
    other.write_text(other.read_text().replace("exit 7", 'test "$*" = --version || exit 7'))
    line = programs_module.command(
        (str(recorded), "-I", "-X", "a=it's", str(start)), "filter-process --skip"
    )
    done = sh(line, str(other.parent))
    assert (done.stdout, done.stderr, done.returncode) == (
        f"recorded: -I -X a=it's {start} filter-process --skip\n",
        "",
        7,
    )
    recorded.unlink()
    done = sh(line, str(other.parent))
    assert (done.stdout, done.stderr, done.returncode) == (
        "on path: filter-process --skip\n",
        "",
        7,
    )
    script(recorded, "recorded")
    start.unlink()
    done = sh(line, str(other.parent))
    assert (done.stdout, done.stderr, done.returncode) == (
        "on path: filter-process --skip\n",
        "",
        7,
    )
    other.write_text("#!/nonexistent/python\n")
    for _ in range(2):
        done = sh(line, str(other.parent))
        assert (done.stdout, done.returncode) == ("", 127)
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("git-theta was moved or removed (it was ")
        assert done.stderr.endswith("; install it, then run 'git theta install' again\n")
        other.unlink(missing_ok=True)


@needs_sh
def test_the_alias_passes_every_argument_and_goes_where_the_user_is(tmp_path: Path) -> None:
    target = tmp_path / "git-theta"
    target.write_text('#!/bin/sh\npwd\nprintf "<%s>" "$@" "$GIT_WORK_TREE"\n')
    target.chmod(0o755)
    (tmp_path / "sub dir").mkdir()
    start = script(tmp_path / "start.py", "not run by sh")
    line = programs_module.alias((str(target), "-I", str(start))).removeprefix("!") + ' "$@"'

    def run(**environment: str) -> str:
        words = ["/bin/sh", "-c", line, "sh", "a b", "$c", ""]
        return subprocess.run(
            words,
            env={"PATH": "/nonexistent", **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    top = os.path.realpath(tmp_path)
    assert run() == f"{top}\n<-I><{start}><a b><$c><><>"
    assert run(GIT_PREFIX="sub dir/") == f"{top}/sub dir\n<-I><{start}><a b><$c><><>"
    assert (
        run(GIT_PREFIX="sub dir/", GIT_DIR="/x")
        == f"{top}/sub dir\n<-I><{start}><a b><$c><><{top}>"
    )
    assert run(GIT_DIR="/x", GIT_IMPLICIT_WORK_TREE="0") == f"{top}\n<-I><{start}><a b><$c><><>"
    assert run(GIT_DIR="/x", GIT_WORK_TREE="/y") == f"{top}\n<-I><{start}><a b><$c><></y>"


def test_the_mark_says_who_wrote_it() -> None:
    assert programs_module.command(WORDS, "x").startswith(MARK)
    assert programs_module.alias(WORDS).startswith("!" + MARK)


@needs_sh
def test_git_lfs_is_told_in_its_protocol_that_the_agent_is_gone(tmp_path: Path) -> None:
    python, start = (
        script(tmp_path / "it's" / "python", "agent"),
        script(tmp_path / "it's" / "start.py", "not run by sh"),
    )
    path, arguments = programs_module.agent((str(python), "-I", str(start)))
    line = f"{programs_module.quote(path)} {arguments}"  # as git-lfs puts it together
    programs = os.path.dirname(shutil.which("sh") or "")
    assert sh(line, programs).stdout == f"agent: -I {start} transfer-agent\n"
    start.unlink()
    answer = json.loads(sh(line, programs).stdout)
    assert answer["error"]["code"] == 1
    assert "git-theta was moved or removed" in answer["error"]["message"]
