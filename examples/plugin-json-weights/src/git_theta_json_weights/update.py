"""The update: a tensor that is its earlier value times one number, to the last bit.

What is stored is that number: eight bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from git_theta.plugin import Buffer, Encoded, Level, PayloadError, Spec, Tensor, UsageError, dtypes

_TYPES = ("f16", "f32", "f64")


class Scaled:
    """Multiplication in float64, rounded once to the tensor's type: IEEE 754 gives the same bits on
    every machine.
    """

    name = "scaled"
    needs_base = True
    parts: tuple[str, ...] = ("factor",)

    # There is just one way
    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        """The payload; None unless ``tensor`` is ``base`` times a number, bit for bit."""
        if (
            base is None
            or base.spec != tensor.spec
            or tensor.dtype not in _TYPES
            or tensor.spec.nbytes < 64
        ):
            return None
        old, new = base.array().reshape(-1), tensor.array().reshape(-1)
        place = int(np.argmax(np.abs(np.nan_to_num(old, posinf=0, neginf=0))))
        with np.errstate(all="ignore"):
            guess = np.float64(new[place]) / np.float64(old[place])
        # People write 0.1 or float32(0.1)
        for factor in (guess, np.float64(np.float32(guess)), np.float64(np.round(guess, 6))):
            if np.isfinite(factor) and _scaled(base, factor) == bytes(tensor.data):
                return _payload(factor)
        return None

    def from_parts(
        self, base: Tensor, parts: Mapping[str, np.ndarray]
    ) -> tuple[Tensor, Encoded | None]:
        """``base`` times the part ``factor``, for ``git theta add --update-type scaled``.

        :class:`UsageError` unless that is one finite number, and ``base`` is made of floats.
        """
        if base.dtype not in _TYPES:
            raise UsageError(f"a scaled tensor is made of f16, f32 or f64, not {base.dtype}")
        given = parts["factor"].astype(np.float64).reshape(-1)
        if len(given) != 1 or not np.isfinite(given[0]):
            raise UsageError("the factor of a scaled tensor is one finite number")
        new = Tensor(base.dtype, base.shape, _scaled(base, given[0]))
        return new, _payload(given[0])

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        """The tensor's bytes; :class:`PayloadError` for anything that :meth:`encode` cannot have
        written.
        """
        if base is None or base.spec != spec or spec.dtype not in _TYPES:
            raise PayloadError(f"a scaled tensor of {spec} needs a base of the same type")
        if len(payload) != 8:
            raise PayloadError(f"the factor of a scaled tensor has 8 bytes, not {len(payload)}")
        factor = np.frombuffer(payload, "<f8")[0]
        if not np.isfinite(factor):
            raise PayloadError("the factor of a scaled tensor is no number")
        return _scaled(base, factor)


def _payload(factor: np.float64) -> Encoded:
    return Encoded([factor.astype("<f8").tobytes()], f"factor={factor:.6g}".replace("+", ""))


def _scaled(base: Tensor, factor: np.float64) -> bytes:
    with np.errstate(all="ignore"):
        return (
            (base.array().astype(np.float64) * factor)
            .astype(dtypes.numpy_dtype(base.dtype))
            .tobytes()
        )
