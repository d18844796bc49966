"""Manifests, comparisons and measurements for the tests of reports."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from git_theta.core.manifest import Entry, Link, Manifest, ObjectRef
from git_theta.reports.report import ModelReport
from git_theta.workflows.comparing.compare import Comparison, compare
from git_theta.workflows.comparing.movement import Statistics
from git_theta.workflows.comparing.statistics import Result

HOSTILE = [
    "<script>alert(1)</script>",
    "</script>",
    "a|b`c``d",
    "[x](http://evil)",
    "@everyone",
    "#1",
    "<!-- -->",
    "![i](x)",
    "*b* _i_ ~s~",
    "\u202egnp.exe",
    "\x1b[31mred\x07\r\n",
    '=HYPERLINK("x")',
    "+1",
    "-1",
    "@x",
    "\t",
    " ",
    "",
    "`",
    "``",
    "\\",
    "a\\|b",
    "x" * 10_000,
    "\ud800",
    "$x$",
    "a -> b",
    "a = b",
    "&lt;",
    "https://evil.example/",
    "0",
    "h.0.w",
    "{0}",
    "%s",
]


def sha(text: object) -> str:
    return hashlib.sha256(str(text).encode("utf-8", "backslashreplace")).hexdigest()


def entry(
    name: str,
    content: object = 0,
    shape: tuple[int, ...] = (64, 64),
    dtype: str = "f32",
    update: str = "dense",
    note: str = "",
    aliases: Sequence[str] = (),
) -> Entry:
    identity = sha((name, content))
    return Entry(
        name,
        dtype,
        shape,
        identity,
        (Link(update, (ObjectRef(sha(("o", identity)), 1000).whole,), note),),
        None,
        tuple(aliases),
    )


def manifest(entries: Iterable[Entry], skeleton: object = "s") -> Manifest:
    every = tuple(entries)
    head = Entry(
        "skeleton",
        "u8",
        (100,),
        sha(skeleton),
        (Link("dense", (ObjectRef(sha(("so", skeleton)), 90).whole,)),),
    )
    return Manifest("safetensors", sum(item.nbytes for item in every) + 100, head, every, {})


def modified(names: Iterable[str], update: str = "delta", note: str = "changed=7") -> Comparison:
    every = list(names)
    return compare(
        manifest(entry(name) for name in every),
        manifest(entry(name, 1, update=update, note=note) for name in every),
    )


def statistics(
    elements: int = 4096, relative: float = 1e-3, rank: int | None = None, norm: float = 3.0
) -> Statistics:
    moved = norm * relative
    return Statistics(
        elements,
        elements // 2,
        0,
        norm,
        norm,
        moved,
        relative**2 / 2,
        relative / 10,
        rank,
        None,
        False,
        True,
    )


def report(
    comparison: Comparison,
    results: Sequence[Result] | None = None,
    path: str = "model.safetensors",
    measured: bool = True,
) -> ModelReport:
    if results is None:
        results = [
            statistics(relative=10.0 ** -(1 + n % 6)) if c.has_values else None
            for n, c in enumerate(comparison.changes)
        ]
    return ModelReport(
        path,
        comparison,
        comparison.changes,
        tuple(results),
        modes=("100644", "100644"),
        measured=measured,
    )


def transformer(layers: int) -> list[str]:
    parts = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
        "norm_1",
        "norm_2",
    )
    return [
        "embed.weight",
        *(f"model.layers.{n}.{part}.weight" for n in range(layers) for part in parts),
        "norm.weight",
        "lm_head.weight",
    ]
