"""Units: which tensors belong together, and that a merge takes them from one side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pytest
from plan_examples import item, manifest, tensor

from git_theta.core.contracts import UnitKind
from git_theta.core.manifest import Entry, Manifest
from git_theta.core.tensors import Spec
from git_theta.errors import MergeError
from git_theta.merges import units
from git_theta.merges.finish import choose_file, finish
from git_theta.merges.items import reason
from git_theta.merges.plan import plan
from git_theta.testing import check_unit_kind


def specs(**tensors: str) -> dict[str, Spec]:
    """``name="i32 8 64"`` as type and shape; ``__`` in a name stands for a dot."""
    found = {}
    for name, text in tensors.items():
        dtype, *shape = text.split()
        found[name.replace("__", ".")] = Spec(dtype, tuple(map(int, shape)))
    return found


# As the programs that write them do.
UNITS: Mapping[str, list[dict[str, Spec]]] = {
    "gptq": [
        specs(
            q__qweight="i32 96 768", q__qzeros="i32 6 96", q__scales="f16 6 768", q__g_idx="i32 768"
        ),
        # 3 bits
        specs(
            q__qweight="i32 72 768", q__qzeros="i32 6 72", q__scales="f16 6 768", q__g_idx="i32 768"
        ),
        specs(q__qweight="i32 768 96", q__qzeros="i32 6 96", q__scales="f16 6 768"),  # AWQ
        specs(e_qweight="i32 8 96 64", e_scales="f16 8 6 64"),
    ],
    "bitsandbytes-4bit": [
        {
            "w": Spec("u8", (8192, 1)),
            "w.absmax": Spec("u8", (256,)),
            "w.quant_map": Spec("f32", (16,)),
            "w.nested_absmax": Spec("f32", (1,)),
            "w.nested_quant_map": Spec("f32", (256,)),
            "w.quant_state.bitsandbytes__nf4": Spec("u8", (86,)),
        },
        specs(w="bf16 4096 1", w__absmax="f32 256", w__quant_map="f32 16"),
    ],
    "bitsandbytes-8bit": [specs(q__weight="i8 64 32", q__SCB="f32 64", q__weight_format="u8")],
    "optimizer-8bit": [specs(o__state1="u8 64 64", o__absmax1="f32 16", o__qmap1="f32 256")],
    "optimizer-8bit-2": [specs(o__state2="u8 64 64", o__absmax2="f32 16", o__qmap2="f32 256")],
    "scaled": [
        specs(w="f8_e4m3fn 64 32", w_scale="f32"),
        specs(w="f8_e5m2 64 32", w_scale="bf16 64 1"),
        specs(q__weight="f8_e4m3fn 300 200", q__weight_scale_inv="f32 3 2"),
        specs(q__weight="i8 64 32", q__weight_scale="f16 64", q__weight_zero_point="i8 64"),
        specs(q__weight="u8 64 64", q__weight_scale="f8_e4m3fn 64 8", q__weight_scale_2="f32"),
        specs(w__absmax="f32 16", w="u8 512 1"),
    ],
    "scaled-parts": [
        specs(w__qdata="i8 64 32", w__scale="f32 64", w__zero_point="i32 64"),
        specs(
            w__tensor_impl__int_data="i8 64 32",
            w__tensor_impl__scale="bf16 64",
            w__tensor_impl__zero_point="i64 64",
        ),
        specs(q__W_q="u8 32 64", q__scale="f16 64 1", q__zero="f16 64 1"),
        specs(q___data="i8 64 32", q___scale="f32 64 1"),
        specs(q__codes="i16 64 8 2", q__codebooks="f16 2 65536 1 8", q__scales="f16 64 1 1 1"),
        specs(q__weight="f8_e4m3fn 64 32", q__scale_weight="f32"),
    ],
    "packed": [
        specs(
            q__weight_packed="i32 64 8",
            q__weight_scale="bf16 64 2",
            q__weight_zero_point="i32 8 2",
            q__weight_shape="i64 2",
        ),
        specs(m_quantized="u8 64 32", m_scale="f32", m_zero_point="u8"),
    ],
    "mlx": [specs(q__weight="u32 64 16", q__scales="f16 64 2", q__biases="f16 64 2")],
    "mxfp4": [specs(e__up_blocks="u8 4 64 8 16", e__up_scales="u8 4 64 8")],
    "quantizer": [
        specs(fq__scale="f32 64", fq__zero_point="i32 64"),
        specs(x_scale="f32", x_zero_point="u8"),
    ],
    "lora": [
        specs(q__lora_A__weight="f32 8 64", q__lora_B__weight="f32 32 8"),
        specs(
            q__lora_A__default__weight="f32 8 64",
            q__lora_B__default__weight="f32 32 8",
            q__lora_magnitude_vector__default="f32 32",
        ),
        specs(q__lora_embedding_A__default="f32 8 500", q__lora_embedding_B__default="f32 64 8"),
        specs(u_q__lora_down__weight="f16 8 64", u_q__lora_up__weight="f16 32 8", u_q__alpha="f16"),
        specs(
            u_q__lora_down__weight="f16 8 64 3 3",
            u_q__lora_up__weight="f16 32 8 1 1",
            u_q__alpha="f16",
        ),
        specs(to_q_lora__down__weight="f32 4 64", to_q_lora__up__weight="f32 32 4"),
        specs(q__lora_a="f32 64 8", q__lora_b="f32 8 32"),
        specs(e__lora_A="f32 4 8 64", e__lora_B="f32 4 32 8"),
    ],
    "loha": [
        specs(
            q__hada_w1_a="f32 64 4",
            q__hada_w1_b="f32 4 32",
            q__hada_w2_a="f32 64 4",
            q__hada_w2_b="f32 4 32",
            q__alpha="f32",
        )
    ],
    "lokr": [
        specs(q__lokr_w1="f32 8 8", q__lokr_w2_a="f32 8 2", q__lokr_w2_b="f32 2 8", q__alpha="f32")
    ],
}

# Names that look like parts, whose types or shapes say something else.
NOT_UNITS = (
    specs(logit_scale="f32", logit="f32 4"),
    specs(layer_scale="f32 64", layer="f32 64 64", ls1__gamma="f32 64"),
    specs(q__weight="f32 64 64", q__weight_scale="f32 64"),
    specs(
        q__input_scale="f32",
        q__k_scale="f32",
        q__v_scale="f32",
        q__weight="f32 64 64",
        k="f32 4",
        q="f32 2",
    ),
    specs(
        q__weight="f8_e4m3fn 64 32",
        q__input_scale="f32",
        q__k_scale="f32",
        q__output_scale="f32",
        logit_scale="f32",
    ),
    specs(w="f8_e4m3fn 64 64", w_scale="f32 7"),
    specs(w="i8 64 64", w_scale="i64 64"),
    specs(norm__weight="f32 64", norm__scale="f32 64", norm__bias="f32 64"),
    specs(q__qweight="f32 96 768", q__scales="f32 6 768"),
    specs(q__lora_A__weight="f32 8 64", q__lora_B__weight="f32 32 16"),
    specs(q__lora_A__weight="f32 8 64", p__lora_B__weight="f32 32 8"),
    specs(flora_a="f32 8 64", flora_b="f32 32 8"),
    specs(position_ids="i64 1 512", embed="f32 512 8", q__absmax="f32 16"),
    specs(a__scale="f32 4", a__zero_point="f32 4", b__zero_point="i32 4"),
)


def found(tensors: Mapping[str, Spec]) -> set[frozenset[str]]:
    return {frozenset(names) for _, names in units.find(units.KINDS, tensors)}


@pytest.mark.parametrize("kind", units.KINDS, ids=lambda kind: kind.name)
def test_each_kind_finds_what_programs_write(kind: UnitKind) -> None:
    check_unit_kind(kind, UNITS[kind.name], NOT_UNITS)


def test_names_alone_prove_nothing() -> None:
    for tensors in NOT_UNITS:
        assert not found(tensors), tensors


def test_scales_of_activations_are_not_parts_of_the_weight() -> None:
    tensors = specs(
        p__weight="f8_e4m3fn 64 32",
        p__weight_scale="f32",
        p__input_scale="f32",
        p__bias="f32 64",
        logit_scale="f32",
    )
    assert found(tensors) == {frozenset(("p.weight", "p.weight_scale"))}


def test_a_kind_that_fails_is_named() -> None:
    class Failing:
        name, summary = "failing", "fails"

        def find(self, tensors: Mapping[str, Spec]) -> Iterable[Sequence[str]]:
            raise ZeroDivisionError("by zero")

    class Inventing:
        name, summary = "inventing", "invents"

        def find(self, tensors: Mapping[str, Spec]) -> Iterable[Sequence[str]]:
            return [("w", "no such tensor")]

    sides = [manifest(tensor("w", str(value))) for value in (1, 2)]
    with pytest.raises(
        MergeError, match="unit kind failing failed with ZeroDivisionError: by zero"
    ):
        plan(manifest(tensor("w", "0")), sides, [Failing()])
    with pytest.raises(
        MergeError, match="unit kind inventing named no such tensor, which is not a tensor"
    ):
        plan(manifest(tensor("w", "0")), sides, [Inventing()])


# Merging


def quantised(codes: str, scale: str, weight: str = "0", *others: Entry) -> Manifest:
    """An fp8 weight with its scale, and another weight."""
    parts = (
        tensor("q.weight", codes, "f8_e4m3fn", (64, 32)),
        tensor("q.weight_scale", scale, "f32", (64,)),
    )
    return manifest(*parts, tensor("w", weight), *others)


def test_a_unit_that_several_sides_changed_is_one_conflict() -> None:
    """Also if each side changed another part: no value of the merge would be that of codes with
    their scale.
    """
    for (a, b), (c, d) in (("11", "22"), ("10", "02"), ("11", "02"), ("12", "11"), ("10", "20")):
        base, one, other = quantised("0", "0"), quantised(a, b, "1"), quantised(c, d)
        decided = plan(base, [one, other])
        (conflict,) = decided.conflicts
        assert conflict.kind == "unit"
        assert conflict.unit is not None
        assert (conflict.unit.kind, conflict.unit.parts, conflict.unit.name) == (
            "scaled",
            ("q.weight", "q.weight_scale"),
            "q",
        )
        assert reason(conflict) == "scaled (weight, weight_scale) changed on 2 sides"
        assert [part.name for part in decided.parts(conflict)] == ["q.weight", "q.weight_scale"]
        with pytest.raises(MergeError, match=r"not resolved yet: q\.weight_scale"):
            finish(decided, {"q.weight": other.by_name["q.weight"]})
        merged = finish(decided, {name: other.by_name[name] for name in conflict.unit.parts})
        assert merged == (*other.entries[:2], one.by_name["w"])


def test_a_unit_that_one_side_changed_is_that_sides() -> None:
    base, ours, theirs = quantised("0", "0"), quantised("1", "1"), quantised("0", "0", "2")
    decided = plan(base, [ours, theirs])
    assert decided.clean
    assert finish(decided, {}) == (*ours.entries[:2], theirs.by_name["w"])
    same = plan(base, [ours, quantised("1", "1", "2")])
    assert same.clean
    assert finish(same, {}) == (*ours.entries[:2], theirs.by_name["w"])


def test_a_unit_that_one_side_has_otherwise_is_a_conflict() -> None:
    """Without a part, or in another shape: LoRA factors of another rank."""

    def lora(value: str, rank: int) -> Manifest:
        factors = (
            tensor("q.lora_A.weight", value, shape=(rank, 64)),
            tensor("q.lora_B.weight", value, shape=(32, rank)),
        )
        return manifest(*factors, tensor("w", value))

    decided = plan(lora("0", 8), [lora("1", 8), lora("2", 16)])
    assert [conflict.kind for conflict in decided.conflicts] == ["unit", "changed"]
    assert decided.conflicts[0].unit is not None
    assert decided.conflicts[0].unit.name == "q"
    gone = manifest(tensor("w", "2"))
    decided = plan(lora("0", 8), [lora("1", 8), gone])
    taken = {
        part.name: part.sides[1]
        for conflict in decided.conflicts
        for part in decided.parts(conflict)
    }
    assert finish(decided, taken) == gone.entries


def test_units_of_models_without_a_common_ancestor() -> None:
    decided = plan(None, [quantised("1", "1"), quantised("2", "2")])
    assert [conflict.kind for conflict in decided.conflicts] == ["unit"]


def test_the_parts_of_units_are_not_twins_of_other_tensors() -> None:
    def layers(value: str) -> Manifest:
        return manifest(
            *(
                tensor(f"{layer}.{name}", value, dtype, shape)
                for layer in "ab"
                for name, dtype, shape in (("weight", "i8", (64, 32)), ("SCB", "f32", (64,)))
            )
        )

    decided = plan(layers("0"), [layers("1"), layers("2")])
    assert [(i.kind, i.twin) for i in decided.items] == [("unit", "")] * 4
    assert [conflict.unit.name if conflict.unit else "" for conflict in decided.conflicts] == [
        "a",
        "b",
    ]


def test_ggufs_quantised_tensors_are_not_computed_with() -> None:
    def file(value: str) -> Manifest:
        return manifest(tensor("blk.0.q", value, "q4_k", (4, 256)), form="gguf")

    (conflict,) = plan(file("0"), [file("1"), file("2")]).conflicts
    assert (conflict.kind, conflict.numeric, conflict.array) == ("changed", False, False)


# The rest of the file


def test_other_content_comes_from_the_side_that_all_is_taken_from() -> None:
    def file(value: str) -> Manifest:
        return manifest(tensor("a", value), tensor("b", value), skeleton=value)

    base, ours, theirs = file("0"), file("1"), file("2")
    decided = plan(base, [ours, theirs])
    for number, version in ((0, ours), (1, theirs), (-1, base)):
        made = choose_file(decided, version.entries, number)
        assert (made.source, made.build, made.notice) == (number, False, "")
        assert decided.version(made.source) is version
    assert choose_file(decided, ours.entries).notice
    # One that only one side changed is not in question.
    decided = plan(base, [ours, manifest(*theirs.entries, skeleton="0")])
    assert choose_file(decided, ours.entries, 1).source == 0


def test_names_that_one_side_tied_part_again_if_they_are_resolved_apart() -> None:
    base = manifest(tensor("embed", "0"), tensor("head", "1"))
    tied = manifest(tensor("embed", "2", also=("head",)))
    apart = manifest(tensor("embed", "3"), tensor("head", "4"))
    decided = plan(base, [tied, apart])
    (conflict,) = decided.conflicts
    assert conflict.kind == "tied-apart"
    assert sorted(finish(decided, dict(apart.by_name))) == sorted(apart.entries)
    assert finish(decided, dict(tied.by_name)) == tied.entries
    assert item(decided, conflict.name).conflict
