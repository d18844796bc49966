"""Which command is named when git merges manifests as text."""

from __future__ import annotations

from git_theta.drivers import text_merge

SMUDGE = ("git", "checkout-index", "-f", "--stage=2", "--", "m.pt")
CLEAN = ("git", "update-index", "--", "m.pt")
THREE = {"GITHEAD_ff": "b", "GITHEAD_00": "my branch", "GITHEAD_11": "c", "OTHER": "x"}


def test_heads_are_named_in_the_order_in_which_they_were_given() -> None:
    assert text_merge.heads(
        {"GITHEAD_ff": "b", "GITHEAD_00": "a", "GIT_REFLOG_ACTION": "merge a b"}
    ) == ["a", "b"]
    assert text_merge.heads(
        {"GITHEAD_ff": "b", "GITHEAD_00": "a", "GIT_REFLOG_ACTION": "pull origin a b"}
    ) == ["b", "a"]
    assert text_merge.heads({"GIT_REFLOG_ACTION": "merge a"}) == []
    assert text_merge.command(THREE) == "git theta merge b 'my branch' c -s STRATEGY"
    assert text_merge.command({}) == "git theta merge A B C -s STRATEGY"


def test_it_is_said_when_git_merges_one_file_and_at_no_other_time() -> None:
    assert "octopus" in text_merge.before(SMUDGE, THREE)
    assert "-s resolve" in text_merge.before(SMUDGE, {"GITHEAD_00": "a"})
    askers: list[tuple[str, ...]] = [
        (),
        ("git",),
        ("git", "merge", "a"),
        ("git", "checkout-index", "-f", "m.pt"),
        CLEAN,
    ]
    for asker in askers:
        assert text_merge.before(asker, THREE) == ""
    assert text_merge.after("my model.pt", CLEAN).endswith("git theta checkout 'my model.pt'")
    others: list[tuple[str, ...]] = [(), ("git", "add", "m.pt"), SMUDGE]
    for asker in others:
        assert text_merge.after("m.pt", asker) == ""
