"""Writes the small torch files of this folder: ``python tests/data/make_torch_files.py`` (torch
2.13.0, numpy 2.4).
"""

from __future__ import annotations

import collections
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent / "torch"
FLOATS = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]
WHOLE = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
TYPES = [
    "float32",
    "float16",
    "bfloat16",
    "float64",
    *WHOLE,
    "complex32",
    "complex64",
    "complex128",
]


def filled(shape: tuple[int, ...], dtype: str = "float32", start: int = 1) -> torch.Tensor:
    """A tensor whose bytes count up from ``start``."""
    count = torch.empty(shape, dtype=getattr(torch, dtype)).untyped_storage().nbytes()
    raw = torch.tensor(
        [
            (start + number) % 2 if dtype == "bool" else (start + number) % 256
            for number in range(count)
        ],
        dtype=torch.uint8,
    )
    return (
        raw.view(getattr(torch, dtype)).reshape(shape)
        if count
        else torch.empty(shape, dtype=getattr(torch, dtype))
    )


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.norm(self.embed(x)))
        return scores


def training() -> dict[str, Any]:
    torch.manual_seed(0)
    random.seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.arange(5)).square().sum().backward()
        optimizer.step()
        schedule.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "epoch": 2,
        "best": float("inf"),
        "log": [{"loss": 0.5, "tags": ("a", None)}, {"loss": 0.25, "tags": ()}],
        "rng": {
            "torch": torch.get_rng_state()[:64].clone(),
            "python": random.getstate()[1][:3],
            "numpy": np.arange(3),
        },
    }


def views() -> dict[str, Any]:
    base, flat = filled((4, 3)), filled((12,), start=50)
    return {
        "base": base,
        "transposed": base.t(),
        "same": base,
        "row": base[1],
        "lone_transposed": filled((2, 3), start=70).t(),
        "part": filled((10,), start=90)[2:5],
        "channels_last": filled((1, 2, 2, 3), start=100).to(memory_format=torch.channels_last),
        "expanded": filled((3, 1), start=200).expand(3, 4),
        "tile_b": flat[4:10].view(2, 3),
        "tile_a": flat[:4],
        "tile_c": flat[10:],
        "tile_c_again": flat[10:],
    }


def cases() -> dict[str, Any]:
    """Everything that is written, by the file's stem."""
    return {
        "types": {name: filled((2, 3), name, start=17) for name in TYPES + FLOATS},
        "shapes": collections.OrderedDict(
            scalar=filled(()),
            empty=filled((0, 3)),
            one=filled((1,)),
            deep=filled((1, 2, 1, 2)),
            half=filled((0,), "float16"),
        ),
        "training": training(),
        "views": views(),
        "list": [filled((2,)), {"a": filled((3,), start=9)}, (filled((1,), start=21),)],
        "tensor": filled((2, 2)),
        "parameters": {
            "p": torch.nn.Parameter(filled((2, 2))),
            "b": torch.nn.Buffer(filled((2,), start=5)),
        },
        "sparse": {
            "coo": torch.sparse_coo_tensor(
                torch.tensor([[0, 1], [1, 0]]), filled((2,)), (2, 2)
            ).coalesce(),
            "csr": torch.sparse_csr_tensor(
                torch.tensor([0, 1, 2]), torch.tensor([1, 0]), filled((2,), start=9), (2, 2)
            ),
        },
        "names": {
            "": filled((1,)),
            "a.b": filled((2,)),
            "a": {"b": filled((3,))},
            7: filled((1,), start=8),
            "../x\0\x1b[31m": filled((1,), start=9),
        },
        "nothing": {"epoch": 1},
    }


def main() -> None:
    HERE.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse csr and complex32 are called experimental
        for stem, value in cases().items():
            torch.save(value, HERE / f"{stem}.pt")
        torch.save(
            {"a": filled((2,)), "b": {"c": filled((3,))}}, HERE / "protocol5.pt", pickle_protocol=5
        )
        torch.save({"a": filled((2,))}, HERE / "legacy.pt", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
