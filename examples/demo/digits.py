"""Handwritten digits without a download: strokes with trembling control points, drawn with a pen of
varying width.
"""

from __future__ import annotations

import numpy as np

SIDE = 28
CLASSES = 10
_SEGMENTS = 12


def _arc(
    x: float, y: float, wide: float, high: float, start: float, stop: float, points: int = 9
) -> list[tuple[float, float]]:
    """Points on an ellipse around (x, y), from angle ``start`` to ``stop`` in degrees, clockwise
    from the right.
    """
    angles = np.radians(np.linspace(start, stop, points))
    return [(x + wide * float(np.cos(a)), y + high * float(np.sin(a))) for a in angles]


# One pen stroke a digit, from (0, 0) top left to (1, 1) bottom right.
_STROKES = (
    _arc(0.5, 0.5, 0.26, 0.38, -90, 270, 13),
    [(0.32, 0.3), (0.54, 0.12), (0.54, 0.5), (0.54, 0.88)],
    [
        *_arc(0.5, 0.34, 0.24, 0.22, -160, 40, 8),
        (0.45, 0.68),
        (0.26, 0.87),
        (0.5, 0.87),
        (0.76, 0.87),
    ],
    [*_arc(0.48, 0.3, 0.22, 0.19, -150, 90, 7), *_arc(0.48, 0.69, 0.26, 0.2, -90, 150, 7)],
    [
        (0.56, 0.12),
        (0.4, 0.36),
        (0.24, 0.6),
        (0.5, 0.6),
        (0.8, 0.6),
        (0.64, 0.6),
        (0.64, 0.4),
        (0.64, 0.65),
        (0.64, 0.9),
    ],
    [
        (0.74, 0.13),
        (0.52, 0.13),
        (0.32, 0.13),
        (0.3, 0.3),
        (0.28, 0.46),
        *_arc(0.48, 0.64, 0.26, 0.24, -110, 140, 8),
    ],
    [(0.64, 0.12), (0.46, 0.27), *_arc(0.5, 0.65, 0.24, 0.23, -180, 180, 11)],
    [(0.24, 0.13), (0.5, 0.13), (0.77, 0.13), (0.66, 0.36), (0.54, 0.6), (0.42, 0.88)],
    [*_arc(0.5, 0.3, 0.19, 0.18, 90, -270, 7), *_arc(0.5, 0.69, 0.24, 0.21, -90, 270, 8)],
    [*_arc(0.5, 0.34, 0.23, 0.21, 0, -360, 10), (0.72, 0.5), (0.66, 0.7), (0.54, 0.88)],
)


def draw(
    count: int, seed: int, slant: float = 0.0, noise: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """``count`` pictures (float32, one row of 28 x 28 a picture) and what they show (0 to 9).

    ``slant`` leans the writing to the right; ``noise`` is the deviation of the grain over each
    picture, whose ink is 1.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    pictures = [_draw_some(labels[i : i + 100], random, slant, noise) for i in range(0, count, 100)]
    return np.concatenate(pictures), labels


def _draw_some(
    labels: np.ndarray, random: np.random.Generator, slant: float, noise: float
) -> np.ndarray:
    count = len(labels)
    strokes = np.stack([_resampled(stroke) for stroke in _STROKES]).astype(np.float32)[labels]
    strokes += random.normal(0, 0.022, strokes.shape)
    angle, lean = random.normal(0, 0.16, count), slant + random.normal(0, 0.16, count)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle) - lean], [np.sin(angle), np.cos(angle)]]
    ) * random.uniform(0.72, 1.08, count)
    strokes = (
        np.einsum("xyn,npy->npx", turn, strokes - 0.5)
        + 0.5
        + random.normal(0, 0.045, (count, 1, 2))
    )
    ink = _ink(strokes.astype(np.float32), random.uniform(0.03, 0.06, count).astype(np.float32))
    ink *= random.uniform(0.6, 1.0, (count, 1)).astype(np.float32)
    ink += noise * random.standard_normal(ink.shape, dtype=np.float32)
    return np.asarray(np.clip(ink, 0, 1))


def _resampled(stroke: list[tuple[float, float]]) -> np.ndarray:
    """The stroke as a fixed number of points, evenly spaced along it."""
    points = np.array(stroke)
    steps = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    places = np.linspace(0, steps[-1], _SEGMENTS + 1)
    return np.stack([np.interp(places, steps, points[:, axis]) for axis in (0, 1)], axis=1)


def _ink(strokes: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """How dark each pixel is: by its distance to the nearest segment, in pen widths."""
    centres = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
    nearest = np.full((len(strokes), SIDE, SIDE), np.inf, np.float32)
    for segment in range(_SEGMENTS):
        start = strokes[:, segment, None]
        along = strokes[:, segment + 1, None] - start
        length = np.maximum((along**2).sum(-1), 1e-9)[..., None]
        right, down = centres - start[..., 0], centres - start[..., 1]
        product = (right * along[..., 0])[:, None, :] + (down * along[..., 1])[:, :, None]
        # Of the segment's point nearest to the pixel, from its start to its end
        place = np.clip(product / length, 0, 1)
        np.minimum(
            nearest,
            (right**2)[:, None, :] + (down**2)[:, :, None] - place * (2 * product - place * length),
            out=nearest,
        )
    return np.asarray(np.exp(-nearest / widths[:, None, None] ** 2)).reshape(len(strokes), -1)
