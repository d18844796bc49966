"""Taking a side takes that side: every tensor, of whatever type, unit or role, and the file's other
content.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

from git_theta.core import dtypes
from git_theta.core.manifest import Entry, Link, Manifest, ObjectRef
from git_theta.core.tensors import Spec
from git_theta.merges.plan import plan
from git_theta.workflows.merging.merge import merge
from git_theta.workflows.merging.merge_rules import MergeRule, Rules, literal, rule
from git_theta.workflows.merging.outcome import Merged
from git_theta.workflows.session import Session

MODELS = 10_000
PICKS = ("ours", "theirs", "base")
Piece = Mapping[str, Spec]


def piece(**tensors: str) -> Piece:
    """``name="i32 8 64"`` as type and shape; ``__`` in a name stands for a dot."""
    split = {name.replace("__", "."): text.split() for name, text in tensors.items()}
    return {name: Spec(dtype, tuple(map(int, shape))) for name, (dtype, *shape) in split.items()}


def of_type(name: str) -> Piece:
    whole = dtypes.get(name).block_elements
    return {
        "weight": Spec(name, (2, 4 * whole)),
        "scalar": Spec(name, (1,) if whole == 1 else (whole,)),
    }


PLAIN = [of_type(name) for name in dtypes.names()]
UNITS = [
    piece(qweight="i32 96 768", qzeros="i32 6 96", scales="f16 6 768", g_idx="i32 768"),
    piece(weight="f8_e4m3fn 64 32", weight_scale="f32", input_scale="f32"),
    piece(weight="f8_e4m3fn 256 256", weight_scale_inv="f32 2 2"),
    piece(weight="i8 64 32", weight_scale="f16 64", weight_zero_point="i8 64"),
    piece(weight="u8 512 1", weight__absmax="f32 16", weight__quant_map="f32 16"),
    piece(weight="i8 64 32", SCB="f32 64"),
    piece(lora_A__weight="f32 8 64", lora_B__weight="f32 32 8"),
    piece(lora_down__weight="f16 8 64", lora_up__weight="f16 32 8", alpha="f16"),
    piece(
        state1="u8 64 64",
        absmax1="f32 16",
        qmap1="f32 256",
        state2="u8 64 64",
        absmax2="f32 16",
        qmap2="f32 256",
    ),
]
STATES = [
    piece(bn__running_mean="f32 8", bn__running_var="f32 8", bn__num_batches_tracked="i64"),
    piece(
        optimizer__state__0__step="f32",
        optimizer__state__0__exp_avg="f32 8",
        optimizer__state__0__exp_avg_sq="f32 8",
    ),
    piece(
        optimizer__param_groups__0__lr="f64",
        lr_scheduler__last_epoch="i64",
        epoch="i64",
        global_step="i64",
    ),
    piece(rng_state="u8 5056", cuda_rng_state="u8 16", sampler__order="i64 100"),
    piece(
        mask="bool 8 8",
        position_ids="i64 1 64",
        logit_scale="f32",
        layer_scale="f32 8",
        scaler__scale="f32",
    ),
]
FORMATS = ("safetensors", "torch-zip", "gguf", "opaque", "stored-zip")


class Maker:
    """Makes random models; the same ones for one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.count = 0

    def fresh(self) -> str:
        """A digest that nothing else has."""
        self.count += 1
        return f"{self.count:064x}"

    def pieces(self) -> list[Piece]:
        """Some parts of a model, each under a name of its own."""
        kinds = [
            self.random.choice(self.random.choice((PLAIN, UNITS, STATES)))
            for _ in range(self.random.randint(1, 3))
        ]
        return [
            {f"layers.{at}.{name}": spec for name, spec in kind.items()}
            for at, kind in enumerate(kinds)
        ]

    def entry(self, name: str, spec: Spec) -> Entry:
        value = self.fresh()
        return Entry(
            name,
            spec.dtype,
            spec.shape,
            value,
            (Link("dense", (ObjectRef(value, 100).whole,)),),
            None,
        )

    def file(self, form: str, entries: Sequence[Entry]) -> Manifest:
        return Manifest(
            form,
            100 + sum(entry.nbytes for entry in entries),
            self.entry("skeleton", Spec("u8", (100,))),
            tuple(entries),
            {},
        )

    def version(
        self, form: str, pieces: Sequence[Piece], lacking: Mapping[str, int], number: int
    ) -> Manifest:
        """Version ``number``, in which every tensor is new; some are lacking here, reshaped, or
        tied to another.
        """
        entries: list[Entry] = []
        for name, usual in (
            pair for one in pieces for pair in one.items() if lacking.get(pair[0]) != number
        ):
            odd = self.random.random()
            spec = Spec("f32", (3, 5)) if odd < 0.05 else usual
            if (
                odd > 0.9
                and entries
                and (entries[-1].dtype, entries[-1].shape) == spec
                and not {name, entries[-1].name} & lacking.keys()
            ):
                entries[-1] = entries[-1]._replace(aliases=(*entries[-1].aliases, name))
            else:
                entries.append(self.entry(name, spec))
        return self.file(form, [*entries, self.entry("last", Spec("f32", ()))])


def merged(base: Manifest | None, sides: Sequence[Manifest], *rules: MergeRule) -> Merged:
    """What a merge makes that needs neither values nor a file of its own: nothing is read or
    written.
    """
    return merge(cast("Session", None), "m.safetensors", base, sides, Rules(tuple(rules)))


def same(one: Manifest | None, other: Manifest) -> bool:
    """Whether both are files of the same bytes."""
    if one is None:
        return False

    def content(manifest: Manifest) -> Any:
        ties = {name: entry.name for name, entry in manifest.by_name.items()}
        return (
            manifest.format,
            manifest.size,
            manifest.skeleton.digest,
            ties,
            [(e.digest, e.spec) for e in manifest.entries],
        )

    return bool(content(one) == content(other))


def versions(seed: int) -> tuple[Manifest, Manifest, Manifest]:
    """Base, ours and theirs of a random model, where both sides changed everything."""
    maker = Maker(seed)
    pieces, form = maker.pieces(), maker.random.choice(FORMATS)
    # A tensor is lacking in one version at most: what both sides removed, they agree about.
    lacking = {
        name: maker.random.randrange(3)
        for one in pieces
        for name in one
        if maker.random.random() < 0.1
    }
    base, ours, theirs = (maker.version(form, pieces, lacking, number) for number in range(3))
    return base, ours, theirs


def test_a_model_that_both_sides_changed_wholly_is_the_sides_own_file() -> None:
    """Over random models of every type, unit and training state."""
    rules = [rule(pick, {}) for pick in PICKS]
    for seed in range(MODELS):
        base, ours, theirs = versions(seed)
        result = merged(base, [ours, theirs], rules[seed % 3])
        assert same(result.manifest, (ours, theirs, base)[seed % 3]), (
            seed,
            result.conflicts,
            result.problems,
        )
        assert not any("is kept" in notice for notice in result.notices), (seed, result.notices)


def test_without_a_common_ancestor_a_side_is_its_own_file() -> None:
    for seed in range(MODELS // 20):
        _, ours, theirs = versions(seed)
        for pick, wanted in (("ours", ours), ("theirs", theirs)):
            assert same(merged(None, [ours, theirs], rule(pick, {})).manifest, wanted), (seed, pick)
        assert (
            "no common ancestor to go back to"
            in merged(None, [ours, theirs], rule("base", {})).conflicts[0].reason
        )


def chosen_by_hand(seed: int) -> None:
    """One check of the test that each tensor is of the side that changed it or was chosen."""
    maker = Maker(seed)
    pieces = maker.pieces()
    specs = {name: spec for one in pieces for name, spec in one.items()}
    base = {name: maker.entry(name, spec) for name, spec in specs.items()}
    changed = {name: maker.random.choice(((), (0,), (1,), (0, 1))) for name in specs}
    sides = [
        {
            name: maker.entry(name, specs[name]) if at in changed[name] else base[name]
            for name in specs
        }
        for at in (0, 1)
    ]
    files = [maker.file("safetensors", list(table.values())) for table in (base, *sides)]
    decided = plan(files[0], files[1:])
    picks = {item.name: maker.random.choice(PICKS) for item in decided.items if item.kind != "unit"}
    for conflict in decided.conflicts:
        pick = maker.random.choice(PICKS)
        picks.update({part.name: pick for part in decided.parts(conflict)})
    # One part of a unit is enough to choose for it.
    rules = [
        rule(picks[item.name], {}, literal(item.name))
        for item in decided.items
        if not item.follows or maker.random.random() < 0.5
    ]
    result = merged(files[0], files[1:], *rules)
    assert result.manifest is not None, (seed, result.conflicts, result.problems)
    for item in decided.items:
        found = result.manifest.by_name[item.name].digest
        if item.kind in ("unchanged", "one-side"):
            taken = next(
                (side[item.name] for at, side in enumerate(sides) if at in changed[item.name]),
                base[item.name],
            )
        else:
            taken = {"ours": sides[0], "theirs": sides[1], "base": base}[picks[item.name]][
                item.name
            ]
        assert found == taken.digest, (seed, item.name, item.kind)


def test_each_tensor_is_the_one_of_the_side_that_changed_it_or_was_chosen() -> None:
    """Where the sides changed some of the same tensors, and others each alone; a side is chosen for
    each tensor (or unit).
    """
    for seed in range(MODELS // 10):
        chosen_by_hand(seed)


def test_theirs_is_refused_if_there_are_several() -> None:
    maker = Maker(1)
    base, *sides = (maker.version("safetensors", [UNITS[0]], {}, 0) for _ in range(4))
    result = merged(base, sides, rule("theirs", {}))
    assert result.manifest is None
    assert "'theirs' is one of two sides, and 3 are merged" in result.conflicts[0].reason


def test_a_file_without_tensors_is_the_sides_own() -> None:
    maker = Maker(2)
    base, ours, theirs = (maker.file("opaque", ()) for _ in range(3))
    assert not merged(base, [ours, theirs]).manifest
    for pick, wanted in (("ours", ours), ("theirs", theirs), ("base", base)):
        assert same(merged(base, [ours, theirs], rule(pick, {})).manifest, wanted)
