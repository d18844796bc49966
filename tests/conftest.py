"""How all tests run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from hypothesis import settings

# What these assert is told in full, as in a test.
pytest.register_assert_rewrite(
    "gitrepo",
    "merging",
    "sharing",
    "installing",
    "loading",
    "seeing",
    "serving",
    "small_models",
    "terminal",
    "dying",
    "documented",
)

# No test asserts a time: machines differ and are shared. A longer search:
# GIT_THETA_TEST_EXAMPLES=10000 python -m pytest tests/unit/core
settings.register_profile(
    "git-theta",
    deadline=None,
    print_blob=True,
    max_examples=int(os.environ.get("GIT_THETA_TEST_EXAMPLES", "60")),
)
settings.load_profile("git-theta")

# Skips that --no-skips accepts: they do not depend on what is installed.
EXCUSED = (
    # Real checkpoints, of which benchmarks/README.md tells
    "GIT_THETA_TEST_HISTORY names no folder",
    "root may write everywhere",  # a test for those who are not root ...
    "no right to mount a file system",  # ... and some for root, in a container that allows it
)


# These take longest, and are begun first: at the end, no worker waits for one of them.
LONG = (
    "test_two_clones",
    "test_merging_docs",
    "test_many_objects",
    "test_training",
    "test_killed_while",
    "test_two_adds_at_once",
    "test_blame_of_a_tangled_history",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: a test mostly waits for the commands that it has started."""
    return (os.cpu_count() or 1) + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="Fail if a test is skipped for want of a program or package.",
    )


def unexcused(reports: list[pytest.TestReport | pytest.CollectReport]) -> Iterator[str]:
    """Each skipped test or module that nothing excuses, with the reason it gives."""
    for report in reports:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(re.search(excuse, reason) for excuse in EXCUSED):
            yield f"{report.nodeid}: {reason}"


def _unexcused(config: pytest.Config) -> list[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return (
        list(unexcused(reporter.stats.get("skipped", [])))
        if reporter and config.getoption("--no-skips")
        else []
    )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _unexcused(session.config) and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for number, line in enumerate(_unexcused(config)):
        if number == 0:
            terminalreporter.section("skipped, which --no-skips forbids", red=True)
        terminalreporter.line(line)
