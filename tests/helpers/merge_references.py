"""Each merge formula once more, in a few lines of plain float64, written from the papers and not
from the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np
from blake3 import blake3

F32 = np.dtype(np.float32)
F64 = np.dtype(np.float64)
F16 = np.dtype(np.float16)
BF16 = np.dtype(ml_dtypes.bfloat16)
FP8 = tuple(
    np.dtype(getattr(ml_dtypes, f"float8_{kind}"))
    for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz")
)
Array = np.ndarray


@lru_cache
def _table(dtype: np.dtype) -> tuple[Array, Array, Array]:
    """Values of the non-negative codes, the finite ones, and the middles up to the one beyond the
    largest.
    """
    with np.errstate(all="ignore"):
        table = (
            np.arange(1 << (8 * dtype.itemsize - 1), dtype=f"u{dtype.itemsize}")
            .view(dtype)
            .astype(np.float64)
        )
    finite = table[: len(table) if np.isfinite(table).all() else int(np.argmin(np.isfinite(table)))]
    steps = np.append(finite, 2 * finite[-1] - finite[-2])
    return table, finite, (steps[:-1] + steps[1:]) / 2


def rounded(values: Array, dtype: np.dtype) -> Array:
    """float64 to ``dtype``, to nearest, ties to the even code: looked up among all values of the
    type (float32: by numpy).
    """
    if dtype in (F32, F64):
        with np.errstate(all="ignore"):
            return values.astype(dtype)
    table, finite, middles = _table(dtype)
    values = np.asarray(values)
    size = np.abs(values)
    low = np.searchsorted(middles, size, side="left")
    tie = (low < len(middles)) & (size == middles[np.minimum(low, len(middles) - 1)])
    code = np.where(tie & (low % 2 == 1), low + 1, low)
    over = code >= len(finite)
    result = np.where(
        over, np.inf if np.isinf(table).any() else np.nan, table[np.minimum(code, len(finite) - 1)]
    )
    result = np.where(np.isnan(values), np.nan, np.copysign(result, values))
    with np.errstate(all="ignore"):
        return result.astype(dtype)


# The references: (base, sides, options) -> float64. All get float64.


def average(base: Array, sides: list[Array], o: dict[str, Any]) -> Array:
    w = o.get("weights") or [1.0] * len(sides)
    return sum(wi * s for wi, s in zip(w, sides, strict=True)) / (
        sum(w) if o.get("normalize", True) else 1.0
    )


def nearswap(base: Array, sides: list[Array], o: dict[str, Any]) -> Array:
    a, b = sides
    w = np.clip(o["t"] / np.where(a == b, 1e-300, np.abs(a - b)), 0, 1)
    return w * b + (1 - w) * a


def slerp(base: Array, sides: list[Array], o: dict[str, Any]) -> Array:
    a, b = sides
    t, na, nb = o.get("t", 0.5), np.linalg.norm(a), np.linalg.norm(b)
    cosine = np.sum(a * b) / (na * nb) if na and nb else 1.0
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * b
    angle = np.arccos(cosine)
    return np.sin((1 - t) * angle) / np.sin(angle) * a + np.sin(t * angle) / np.sin(angle) * b


def karcher(base: Array, sides: list[Array], o: dict[str, Any]) -> Array:
    w = np.array(o.get("weights") or [1.0] * len(sides))
    w = w / w.sum()
    norms = np.array([np.linalg.norm(s) for s in sides])
    used = [i for i in range(len(sides)) if norms[i] > 0]
    if not used:
        return np.zeros_like(sides[0])
    u = [sides[i] / norms[i] for i in used]
    share = w[used] / w[used].sum()
    m = sum(x * d for x, d in zip(share, u, strict=True))
    # Opposite directions: there is no mean one
    if any(np.sum(a * b) < -0.999999 for a in u for b in u):
        return sum(x * s for x, s in zip(w, sides, strict=True))
    m = m / np.linalg.norm(m)
    for _ in range(o.get("max_iter", 10)):
        angles = [np.arccos(np.clip(np.sum(m * d), -1, 1)) for d in u]
        pulls = [
            x * a / np.sin(a) * (d - np.cos(a) * m)
            for x, a, d in zip(share, angles, u, strict=True)
            if a >= o.get("tol", 1e-5)
        ]
        step = sum(pulls) if pulls else np.zeros_like(m)
        size = np.linalg.norm(step)
        if size < o.get("tol", 1e-5):
            break
        m = np.cos(size) * m + np.sin(size) * step / size
        m = m / np.linalg.norm(m)
    return float((w * norms).sum()) * m


def _sum_of(deltas: list[Array], o: dict[str, Any]) -> Array:
    w = o.get("weights") or [1.0] * len(deltas)
    return sum(wi * d for wi, d in zip(w, deltas, strict=True))


def _elect(deltas: list[Array], o: dict[str, Any]) -> Array:
    w = o.get("weights") or [1.0] * len(deltas)
    parts = np.stack([wi * d for wi, d in zip(w, deltas, strict=True)])
    sizes = np.stack([np.full(deltas[0].shape, abs(wi)) for wi in w])
    agree = (np.sign(parts) == np.sign(parts.sum(0))) & (parts != 0)
    below = (sizes * agree).sum(0)
    return (parts * agree).sum(0) / np.where(below == 0, 1, below)


def _top(d: Array, k: int) -> Array:
    return np.where(np.abs(d) >= np.sort(np.abs(d).ravel())[d.size - k], d, 0.0) if d.size else d


def _kept(share: float, size: int) -> int:
    return min(size, max(1, _nearest(share, size)))


def _nearest(share: float, size: int) -> int:
    return int((Decimal(str(share)) * size).to_integral_value(ROUND_HALF_UP))


def _band(d: Array, density: float, gamma: float) -> Array:
    if not d.size:
        return d
    ranked = np.sort(np.abs(d).ravel())
    kept = _kept(density, d.size)
    top = min(_nearest(gamma, d.size), d.size - kept)
    bottom = d.size - kept - top
    return np.where((np.abs(d) >= ranked[bottom]) & (np.abs(d) <= ranked[d.size - 1 - top]), d, 0.0)


def philox(key: tuple[int, int], counter: int) -> list[int]:
    """Philox4x64-10 of (counter, 0, 0, 0), from Salmon et al. 2011."""
    mask = (1 << 64) - 1
    x, k = [counter & mask, (counter >> 64) & mask, 0, 0], list(key)
    for _ in range(10):
        one, two = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
        x = [(two >> 64) ^ x[1] ^ k[0], two & mask, (one >> 64) ^ x[3] ^ k[1], one & mask]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return x


def uniforms(seed: int, name: str, side: Array, count: int) -> Array:
    """The documented random numbers of one side, as float64 in [0, 1)."""
    hasher = blake3(b"git-theta random 1")
    for part in (
        str(seed).encode(),
        name.encode(),
        blake3(np.ascontiguousarray(side).tobytes()).hexdigest().encode(),
    ):
        hasher.update(len(part).to_bytes(8, "little") + part)
    key = (
        int.from_bytes(hasher.digest()[:8], "little"),
        int.from_bytes(hasher.digest()[8:16], "little"),
    )
    words = [word for block in range(count // 8 + 1) for word in philox(key, block + 1)]
    halves = [half for word in words for half in (word & 0xFFFFFFFF, word >> 32)]
    return np.array(halves[:count], np.float64) / 2.0**32


def _drop(d: Array, u: Array, p: Array | float) -> Array:
    return np.where(u.reshape(d.shape) < p, d, 0.0) / p


def _ranked_probability(d: Array, density: float, epsilon: float) -> Array:
    rows = d.reshape(-1, max(1, d.shape[-1] if d.ndim else 1))
    p = np.empty(rows.shape)
    for r, row in enumerate(rows):
        for rank, place in enumerate(np.argsort(np.abs(row), kind="stable")):
            p[r, place] = (
                density - epsilon + 2 * epsilon * (rank / (len(row) - 1) if len(row) > 1 else 0.5)
            )
    return p.reshape(d.shape)


def task_vectors(
    sparsify: Callable[[Array, int, dict[str, Any]], Array],
    combine: Callable[[list[Array], dict[str, Any]], Array],
) -> Callable[[Array, list[Array], dict[str, Any]], Array]:
    def reference(base: Array, sides: list[Array], o: dict[str, Any]) -> Array:
        deltas = [sparsify(s - base, i, o) for i, s in enumerate(sides)]
        return base + o.get("lambda", 1.0) * combine(deltas, o)

    return reference


def _trim(d: Array, side: int, o: dict[str, Any]) -> Array:
    return _top(d, _kept(o.get("density", 0.2), d.size))


def _dare(d: Array, side: int, o: dict[str, Any]) -> Array:
    return _drop(
        d, uniforms(o.get("seed", 0), o["name"], o["raw"][side], d.size), o.get("density", 0.5)
    )


def _della(d: Array, side: int, o: dict[str, Any]) -> Array:
    p = _ranked_probability(d, o.get("density", 0.5), o.get("epsilon", 0.15))
    return _drop(d, uniforms(o.get("seed", 0), o["name"], o["raw"][side], d.size), p)


def _crumbs(d: Array, side: int, o: dict[str, Any]) -> Array:
    return _band(d, o.get("density", 0.9), o.get("gamma", 0.01))


def _whole(d: Array, side: int, o: dict[str, Any]) -> Array:
    return d


def sce(base: Array, sides: list[Array], o: dict[str, Any]) -> Array:
    d = np.stack(sides) - base
    topk = o.get("select_topk", 1.0)
    if topk < 1 and base.size:
        # n^2 times the variance, and free of rounding for values of few bits, so that ties are
        # ties.
        variance = sum((d[i] - d[j]) ** 2 for i in range(len(d)) for j in range(i))
        varying = int(np.count_nonzero(variance))
        if varying:
            d = np.where(
                variance >= np.sort(variance.ravel())[base.size - _kept(topk, varying)], d, 0.0
            )
    energy = (d * d).reshape(len(sides), -1).sum(1)
    w = energy / energy.sum() if energy.sum() > 0 else np.ones(len(sides))
    w = w.reshape(-1, *[1] * base.ndim)
    agree = (np.sign(d) == np.sign(d.sum(0))) & (d != 0)
    below = (w * agree).sum(0)
    return base + (w * d * agree).sum(0) / np.where(below == 0, 1, below)


def model_stock(base: Array, sides: list[Array], o: dict[str, Any]) -> Array:
    n = len(sides)
    d = [s - base for s in sides]
    cosines = []
    for i in range(n):
        for j in range(i + 1, n):
            size = np.linalg.norm(d[i]) * np.linalg.norm(d[j])
            cosines.append(np.sum(d[i] * d[j]) / size if size else 0.0)
    c = np.mean(cosines)
    t = n * c / (1 + (n - 1) * c) if c >= -0.5 / (n - 1) else 0.0
    return t * (sum(sides) / n) + (1 - t) * base


def ram(base: Array, sides: list[Array], o: dict[str, Any]) -> Array:
    d = np.stack(sides) - base
    changed = np.abs(d) > o.get("epsilon", 1e-5)
    n = changed.sum(0)
    factor = np.ones(len(sides))
    if "plus" in o:
        alone = (changed & (n == 1)).reshape(len(sides), -1).sum(1)
        both = (changed & (n > 1)).reshape(len(sides), -1).sum(1)
        overlap = np.where(alone > 0, both / np.maximum(alone, 1), 0)
        factor = 1 + o.get("r", 0.1) * np.clip(overlap, 0, o.get("alpha", 0.2))
    scaled = np.where(n == 1, d * factor.reshape(-1, *[1] * base.ndim), d)
    return base + (scaled * changed).sum(0) / np.maximum(n, 1)


def arcee_fusion(base: Array, sides: list[Array], o: dict[str, Any]) -> Array:
    def softmax(x: Array) -> Array:
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    if not base.size:
        return base
    shape = base.shape
    base = np.atleast_1d(base)
    total, count = np.zeros_like(base), np.zeros(base.shape)
    for side in sides:
        d = side.reshape(base.shape) - base
        p, q = softmax(base + d) + 1e-8, softmax(base) + 1e-8
        importance = np.abs(d) * np.maximum((p * np.log(p / q)).sum(axis=-1, keepdims=True), 0)
        first, median, third = np.quantile(importance, [0.25, 0.5, 0.75], method="lower")
        keep = (importance >= median + 1.5 * (third - first)) & (d != 0)
        total += np.where(keep, d, 0)
        count += keep
    return (base + total / np.maximum(count, 1)).reshape(shape)


def fisher(base: Array, sides: list[Array], o: dict[str, Any]) -> Array:
    f = [
        np.maximum(x, o.get("floor", 1e-8)) * w
        for x, w in zip(o["fisher"], o.get("weights") or [1.0] * len(sides), strict=True)
    ]
    return sum(x * s for x, s in zip(f, sides, strict=True)) / sum(f)


def regmean(base: Array, sides: list[Array], o: dict[str, Any]) -> Array:
    alpha = o.get("alpha", 0.9)
    grams = [alpha * g + (1 - alpha) * np.diag(np.diag(g)) for g in o["gram"]]
    turn = (lambda m: m) if o.get("layout") == "in_out" else np.transpose
    return turn(
        np.linalg.inv(sum(grams)) @ sum(g @ turn(s) for g, s in zip(grams, sides, strict=True))
    )


def diloco(base: Array, sides: list[Array], o: dict[str, Any]) -> Array:
    gradient = sum(base - s for s in sides) / len(sides)
    m = o.get("momentum", 0.9)
    velocity = m * o.get("velocity", 0.0) + gradient
    return base - o.get("lr", 0.7) * (gradient + m * velocity)


REFERENCES: dict[str, Callable[[Array, list[Array], dict[str, Any]], Array]] = {
    "ours": lambda base, sides, o: sides[0],
    "theirs": lambda base, sides, o: sides[1],
    "base": lambda base, sides, o: base,
    "average": average,
    "linear": average,
    "nearswap": nearswap,
    "slerp": slerp,
    "karcher": karcher,
    "multislerp": karcher,
    "task_arithmetic": task_vectors(_whole, _sum_of),
    "ties": task_vectors(_trim, _elect),
    "dare_linear": task_vectors(_dare, _sum_of),
    "dare_ties": task_vectors(_dare, _elect),
    "breadcrumbs": task_vectors(_crumbs, _sum_of),
    "breadcrumbs_ties": task_vectors(_crumbs, _elect),
    "della": task_vectors(_della, _elect),
    "della_linear": task_vectors(_della, _sum_of),
    "sce": sce,
    "model_stock": model_stock,
    "ram": ram,
    "ramplus_tl": lambda base, sides, o: ram(base, sides, o | {"plus": True}),
    "arcee_fusion": arcee_fusion,
    "fisher": fisher,
    "regmean": regmean,
    "diloco": diloco,
}
