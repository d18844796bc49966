"""Taking a side, whatever way it is asked for, gives that side's file; units are taken whole, and
never computed with.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from merging import MODEL, Branches, Tensors, same
from small_models import safetensors_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the programs are POSIX scripts")


def trained(seed: int) -> Tensors:
    """A model with units, counters, statistics and plain weights, all of which every training
    changes.
    """
    random = np.random.default_rng(seed)

    def floats(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    def codes(dtype: str, *shape: int) -> np.ndarray:
        return random.integers(0, 127, shape).astype(dtype)

    return {
        "gptq.qweight": codes("i4", 8, 64),
        "gptq.qzeros": codes("i4", 2, 8),
        "gptq.scales": floats(2, 64).astype(np.float16),
        "gptq.g_idx": codes("i4", 64),
        "int8.weight": codes("i1", 64, 32),
        "int8.weight_scale": floats(64),
        "nf4.weight": codes("u1", 1024, 1),
        "nf4.weight.absmax": codes("u1", 32),
        "q.lora_A.weight": floats(8, 64),
        "q.lora_B.weight": floats(32, 8),
        "bn.running_var": np.abs(floats(32)),
        "bn.num_batches_tracked": np.array([seed]),
        "rng_state": codes("u1", 5056),
        "mask": random.random((8, 8)) < 0.5,
        "logit_scale": np.array([seed], np.float32),
        "w": floats(32, 32),
    }


def state(seed: int) -> bytes:
    """A training state as PyTorch writes it, whose pickle holds numbers of its own."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    layer = torch.nn.Linear(8, 4)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1 / seed)
    for _ in range(seed):
        layer(torch.ones(8)).sum().backward()
        optimizer.step()
    out = io.BytesIO()
    content = {
        "model": layer.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": seed,
        "rng": torch.get_rng_state(),
    }
    torch.save(content, out)
    return out.getvalue()


@cache
def files(side: str) -> dict[str, bytes]:
    """The models of 'base', 'ours' or 'theirs'."""
    number = {"base": 1, "ours": 2, "theirs": 3}[side]
    return {MODEL: safetensors_file(trained(number)), "state.pt": state(number)}


@pytest.fixture(scope="module")
def repo_once(
    tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str], bin_folder: Path
) -> Branches:
    repo = Branches.make(tmp_path_factory.mktemp("once") / "repo", environment, bin_folder)
    for branch, side in (("main", "base"), ("theirs", "theirs"), ("main", "ours")):
        repo.git("checkout", "-q", *(["-b"] if branch == "theirs" else []), branch)
        for name, data in files(side).items():
            repo.write(name, data)
        repo.git("add", ".")
        repo.git("commit", "-qm", f"on {branch}")
    return repo


@pytest.fixture
def repo(repo_once: Branches, tmp_path: Path) -> Branches:
    """Two models of which 'main' and 'theirs' changed everything."""
    return repo_once.copy(tmp_path / "repo")


def by_resolve(repo: Branches, side: str) -> None:
    repo.fails("merge", "theirs")
    said = repo.told("resolve", f"--{side}")
    assert "is kept" not in said
    repo.git("commit", "-qm", "merged")


def in_steps(repo: Branches, side: str) -> None:
    repo.fails("merge", "theirs")
    for glob in ("*.qzeros", "*.lora_B*", "mask", "*exp_avg"):
        repo.theta_run("resolve", "--params", glob, f"--{side}")
    repo.told("resolve", f"--{side}")
    repo.git("commit", "-qm", "merged")


def by_strategy(repo: Branches, side: str) -> None:
    repo.told("merge", "theirs", "-s", side, "-m", "merged")


def by_rules(repo: Branches, side: str) -> None:
    repo.commit("rules", **{".theta__toml": f'[[merge]]\nstrategy = "{side}"\n'.encode()})
    repo.git("merge", "-q", "-m", "merged", "theirs")


def by_setting(repo: Branches, side: str) -> None:
    repo.git("config", "theta.merge.strategy", side)
    repo.git("merge", "-q", "-m", "merged", "theirs")


def by_gits_option(repo: Branches, side: str) -> None:
    repo.told("merge", "-X", side, "theirs", "-m", "merged")


def by_checkout(repo: Branches, side: str) -> None:
    repo.fails("merge", "theirs")
    repo.git("checkout", "-q", f"--{side}", ".")
    repo.git("commit", "-qam", "merged")


OF_OURS = (by_resolve, in_steps, by_strategy, by_rules, by_setting)
OF_GIT = (by_gits_option, by_checkout)  # git knows no base as a side


@pytest.mark.parametrize(
    ("way", "side"),
    [
        *((way, side) for way in OF_OURS for side in ("ours", "theirs", "base")),
        *((way, side) for way in OF_GIT for side in ("ours", "theirs")),
    ],
)
def test_a_side_is_taken_to_the_byte(
    repo: Branches, way: Callable[[Branches, str], None], side: str
) -> None:
    way(repo, side)
    for name, data in files(side).items():
        assert repo.read(name) == data, name
    repo.settled()
    if way is not by_checkout:
        assert "verified, the same bytes" in repo.told("verify-merge")


def test_a_unit_is_refused_by_strategies_that_compute_and_named(repo: Branches) -> None:
    assert "tensors and units changed on several sides" in repo.fails("merge", "theirs")
    said = repo.told("resolve", MODEL, code=1)
    assert "unit gptq: gptq (g_idx, qweight, qzeros, scales) changed on 2 sides" in said
    assert "git theta resolve --params gptq.g_idx --ours (or --theirs, --base)" in said
    said = repo.told("resolve", MODEL, "-s", "average", code=1)
    for name in ("gptq", "int8", "q"):
        assert f"unit {name}: " in said
    assert "'average' would merge its parts one by one, which gives other values" in said
    # One part's name is enough to take all of them, and the others follow other choices.
    repo.told("resolve", MODEL, "--params", "gptq.qzeros", "--theirs", code=1)
    repo.told("resolve", MODEL, "--params", "*.lora_B.*", "--theirs", code=1)
    repo.told("resolve", MODEL, "--ours")
    ours, theirs, merged = trained(2), trained(3), repo.tensors()
    average = ((ours["w"].astype(np.float64) + theirs["w"]) / 2).astype(np.float32)
    taken = {name: theirs[name] for name in theirs if name.startswith(("gptq.", "q."))}
    assert same(
        merged,
        {
            **ours,
            **taken,
            "w": average,
            "bn.running_var": merged["bn.running_var"],
            "logit_scale": np.array([2.5], np.float32),
        },
    )
    repo.told("resolve", "--ours")
    repo.git("commit", "-qm", "merged")
    assert "verified, the same bytes" in repo.told("verify-merge")
    repo.settled()


def test_a_unit_that_one_side_changed_is_taken_from_there(repo: Branches) -> None:
    base, trained_unit = (
        trained(1),
        {name: value for name, value in trained(3).items() if name.startswith("gptq.")},
    )
    repo.git("checkout", "-q", "-b", "one", "main~1")
    repo.save("one", {**base, **trained_unit})
    repo.git("checkout", "-q", "-b", "other", "main~1")
    repo.save("other", {**base, "w": base["w"] * 2})
    repo.git("merge", "-q", "-m", "merged", "one")
    assert same(repo.tensors(), {**base, **trained_unit, "w": base["w"] * 2})
    repo.settled()


def test_a_variance_is_averaged_where_changes_are_added_up(repo: Branches) -> None:
    repo.fails("merge", "theirs")
    said = repo.told("resolve", MODEL, "-s", "task_arithmetic", code=1)
    assert (
        "cannot be negative, so averaged where task_arithmetic could make it so: bn.running_var"
        in said
    )
    repo.told("resolve", "--ours")
    ours, theirs = trained(2)["bn.running_var"], trained(3)["bn.running_var"]
    assert np.array_equal(
        repo.tensors()["bn.running_var"],
        ((ours.astype(np.float64) + theirs) / 2).astype(np.float32),
    )


def test_gguf_blocks_are_a_conflict_of_their_own(repo: Branches) -> None:
    gguf = pytest.importorskip("gguf")
    repo.write(
        ".gitattributes", repo.read(".gitattributes") + b"*.gguf filter=theta merge=theta -text\n"
    )
    repo.git("commit", "-qam", "track")

    def file(seed: int) -> bytes:
        blocks = np.random.default_rng(seed).integers(0, 255, (4, 18), dtype=np.uint8)
        target = repo.path / "m.gguf"
        writer = gguf.GGUFWriter(str(target), "llama")
        writer.add_tensor("blk.0.attn_q.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
        writer.add_tensor("norm.weight", np.full(32, seed, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return target.read_bytes()

    repo.commit("base", m__gguf=file(1))
    repo.git("checkout", "-q", "-b", "quantised")
    repo.commit("theirs", m__gguf=file(2))
    repo.git("checkout", "-q", "main")
    repo.commit("ours", m__gguf=file(3))
    repo.fails("merge", "quantised")
    said = repo.told("resolve", "-s", "average", code=1)
    assert "m.gguf: 1 tensor changed on several sides" in said
    assert "blk.0.attn_q.weight: changed on 2 sides: q4_0[4,32]" in said
    assert "'average' does not compute with q4_0 values; take ours, theirs or base" in said
    repo.told("resolve", "--theirs")
    blocks = [
        repo.manifest(f"{version}:m.gguf").by_name["blk.0.attn_q.weight"].digest
        for version in ("", "quantised")
    ]
    assert blocks[0] == blocks[1]


def test_ours_among_several_branches_is_ours_and_theirs_is_none(repo: Branches) -> None:
    repo.git("checkout", "-q", "-b", "third", "main~1")
    repo.save("third", trained(4))
    repo.git("checkout", "-q", "main")
    said = repo.told("merge", "theirs", "third", "-s", "theirs", "-m", "merged", code=2)
    assert "'theirs' is one of two sides, and 3 are merged" in said
    repo.told("merge", "theirs", "third", "-s", "ours", "-m", "merged")
    assert repo.read(MODEL) == files("ours")[MODEL]
