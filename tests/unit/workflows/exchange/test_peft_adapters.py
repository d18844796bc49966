"""PEFT adapters: which tensors they change, and by what; what cannot be merged is refused."""

from __future__ import annotations

import io
import json
import math
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.tensors import Tensor
from git_theta.errors import FormatError, ThetaError, UsageError
from git_theta.workflows.exchange import peft_adapters, supplied

RANDOM = np.random.default_rng(7)
LORA: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 6,
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "alpha_pattern": {},
    "rank_pattern": {},
    "modules_to_save": None,
    "bias": "none",
    "init_lora_weights": True,
    "target_modules": ["query"],
}
IA3: dict[str, Any] = {
    "peft_type": "IA3",
    "target_modules": ["key", "up"],
    "feedforward_modules": ["up"],
    "fan_in_fan_out": False,
}


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


MODEL = {
    "layer.0.query.weight": normal(6, 4),
    "layer.0.query.bias": normal(6),
    "layer.1.query.weight": normal(6, 4),
    "layer.1.up.weight": normal(8, 6),
    "layer.1.up.bias": normal(8),
    "square.weight": normal(5, 5),
    "conv.weight": normal(6, 6, 3, 3),
    "conv.bias": normal(6),
    "word.weight": normal(9, 4),
    "head.weight": normal(3, 6),
    "steps": np.array([1, 2, 3], np.int64),
}


def folder(path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(config))
    (path / "adapter_model.safetensors").write_bytes(
        safetensors.numpy.save(
            {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        )
    )
    return path


def npz(target: Path | IO[bytes], arrays: dict[str, Any]) -> None:
    np.savez_compressed(target, **arrays)


def merged(path: Path, model: Mapping[str, np.ndarray] = MODEL) -> dict[str, np.ndarray]:
    """What the adapter changes, as new values."""
    changes = peft_adapters.read(path, {name: value.shape for name, value in model.items()})
    result = {}
    for change in changes:
        new, _ = change.encode(Tensor.from_array(model[change.name]))
        assert change.name not in result
        result[change.name] = new.array()
    return result


def lora(module: str, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    return {
        f"base_model.model.{module}.lora_A.weight": a,
        f"base_model.model.{module}.lora_B.weight": b,
    }


def close(found: Mapping[str, np.ndarray], **wanted: np.ndarray) -> None:
    """Equal names, values equal but for a rounding of float32."""
    names = {name.replace("__", "."): value for name, value in wanted.items()}
    assert set(found) == set(names)
    for name, value in names.items():
        np.testing.assert_allclose(found[name], value, rtol=3e-6, atol=3e-6)


def refusal(action: Callable[[], object]) -> str:
    """What Git-Theta says against it; empty where it has nothing against it."""
    try:
        action()
    except ThetaError as error:
        return str(error)
    return ""


A, B = normal(2, 4), normal(6, 2)
QUERY = MODEL["layer.0.query.weight"]


@pytest.mark.parametrize(
    ("more", "scale"),
    [
        ({}, 3.0),
        ({"use_rslora": True}, 6 / math.sqrt(2)),
        ({"alpha_pattern": {"layer.0.query": 5}}, 2.5),
        ({"alpha_pattern": {"query": 5}}, 2.5),
        ({"alpha_pattern": {"uery": 5}}, 3.0),
        ({"alpha_pattern": {"layer.1.query": 5}}, 3.0),
        ({"alpha_pattern": {"layer.1.query": 7, "query": 5}}, 2.5),
        ({"alpha_pattern": {"^layer.*query": 5}}, 2.5),
        ({"alpha_pattern": {r"layer\.\d+\.(key|query)": 5}}, 2.5),
        ({"alpha_pattern": {"layer.[1-9].query": 5}}, 3.0),
        ({"r": 16, "rank_pattern": {"query": 2}}, 3.0),
        ({"init_lora_weights": "gaussian"}, 3.0),
    ],
)
def test_scale(tmp_path: Path, more: dict[str, Any], scale: float) -> None:
    found = merged(folder(tmp_path / "a", {**LORA, **more}, lora("layer.0.query", A, B)))
    close(found, layer__0__query__weight=QUERY + scale * (B @ A))


def test_alpha_is_pefts_default_where_the_configuration_has_none(tmp_path: Path) -> None:
    config = {key: value for key, value in LORA.items() if key not in ("lora_alpha", "peft_type")}
    close(
        merged(folder(tmp_path / "a", config, lora("layer.0.query", A, B))),
        layer__0__query__weight=QUERY + 4 * (B @ A),
    )


def test_a_file_of_the_folder_will_do(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", LORA, lora("layer.0.query", A, B))
    assert peft_adapters.is_adapter(path / "adapter_model.safetensors")
    assert not peft_adapters.is_adapter(tmp_path)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        close(merged(path / file), layer__0__query__weight=QUERY + 3 * (B @ A))


def test_fan_in_fan_out_transposes(tmp_path: Path) -> None:
    a, b = normal(2, 5), normal(5, 2)
    for value in (False, True):
        found = merged(
            folder(tmp_path / "a", {**LORA, "fan_in_fan_out": value}, lora("square", a, b))
        )
        close(found, square__weight=MODEL["square.weight"] + 3 * ((b @ a).T if value else b @ a))


def test_the_shape_tells_how_a_layer_lies(tmp_path: Path) -> None:
    """Where layers of both kinds are adapted, the configuration only says what held for one of
    them.
    """
    for value in (False, True):
        close(
            merged(
                folder(
                    tmp_path / "a", {**LORA, "fan_in_fan_out": value}, lora("layer.0.query", A, B)
                )
            ),
            layer__0__query__weight=QUERY + 3 * (B @ A),
        )
        close(
            merged(
                folder(
                    tmp_path / "a",
                    {**LORA, "fan_in_fan_out": value},
                    lora("layer.0.query", B.T, A.T),
                )
            ),
            layer__0__query__weight=QUERY + 3 * (B @ A),
        )


def test_convolution(tmp_path: Path) -> None:
    a, b = normal(2, 6, 3, 3), normal(6, 2, 1, 1)
    found = merged(folder(tmp_path / "a", LORA, lora("conv", a, b)))
    close(
        found, conv__weight=MODEL["conv.weight"] + 3 * np.einsum("or,rikl->oikl", b[:, :, 0, 0], a)
    )


@pytest.mark.parametrize("saved", ["none", "unchanged", "changed"])
def test_embedding(tmp_path: Path, saved: str) -> None:
    """An embedding's factors lie the other way round, and peft saves its weights beside them."""
    a, b = normal(2, 9), normal(4, 2)
    arrays = {
        "base_model.model.word.lora_embedding_A": a,
        "base_model.model.word.lora_embedding_B": b,
    }
    before = MODEL["word.weight"] if saved != "changed" else normal(9, 4)
    if saved != "none":
        arrays["base_model.model.word.base_layer.weight"] = before
    path = folder(tmp_path / "a", LORA, arrays)
    close(merged(path), word__weight=before + 3 * (b @ a).T)
    (change,) = peft_adapters.read(path, {name: value.shape for name, value in MODEL.items()})
    _, encoded = change.encode(Tensor.from_array(MODEL["word.weight"]))
    assert (encoded is None) == (saved == "changed")


def test_whole_modules_and_biases(tmp_path: Path) -> None:
    head, bias, up = normal(3, 6), normal(6), normal(8)
    arrays = {
        **lora("layer.0.query", A, B),
        "base_model.model.head.weight": head,
        "base_model.model.layer.0.query.base_layer.bias": bias,
        "base_model.model.layer.1.up.bias": up,
        "base_model.model.head.original_module.bias": normal(3),
    }
    found = merged(
        folder(tmp_path / "a", {**LORA, "modules_to_save": ["head"], "bias": "all"}, arrays)
    )
    close(
        found,
        layer__0__query__weight=QUERY + 3 * (B @ A),
        head__weight=head,
        layer__0__query__bias=bias,
        layer__1__up__bias=up,
    )


def test_the_models_names_may_have_a_prefix_or_lack_one(tmp_path: Path) -> None:
    model = {"encoder.layer.0.query.weight": QUERY, "other.weight": normal(6, 4)}
    close(
        merged(folder(tmp_path / "a", LORA, lora("layer.0.query", A, B)), model),
        encoder__layer__0__query__weight=QUERY + 3 * (B @ A),
    )
    close(
        merged(folder(tmp_path / "a", LORA, lora("bert.encoder.layer.0.query", A, B)), model),
        encoder__layer__0__query__weight=QUERY + 3 * (B @ A),
    )


def test_ia3(tmp_path: Path) -> None:
    out, into = normal(6, 1), normal(1, 6)
    arrays = {
        "base_model.model.layer.0.query.ia3_l": out,
        "base_model.model.layer.1.up.ia3_l": into,
    }
    close(
        merged(folder(tmp_path / "a", IA3, arrays)),
        layer__0__query__weight=QUERY * out,
        layer__0__query__bias=MODEL["layer.0.query.bias"] * out[:, 0],
        layer__1__up__weight=MODEL["layer.1.up.weight"] * into,
    )


@pytest.mark.parametrize("feedforward", [[], ["conv"], ["onv"], "conv", ".*nv"])
def test_ia3_of_a_square_convolution(tmp_path: Path, feedforward: list[str] | str) -> None:
    factors = normal(1, 6, 1, 1)
    found = merged(
        folder(
            tmp_path / "a",
            {**IA3, "feedforward_modules": feedforward},
            {"base_model.model.conv.ia3_l": factors},
        )
    )
    if feedforward:
        close(found, conv__weight=MODEL["conv.weight"] * factors)
    else:
        turned = factors.reshape(6, 1, 1, 1)
        close(
            found,
            conv__weight=MODEL["conv.weight"] * turned,
            conv__bias=MODEL["conv.bias"] * factors.reshape(-1),
        )


def test_ia3_of_a_transposed_layer(tmp_path: Path) -> None:
    model = {"c.weight": normal(4, 12), "c.bias": normal(12), "s.weight": normal(5, 5)}
    out, square = normal(12, 1), normal(5, 1)
    for value in (False, True):
        found = merged(
            folder(
                tmp_path / "a", {**IA3, "fan_in_fan_out": value}, {"base_model.model.c.ia3_l": out}
            ),
            model,
        )
        close(found, c__weight=model["c.weight"] * out.T, c__bias=model["c.bias"] * out[:, 0])
        found = merged(
            folder(
                tmp_path / "a",
                {**IA3, "fan_in_fan_out": value},
                {"base_model.model.s.ia3_l": square},
            ),
            model,
        )
        close(found, s__weight=model["s.weight"] * (square.T if value else square))


def bad(a: np.ndarray, value: float) -> np.ndarray:
    a = a.copy()
    a.flat[1] = value
    return a


QUERY_PAIR = lora("layer.0.query", A, B)
REFUSED: dict[str, tuple[dict[str, Any], dict[str, np.ndarray], str]] = {
    "dora": ({**LORA, "use_dora": True}, QUERY_PAIR, "DoRA"),
    "dora by its tensors": (
        LORA,
        {**QUERY_PAIR, "base_model.model.layer.0.query.lora_magnitude_vector": normal(6)},
        "DoRA",
    ),
    "pissa": ({**LORA, "init_lora_weights": "pissa_niter_4"}, QUERY_PAIR, "pissa"),
    "lora_bias": ({**LORA, "lora_bias": True}, QUERY_PAIR, "lora_bias"),
    "aLoRA": ({**LORA, "alora_invocation_tokens": [1, 2]}, QUERY_PAIR, "alora"),
    "another method": (
        {"peft_type": "LOHA"},
        {"base_model.model.layer.0.query.hada_w1_a": A},
        "LOHA",
    ),
    "prompts": (
        {"peft_type": "PROMPT_TUNING"},
        {"prompt_embeddings": normal(8, 4)},
        "PROMPT_TUNING",
    ),
    "another model": (LORA, lora("decoder.attn.q_proj", A, B), "no tensor of that name"),
    "ambiguous": (LORA, lora("query", A, B), "several tensors"),
    "other shapes": (LORA, lora("layer.0.query", normal(2, 7), normal(9, 2)), "do not fit"),
    "one factor": (LORA, {"base_model.model.layer.0.query.lora_A.weight": A}, "only one factor"),
    "factors that do not fit each other": (
        LORA,
        lora("layer.0.query", A, normal(6, 3)),
        "do not fit each other",
    ),
    "empty factors": (
        LORA,
        lora("layer.0.query", normal(0, 4), normal(6, 0)),
        "do not fit each other",
    ),
    "twice": (
        LORA,
        {**QUERY_PAIR, "base_model.model.layer.0.query.lora_A.default.weight": A},
        "two factors A",
    ),
    "nan": (LORA, lora("layer.0.query", bad(A, math.nan), B), "NaN or infinity"),
    "infinity": (LORA, lora("layer.0.query", A, bad(B, math.inf)), "NaN or infinity"),
    "a whole module with NaN": (
        LORA,
        {"base_model.model.head.weight": bad(normal(3, 6), math.nan)},
        "NaN, infinity",
    ),
    "a whole module of another shape": (
        LORA,
        {"base_model.model.head.weight": normal(4, 6)},
        "its new value is",
    ),
    "floats for a counter": (LORA, {"base_model.model.steps": normal(3)}, "its new value is"),
    "an embedding resized": (
        LORA,
        {
            "base_model.model.word.lora_embedding_A": normal(2, 9),
            "base_model.model.word.lora_embedding_B": normal(4, 2),
            "base_model.model.word.base_layer.weight": normal(10, 4),
        },
        "its new value is",
    ),
    "alpha is text": ({**LORA, "lora_alpha": "6"}, QUERY_PAIR, "lora_alpha"),
    "alpha is no number": ({**LORA, "lora_alpha": math.nan}, QUERY_PAIR, "lora_alpha"),
    "alpha is huge": ({**LORA, "lora_alpha": 10**400}, QUERY_PAIR, "lora_alpha"),
    "a pattern that may run away": (
        {**LORA, "alpha_pattern": {"(a+)+$": 5}},
        QUERY_PAIR,
        "pattern",
    ),
    "a pattern that is none": ({**LORA, "alpha_pattern": {"[": 5}}, QUERY_PAIR, "pattern"),
    "ia3 of another shape": (
        IA3,
        {"base_model.model.layer.0.query.ia3_l": normal(7, 1)},
        "broadcast",
    ),
    "ia3 with NaN": (
        IA3,
        {"base_model.model.layer.0.query.ia3_l": bad(normal(6, 1), math.nan)},
        "NaN or infinity",
    ),
    "ia3 for another model": (
        IA3,
        {"base_model.model.block.ia3_l": normal(6, 1)},
        "no tensor of that name",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(tmp_path: Path, what: str) -> None:
    config, arrays, message = REFUSED[what]
    with pytest.raises(UsageError, match=message) as caught:
        merged(folder(tmp_path / "a", config, arrays))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "[" * 100_000, '{"r": 1'])
def test_a_configuration_that_is_none(tmp_path: Path, text: str) -> None:
    path = folder(tmp_path / "a", LORA, QUERY_PAIR)
    (path / "adapter_config.json").write_text(text)
    with pytest.raises(UsageError, match="not an adapter's configuration"):
        merged(path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", LORA, QUERY_PAIR)
    (path / "adapter_model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"has no adapter_model\.safetensors"):
        merged(path)


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())


@given(st.dictionaries(st.sampled_from(sorted(LORA)), ANYTHING))
def test_any_configuration_is_merged_or_refused(config: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        said = refusal(lambda: merged(folder(Path(scratch) / "a", config, QUERY_PAIR)))
        assert "\n" not in said


class TestFiles:
    """What an update's file may be."""

    def test_npz(self, tmp_path: Path) -> None:
        npz(tmp_path / "x.npz", {"w/R": A, "w/C": B})
        assert set(supplied.read_tensors(tmp_path / "x.npz")) == {"w/R", "w/C"}

    def test_bf16_in_safetensors(self, tmp_path: Path) -> None:
        (tmp_path / "x.safetensors").write_bytes(
            safetensors.numpy.save({"w/R": A.astype(ml_dtypes.bfloat16)})
        )
        assert supplied.read_tensors(tmp_path / "x.safetensors")["w/R"].dtype == ml_dtypes.bfloat16

    @pytest.mark.parametrize(
        "array",
        [
            np.array(["text"]),
            np.array([b"abc"]),
            np.array([1 + 2j]),
            np.array([(1, 2.0)], "i4,f4"),
            np.array([None]),
        ],
    )
    def test_other_values_in_npz(self, tmp_path: Path, array: np.ndarray) -> None:
        npz(tmp_path / "x.npz", {"w/R": array})
        with pytest.raises(FormatError):
            supplied.read_tensors(tmp_path / "x.npz")

    @pytest.mark.parametrize("end", [", u", ", (", "}}", "'", "\\"])
    def test_npz_with_a_header_that_python_cannot_read(self, tmp_path: Path, end: str) -> None:
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': (1,){end}\n".encode()
        array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(4)
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("w/R.npy", array)
        with pytest.raises(FormatError, match="cannot be read as npz"):
            supplied.read_tensors(tmp_path / "x.npz")

    def test_damaged_npz(self, tmp_path: Path) -> None:
        file = tmp_path / "x.npz"
        npz(file, {"w/R": normal(40, 40)})
        good = file.read_bytes()
        for number, data in enumerate(
            (
                b"",
                b"PK",
                b"no archive at all",
                good[:100],
                good[:-30],
                good[:200] + bytes(50) + good[250:],
            )
        ):
            file.write_bytes(data)
            with pytest.raises(FormatError) as caught:
                supplied.read_tensors(file)
            assert "\n" not in str(caught.value), number

    @given(st.data())
    def test_altered_npz_is_read_or_refused(self, data: st.DataObject) -> None:
        stream = io.BytesIO()
        npz(stream, {"w/R": A})
        altered = bytearray(stream.getvalue())
        for _ in range(data.draw(st.integers(1, 3))):
            altered[data.draw(st.integers(0, len(altered) - 1))] = data.draw(st.integers(0, 255))
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "x.npz"
            file.write_bytes(altered)
            assert "\n" not in refusal(lambda: supplied.read_tensors(file))

    def test_a_header_that_claims_much(self, tmp_path: Path) -> None:
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f8", "fortran_order": False, "shape": (1 << 45,)}
        )
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("w/R.npy", stream.getvalue())
        with pytest.raises(FormatError):
            supplied.read_tensors(tmp_path / "x.npz")

    def test_what_unpacks_to_much(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(supplied, "_UNPACKED", 1 << 20)
        npz(tmp_path / "x.npz", {"w/R": np.zeros(1 << 20)})
        with pytest.raises(FormatError, match="unpack"):
            supplied.read_tensors(tmp_path / "x.npz")

    def test_a_file_without_tensors(self, tmp_path: Path) -> None:
        (tmp_path / "x.bin").write_bytes(b"hello")
        with pytest.raises(FormatError, match="no named tensors"):
            supplied.read_tensors(tmp_path / "x.bin")

    @pytest.mark.parametrize(
        ("update", "names", "message"),
        [
            ("low-rank", ["w/R"], "has no C"),
            ("low-rank", ["w/R", "w/C", "w"], "no part"),
            ("low-rank", ["/R", "/C"], "no part"),
            ("low-rank", ["w/ia3"], "no part"),
            ("sparse", ["w/data", "w/indices", "w/shape"], "has no indptr"),
            ("ia3", [], "no tensors"),
        ],
    )
    def test_parts(self, update: str, names: list[str], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            supplied.from_file(update, dict.fromkeys(names, A))

    @pytest.mark.parametrize(
        "shape",
        [
            np.array([math.nan, 2]),
            np.array([6.5, 4.0]),
            np.array([2**62, 2**62]),
            np.array([[6, 4, 1]]),
        ],
    )
    def test_a_sparse_shape_that_is_none(self, shape: np.ndarray) -> None:
        found = {
            "w/data": np.ones(1),
            "w/indices": np.zeros(1, int),
            "w/indptr": np.array([0, 1, 1, 1, 1, 1, 1]),
            "w/shape": shape,
        }
        assert refusal(
            lambda: supplied.from_file("sparse", found)[0].encode(Tensor.from_array(QUERY))
        )
