"""A kind of unit: codes and the table of values that they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from git_theta.plugin import Spec


class Codebook:
    """``x.codes`` (u8) and ``x.book`` (256 floats): an average of codes would point to other
    values.
    """

    name = "codebook"
    summary = "codes and the values that they stand for: x.codes, x.book"

    def find(self, tensors: Mapping[str, Spec]) -> Iterator[tuple[str, str]]:
        """Each pair whose names, types and shapes fit."""
        for name, spec in tensors.items():
            book = name.removesuffix(".codes") + ".book"
            if (
                name.endswith(".codes")
                and spec.dtype == "u8"
                and tensors.get(book) in (Spec("f32", (256,)), Spec("f16", (256,)))
            ):
                yield name, book
