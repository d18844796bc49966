"""The examples in ``docs/diff.md`` are what git prints.

``python tests/compat/test_diff_docs.py`` writes them anew.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gitrepo import ROOT, Repo, isolated_environment
from seeing import MODEL, Tensors, file, install

DOCUMENT = ROOT / "docs" / "diff.md"
NO_MODELS = "-c", "filter.theta.process=false"
# Title: what is shown, what is run, lines kept
EXAMPLES: dict[str, tuple[str, tuple[str, ...], int]] = {
    "git log -p": ("git log -p -1 v3", ("log", "-p", "-1", "v3"), 40),
    "git show": ("git show v2", ("show", "v2"), 60),
    "git diff A B": ("git diff --no-ext-diff v1 v3", ("diff", "--no-ext-diff", "v1", "v3"), 60),
    "git diff --word-diff": (
        "git diff --no-ext-diff --word-diff v2 v3",
        ("diff", "--no-ext-diff", "--word-diff", "-U0", "v2", "v3"),
        60,
    ),
    "git blame": (f"git blame HEAD {MODEL}", ("blame", "HEAD", "--", MODEL), 60),
    "git log -L": (
        f"git log -L '/^layers.1.attn.q.weight /,+1:{MODEL}'",
        ("log", "-L", f"/^layers.1.attn.q.weight /,+1:{MODEL}"),
        60,
    ),
    "git show of a merge": ("git show merged", ("show", "merged"), 60),
    "forge": ("", ("diff", "--no-ext-diff", "v1", "v2"), 60),
    "git diff with the driver": ("git diff v1 v3", ("diff", "v1", "v3"), 60),
    "git theta diff --sort change": (
        "git theta diff v1 v3 --sort change --params layers",
        ("theta", "diff", "v1", "v3", "--sort", "change", "--params", "layers"),
        60,
    ),
    "git theta diff --stat": (
        "git theta diff --stat v1 v3",
        ("theta", "diff", "--stat", "v1", "v3"),
        60,
    ),
    "git theta log": (f"git theta log {MODEL}", ("theta", "log", "v3", MODEL), 60),
    "git theta blame": (f"git theta blame {MODEL}", ("theta", "blame", "v3", MODEL), 60),
    "git theta diff --markdown": ("", ("theta", "diff", "--markdown", "v1", "v3"), 60),
}


def base() -> Tensors:
    random = np.random.default_rng(1)

    def matrix(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.05).astype(np.float32)

    tensors = {"embed.weight": matrix(512, 256)}
    for layer in range(2):
        tensors |= {f"layers.{layer}.attn.{part}.weight": matrix(256, 256) for part in "qv"}
        tensors[f"layers.{layer}.mlp.weight"] = matrix(1024, 256)
    return {**tensors, "head.weight": matrix(64, 256)}


def adapted(tensors: Tensors, part: str, seed: int, scale: float = 0.001) -> Tensors:
    """An adapter of rank 2 merged into the tensors called ``part``."""
    random = np.random.default_rng(seed)
    out = dict(tensors)
    for name in tensors:
        if part in name:
            change = random.standard_normal((tensors[name].shape[0], 2)) @ random.standard_normal(
                (2, tensors[name].shape[1])
            )
            out[name] = tensors[name] + (change * scale).astype(np.float32)
    return out


def trained(tensors: Tensors, part: str, seed: int) -> Tensors:
    random = np.random.default_rng(seed)
    return {
        n: v + (random.standard_normal(v.shape) * 1e-3).astype(np.float32) if part in n else v
        for n, v in tensors.items()
    }


def repository(folder: Path, environment: Mapping[str, str]) -> Repo:
    """The history that the document is about."""
    repo = install(
        Repo.create(
            folder,
            {
                **environment,
                "GIT_AUTHOR_DATE": "2026-03-02T09:00:00Z",
                "GIT_COMMITTER_DATE": "2026-03-02T09:00:00Z",
            },
        )
    )
    first = base()
    second = adapted(first, "attn", 2)
    third = trained(second, "head", 3)

    def commit(day: int, author: str, message: str, tag: str, tensors: Tensors) -> None:
        date = f"2026-03-{day:02}T10:00:00Z"
        repo.write(MODEL, file(tensors))
        repo.git("add", MODEL)
        who = {
            "GIT_AUTHOR_DATE": date,
            "GIT_COMMITTER_DATE": date,
            "GIT_AUTHOR_NAME": author,
            "GIT_AUTHOR_EMAIL": f"{author.split(maxsplit=1)[0].lower()}@example.com",
        }
        repo.under(who).git("commit", "-qm", message)
        repo.git("tag", tag)

    commit(3, "Ada Ames", "Base model", "v1", first)
    commit(5, "Ben Bell", "Merge the adapter into the attention", "v2", second)
    commit(9, "Ada Ames", "Train the head", "v3", third)
    repo.git("checkout", "-q", "-b", "other", "v2")
    commit(10, "Cyd Cole", "Train the embedding", "v3b", trained(second, "embed", 4))
    repo.git("checkout", "-q", "main")
    date = "2026-03-11T10:00:00Z"
    repo.git(
        "merge",
        "-qm",
        "Merge branch 'other'",
        "other",
        GIT_AUTHOR_DATE=date,
        GIT_COMMITTER_DATE=date,
    )
    repo.git("tag", "merged")
    return repo


def shortened(text: str) -> str:
    """What carries no meaning: most digits of digests and object ids, trailing blanks."""
    text = re.sub(r"\b([0-9a-f]{8})[0-9a-f]{32}\b(?![0-9a-f])", r"\1", text)
    text = re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1…", text)
    return "\n".join(line.rstrip() for line in text.rstrip("\n").split("\n"))


def masked(text: str) -> str:
    """What may differ from one release of git, zstd or numpy to the next: ids, stored sizes,
    blanks, and the last digits of numbers.
    """
    text = re.sub(r"\b[0-9a-f]{7,40}(?:…|\b)", "ID", text)
    text = re.sub(r":\d+\b", ":N", text)
    text = re.sub(r"\d+(?:\.\d+)? (?:B|kB|MB)\b", "SIZE", text)
    text = re.sub(r"\d\.\de-?\d+|0\.\d{6}", "X", text)
    return re.sub(r"[ ]+", " ", text)


def example(repo: Repo, title: str) -> str:
    shown, words, kept = EXAMPLES[title]
    plain = words[0] != "theta" and title != "git diff with the driver"
    output = repo.git(*(NO_MODELS if plain else ()), *words, PYTHONUTF8="1").decode("utf-8")
    lines = shortened(output).split("\n")[:kept]
    if title == "git theta diff --markdown":
        comment = [
            re.sub(r"^#+ (.*)", r"**\1**", line) for line in output.rstrip("\n").split("\n")[1:]
        ]
        return "\n".join(
            f"> {line}".rstrip(" ") + ("  " if line.endswith("  ") else "") for line in comment
        )
    if title == "forge":
        return "\n".join(["```diff", *lines, "```"])
    return "\n".join(["```console", f"$ {shown}", *lines, "```"])


def filled(document: str, repo: Repo) -> str:
    """The document with its examples made anew."""
    for title in EXAMPLES:
        marker = f"<!-- example: {title} -->"
        assert document.count(marker) == 1, title
        block = "\n".join([marker, example(repo, title), "<!-- end -->"])
        pattern = re.escape(marker) + r"(?:\n.*?<!-- end -->)?"
        before, _, after = re.split(f"({pattern})", document, maxsplit=1, flags=re.DOTALL)
        document = before + block + after
    return document


def test_the_examples_are_what_git_prints(tmp_path: Path, environment: Mapping[str, str]) -> None:
    document = DOCUMENT.read_text("utf-8")
    assert set(re.findall(r"<!-- example: (.*?) -->", document)) == set(EXAMPLES)
    assert document.count("```console") == sum(bool(shown) for shown, _, _ in EXAMPLES.values()), (
        "a block that is no example"
    )
    assert masked(filled(document, repository(tmp_path / "repo", environment))) == masked(document)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        repo = repository(Path(folder, "repo"), isolated_environment(Path(folder, "home")))
        DOCUMENT.write_text(filled(DOCUMENT.read_text("utf-8"), repo), "utf-8")


if __name__ == "__main__":
    main()
