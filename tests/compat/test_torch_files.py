"""What torch writes, read without torch; and what is built, loaded by torch."""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from git_theta.checkpoints.torch.zip_format import TorchZipFormat
from git_theta.core import dtypes
from git_theta.core.source import BytesSource
from git_theta.core.tensors import Tensor

pytestmark = [
    # Sparse, nested and quantized tensors are called experimental
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

FORMAT = TorchZipFormat()
DATA = Path(__file__).parents[1] / "data"

torch: Any = None
Tagged: Any = None  # a subclass of Tensor


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Torch takes seconds to import, which only the process that runs these tests should spend."""
    global torch, Tagged
    torch = pytest.importorskip("torch")
    Tagged = type("Tagged", (torch.Tensor,), {"__module__": __name__})


def script() -> Any:
    """The module that writes ``tests/data/torch``."""
    spec = importlib.util.spec_from_file_location("make_torch_files", DATA / "make_torch_files.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def saved(value: Any, **options: Any) -> bytes:
    target = io.BytesIO()
    torch.save(value, target, **options)
    return target.getvalue()


def raw(tensor: Any) -> bytes:
    """The bytes of a tensor's whole storage."""
    storage = tensor.untyped_storage()
    return (
        bytes(torch.tensor([], dtype=torch.uint8).set_(storage).numpy())
        if storage.nbytes()
        else b""
    )


def found(data: bytes) -> dict[str, tuple[str, bytes]]:
    """Type and bytes by name and alias."""
    result = {}
    assert FORMAT.sniff(data[:4096])
    for extent in FORMAT.scan(BytesSource(data)).extents:
        for name in (extent.name, *extent.aliases):
            result[name] = (
                dtypes.describe(extent.dtype, extent.shape),
                data[extent.offset : extent.end],
            )
    return result


def tensors(data: bytes) -> dict[str, Tensor]:
    layout = FORMAT.scan(BytesSource(data))
    return {
        extent.name: Tensor(extent.dtype, extent.shape, data[extent.offset : extent.end])
        for extent in layout.extents
    }


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor of nested mappings and lists, by its dotted path."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, f"{path}.{key}" if path else str(key))


def own_type(tensor: Any) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    special = {
        "bool": "bool",
        "bfloat16": "bf16",
        "complex32": "c32",
        "complex64": "c64",
        "complex128": "c128",
    }
    return special.get(name) or name.replace("float8", "f8").replace("uint", "u").replace(
        "int", "i"
    ).replace("float", "f")


@pytest.mark.parametrize("stem", ["types", "shapes", "training", "list", "protocol5"])
def test_committed_files_are_what_torch_loads(stem: str) -> None:
    data = (DATA / "torch" / f"{stem}.pt").read_bytes()
    seen = found(data)
    for name, tensor in leaves(
        torch.load(io.BytesIO(data), weights_only=stem not in ("training", "protocol5"))
    ):
        assert seen.pop(name) == (
            dtypes.describe(own_type(tensor), tuple(tensor.shape)),
            raw(tensor),
        )
    assert not seen


def test_this_torch_writes_what_the_committed_files_hold() -> None:
    for stem, value in script().cases().items():
        now, then = found(saved(value)), found((DATA / "torch" / f"{stem}.pt").read_bytes())
        assert {name: what for name, (what, _) in now.items()} == {
            name: what for name, (what, _) in then.items()
        }


def test_a_real_training_state() -> None:
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Embedding(7, 4), torch.nn.Linear(4, 3), torch.nn.LayerNorm(3)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        model(torch.arange(7)).square().sum().backward()
        optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "epoch": 3,
    }
    seen = found(saved(state))
    assert {name: data for name, (_, data) in seen.items()} == {
        name: raw(tensor) for name, tensor in leaves(state)
    }
    assert seen["optimizer.state.0.exp_avg"][0] == "f32[7,4]"


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_every_protocol_that_torch_loads(protocol: int) -> None:
    data = saved({"a": torch.ones(2), "b": [torch.zeros(1)]}, pickle_protocol=protocol)
    assert [(name, what) for name, (what, _) in found(data).items()] == [
        ("a", "f32[2]"),
        ("b.0", "f32[1]"),
    ]


def quantized() -> Any:
    return torch.quantize_per_channel(
        torch.ones(2, 3), torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.qint8
    )


def test_less_common_kinds_of_tensors() -> None:
    tagged = torch.ones(2).as_subclass(Tagged)
    tagged.extra = torch.zeros(3)
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.tag = torch.ones(1)
    cases: dict[str, tuple[Any, dict[str, str]]] = {
        "quantized": (
            quantized(),
            {"x": "i8[2,3]", "x.scales": "f64[2]", "x.zero_points": "i64[2]"},
        ),
        "nested": (
            torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]),
            {"x": "f32[9]", "x.sizes": "i64[2,2]", "x.strides": "i64[2,2]", "x.offsets": "i64[2]"},
        ),
        "subclass": (tagged, {"x": "f32[2]", "x.extra": "f32[3]"}),
        "parameter": (parameter, {"x": "f32[2]", "x.tag": "f32[1]"}),
        "meta": (torch.ones(2, device="meta"), {}),
        "storage": (torch.ones(2).untyped_storage(), {"x": "u8[8]"}),
        "module": (
            torch.nn.Sequential(torch.nn.Linear(2, 3)),
            {"x.0.weight": "f32[3,2]", "x.0.bias": "f32[3]"},
        ),
        "conjugate": (torch.ones(2, dtype=torch.complex64).conj(), {"x": "c64[2]"}),
        "four bits": (
            torch.zeros(2, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
            {"x": "u8[2,2]"},
        ),
    }
    for name, (value, expected) in cases.items():
        seen = {key: what for key, (what, _) in found(saved({"x": value})).items()}
        assert seen == expected, name


def test_distributed_tensors() -> None:
    distributed = pytest.importorskip("torch.distributed.tensor")
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="0")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        data = saved(
            {"d": distributed.distribute_tensor(torch.ones(4, 2), mesh, [distributed.Shard(0)])}
        )
    finally:
        torch.distributed.destroy_process_group()
    assert found(data)["d"][0] == "f32[4,2]"


def test_distributed_checkpoints_are_many_archives(tmp_path: Path) -> None:
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    dcp.save({"a": torch.ones(3), "b": torch.zeros(5)}, checkpoint_id=tmp_path, no_dist=True)
    (path,) = tmp_path.glob("*.distcp")
    assert sorted(what for what, _ in found(path.read_bytes()).values()) == ["f32[3]", "f32[5]"]


def test_torchscript() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()).eval()
    for script_module, names in (
        (torch.jit.script(module), {"0.weight": "f32[3,2]", "0.bias": "f32[3]"}),
        (
            torch.jit.freeze(torch.jit.script(module)),
            {"constants.0": "f32[3]", "constants.1": "f32[3,2]"},
        ),
    ):
        target = io.BytesIO()
        torch.jit.save(script_module, target, _extra_files={"note": "x"})
        seen = {name: what for name, (what, _) in found(target.getvalue()).items()}
        assert sorted(seen) == sorted(names)
        assert sorted(seen.values()) == sorted(names.values())


# -- what is built ---------------------------------------------------------------------------------


def loaded(tensors_wanted: dict[str, Tensor], like: bytes | None, weights_only: bool = True) -> Any:
    data = bytes(FORMAT.build(tensors_wanted, None if like is None else BytesSource(like)))
    return torch.load(io.BytesIO(data), weights_only=weights_only)


def test_torch_loads_a_new_file_of_every_type(tmp_path: Path) -> None:
    wanted = tensors((DATA / "torch" / "types.pt").read_bytes()) | {
        "scalar": Tensor("f32", (), bytes(4)),
        "none": Tensor("f16", (0, 3), b""),
    }
    state = loaded(wanted, None)
    assert list(state) == list(wanted)
    for name, tensor in state.items():
        assert (own_type(tensor), tuple(tensor.shape), raw(tensor)) == (
            wanted[name].dtype,
            wanted[name].shape,
            bytes(wanted[name].data),
        )
    path = tmp_path / "mapped.pt"
    path.write_bytes(FORMAT.build(wanted, None))
    mapped = torch.load(path, mmap=True, weights_only=True)
    assert all(raw(mapped[name]) == raw(state[name]) for name in state)


def test_torch_loads_a_changed_training_state() -> None:
    old = {
        "model": torch.nn.Linear(3, 2).state_dict(),
        "optimizer": {
            "state": {0: {"step": torch.tensor(1.0)}, 1: {"step": torch.tensor(2.0)}},
            "param_groups": [{"lr": 0.1, "params": [0, 1]}],
        },
        "log": [
            (
                "a",
                None,
                True,
                1 << 70,
                -5,
                300,
                70000,
                b"\xff",
                bytearray(b"x"),
                {1, 2},
                1.5,
                float("inf"),
            )
        ],
        "text": "é\ud83d\ude00",
        "size": torch.Size([1, 2]),
        "kind": torch.float16,
        "device": torch.device("cpu"),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    data = saved(old)
    wanted = tensors(data)
    wanted["model.weight"] = Tensor("bf16", (4, 3), bytes(24))
    del wanted["optimizer.state.1.step"]
    wanted["parameter"] = Tensor("f32", (3,), bytes(12))
    wanted["model.extra"] = Tensor("f8_e4m3fn", (2,), b"ab")
    new = loaded(wanted, data)
    assert list(new) == list(old)
    assert list(new["model"]) == ["weight", "bias", "extra"]
    assert new["model"]._metadata == old["model"]._metadata
    assert new["model"]["weight"].dtype == torch.bfloat16
    assert tuple(new["model"]["weight"].shape) == (4, 3)
    assert new["optimizer"]["state"] == {0: {"step": torch.tensor(1.0)}, 1: {}}
    assert new["parameter"].requires_grad
    assert type(new["parameter"]) is torch.nn.Parameter
    for key in ("log", "text", "size", "kind", "device"):
        assert new[key] == old[key]


def test_torch_loads_other_bytes_in_the_same_file() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    data = saved({"a": weight, "b": weight, "t": torch.ones(2, 3).t()})
    wanted = tensors(data) | {"a": Tensor("f32", (2, 3), bytes(24))}
    new = loaded(wanted, data)
    assert not new["a"].any()
    assert new["a"].data_ptr() == new["b"].data_ptr()
    assert new["t"].stride() == (1, 3)


def test_ties_and_views_survive_a_rewrite() -> None:
    weight, flat = torch.arange(6.0).reshape(2, 3), torch.arange(10.0)
    data = saved(
        {"a": weight, "b": weight.view(2, 3), "view": flat[2:5], "rest": flat[5:], "q": quantized()}
    )
    wanted = tensors(data) | {
        "a": Tensor("f32", (3, 3), bytes(36)),
        "new": Tensor("i64", (), bytes(8)),
    }
    new = loaded(wanted, data, weights_only=False)
    assert new["a"].shape == new["b"].shape == (3, 3)
    assert new["a"].data_ptr() == new["b"].data_ptr()
    assert new["view"].tolist() == [2.0, 3.0, 4.0]
    assert new["view"].untyped_storage().data_ptr() == new["rest"].untyped_storage().data_ptr()
    assert torch.equal(new["q"].int_repr(), quantized().int_repr())
    changed = tensors(data) | {"q": Tensor("i8", (2, 2), bytes(4))}
    assert loaded(changed, data, weights_only=False)["q"].shape == (2, 2)


def test_modules_are_rewritten_as_they_were() -> None:
    data = saved(torch.nn.Sequential(torch.nn.Linear(2, 3)))
    wanted = tensors(data) | {"0.weight": Tensor("f32", (3, 5), bytes(60))}
    module = loaded(wanted, data, weights_only=False)
    assert module[0].weight.shape == (3, 5)
