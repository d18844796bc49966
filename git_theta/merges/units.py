"""Units: tensors whose values mean something only together, such as quantised codes and their
scales.

The mean of two sides' codes times the mean of their scales is not the mean of the weights, and
neither is the product of two means of LoRA factors. So a merge takes all parts of a unit from one
side. A unit is recognised by the names, element types and shapes of its parts together: a name
alone (``logit_scale``) proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from git_theta.core import dtypes
from git_theta.core.contracts import UnitKind
from git_theta.core.names import display
from git_theta.core.tensors import Spec
from git_theta.errors import MergeError

Specs = Mapping[str, Spec]
Shape = tuple[int, ...]

FLOAT = frozenset(("f16", "bf16", "f32", "f64"))
FP8 = frozenset(("f8_e4m3fn", "f8_e5m2", "f8_e4m3fnuz", "f8_e5m2fnuz"))
INTEGER = frozenset(("i8", "u8", "i16", "u16", "i32", "u32", "i64"))
PACKED = frozenset(name for name in dtypes.names() if dtypes.get(name).kind == "q")
CODES = FP8 | PACKED | (INTEGER - {"i64"})
SCALES = FLOAT | FP8 | {"f8_e8m0fnu", "u8"}
BYTES = frozenset(("u8", "i8"))

# Elements of a code tensor may be packed, up to 8 in one integer.
_PACKING = (1, 2, 4, 8)
_BLOCKS = tuple(1 << n for n in range(1, 14))


def find(kinds: Iterable[UnitKind], tensors: Specs) -> list[tuple[UnitKind, tuple[str, ...]]]:
    """The units among ``tensors`` (the names of one model, with their types and shapes): kind and
    names of the parts.

    :class:`MergeError` if a kind, which may be a plugin's, fails or returns anything but names of
    ``tensors``.
    """
    found = []
    for kind in kinds:
        try:
            units = [tuple(dict.fromkeys(names)) for names in kind.find(tensors)]
            unknown = [name for names in units for name in names if name not in tensors]
        except Exception as error:
            what = f"{type(error).__name__}: {display(str(error) or 'no message', 200)}"
            raise MergeError(
                f"unit kind {kind.name} failed with {what}; take one side whole, or uninstall its"
                " package"
            ) from error
        if unknown:
            raise MergeError(
                f"unit kind {kind.name} named {display(str(unknown[0]), 80)}, which is not a tensor"
                " of the model"
            )
        found += [(kind, names) for names in units if len(names) > 1]
    return found


class Part(NamedTuple):
    """A further tensor of a unit: ``name`` behind the stem, its types, and whether its shape fits
    that of the codes.
    """

    name: str
    dtypes: frozenset[str]
    fits: Callable[[Shape, Shape], bool]


@dataclass(frozen=True, slots=True)
class Parts:
    """A :class:`~git_theta.core.contracts.UnitKind` whose parts are called alike but for their last
    words.

    A tensor whose name ends with one of ``codes`` (an empty word: any name), of one of ``dtypes``,
    is a unit with all ``parts`` that the model has, if one of ``proof`` is among them. What stands
    before the word is the stem that all names begin with.
    """

    name: str
    summary: str
    codes: tuple[str, ...]
    dtypes: frozenset[str]
    proof: tuple[Part, ...]
    parts: tuple[Part, ...] = ()

    def find(self, tensors: Specs) -> Iterator[tuple[str, ...]]:
        """The units among ``tensors``: the names of their parts."""
        ends = tuple(part.name for part in self.proof)
        for proof in [name for name in tensors if name.endswith(ends)]:
            for part in self.proof:
                if (
                    proof.endswith(part.name)
                    and tensors[proof].dtype in part.dtypes
                    and _begins_word(proof, part.name)
                ):
                    stem = proof[: len(proof) - len(part.name)]
                    for word in self.codes:
                        codes = stem + word
                        known = (
                            codes in tensors
                            and tensors[codes].dtype in self.dtypes
                            and _begins_word(codes, word)
                        )
                        if known and _is(part, proof, codes, tensors):
                            yield (
                                codes,
                                proof,
                                *(
                                    stem + p.name
                                    for p in self.parts
                                    if _is(p, stem + p.name, codes, tensors)
                                ),
                            )


def _is(part: Part, name: str, codes: str, tensors: Specs) -> bool:
    """Whether the tensor ``name`` is ``part`` of the unit whose codes are called ``codes``."""
    spec = tensors.get(name)
    return (
        spec is not None
        and name != codes
        and spec.dtype in part.dtypes
        and part.fits(tensors[codes].shape, spec.shape)
    )


_LORA = re.compile(r"(?i)(?<![a-z0-9])(q?lora[._/]?(?:embedding[._/]?)?)(a|down)(?![a-z0-9])")
_OTHER_FACTOR = {"a": "b", "A": "B", "down": "up", "Down": "Up", "DOWN": "UP"}


@dataclass(frozen=True, slots=True)
class LowRankKind:
    """A :class:`~git_theta.core.contracts.UnitKind`: the two factors of a LoRA, and its ``alpha``
    and DoRA's magnitudes if present.
    """

    name: str = "lora"
    summary: str = "LoRA: the factors A and B, whose product changes a weight"

    def find(self, tensors: Specs) -> Iterator[tuple[str, ...]]:
        """The units among ``tensors``: A, B, and what else belongs to them."""
        for name, spec in tensors.items():
            for match in (
                _LORA.finditer(name) if spec.dtype in FLOAT and "lora" in name.lower() else ()
            ):
                other = _OTHER_FACTOR.get(match[2])
                partner = f"{name[: match.start(2)]}{other}{name[match.end(2) :]}"
                if (
                    partner in tensors
                    and tensors[partner].dtype in FLOAT
                    and _factors(spec.shape, tensors[partner].shape)
                ):
                    stem, rest = name[: match.start()], name[match.end() :]
                    ends = (
                        f"lora_magnitude_vector{rest}",
                        f"lora_magnitude_vector{rest.removesuffix('.weight')}",
                        "alpha",
                        "dora_scale",
                    )
                    further = [
                        stem + end
                        for end in ends
                        if stem + end in tensors and tensors[stem + end].dtype in FLOAT
                    ]
                    yield (name, partner, *further)


def _begins_word(name: str, word: str) -> bool:
    """Whether ``word``, with which ``name`` ends, is not the rest of a longer word there
    (``weight`` in ``reweight``).
    """
    before = name[: len(name) - len(word)][-1:]
    return not word or not before.isalnum() or not word[0].isalnum()


# Shapes


def any_shape(_: Shape, __: Shape) -> bool:
    """Whether a part may have this shape: always."""
    return True


def one_number(_: Shape, part: Shape) -> bool:
    """Whether a part holds a single number."""
    return prod(part) == 1


def scaling(codes: Shape, scales: Shape) -> bool:
    """Whether ``scales`` holds a number for all ``codes``, or for each row, column or block of them
    (a block may lie flat).
    """
    left = [size for size in scales if size != 1]
    if not left:
        return True
    if len(left) == 1 and _cuts(prod(codes), left[0]):
        return True
    dimensions = iter(codes)
    return all(any(_cuts(size, count) for size in dimensions) for count in left)


def packed_zeros(codes: Shape, zeros: Shape) -> bool:
    """Whether ``zeros`` [groups, out * bits / 32] fit GPTQ's ``codes`` [in * bits / 32, out], or
    scale AWQ's (see :func:`scaling`).
    """
    packed = (
        len(codes) == len(zeros) >= 2
        and codes[-1] > 0
        and 0 < zeros[-1] <= codes[-1]
        and 32 * zeros[-1] % codes[-1] == 0
    )
    return packed or scaling(codes, zeros)


def by_row(codes: Shape, part: Shape) -> bool:
    """Whether ``part`` has a number for each row of ``codes``."""
    return bool(codes) and prod(part) == codes[0]


def without_last(codes: Shape, part: Shape) -> bool:
    """Whether ``part`` has a number for each vector of ``codes`` along the last dimension."""
    return codes[:-1] == part


def as_many(codes: Shape, part: Shape) -> bool:
    """Whether ``part`` has as many numbers as ``codes``."""
    return prod(codes) == prod(part)


def table(_: Shape, part: Shape) -> bool:
    """Whether ``part`` can be the list of values that codes stand for."""
    return prod(part) in (4, 8, 16, 128, 256)


def vector(_: Shape, part: Shape) -> bool:
    """Whether ``part`` has one dimension."""
    return len(part) == 1


def shares_rank(one: Shape, other: Shape) -> bool:
    """Whether two factors have a dimension in common, over which they are multiplied."""
    return not set(one).isdisjoint(other)


def _cuts(size: int, count: int) -> bool:
    """Whether ``size`` elements (or packed ones) make ``count`` equal blocks, the last of which may
    be short if they are powers of two.
    """
    for total in (size * k for k in _PACKING):
        if 0 < count <= total and (
            total % count == 0 or any(-(-total // block) == count for block in _BLOCKS)
        ):
            return True
    return False


def _factors(a: Shape, b: Shape) -> bool:
    """Whether ``a`` and ``b`` can be multiplied: [rank, in] and [out, rank], or [in, rank] and
    [rank, out]; with kernels or experts too.
    """
    if len(a) < 2 or len(b) < 2:
        return False
    return a[0] == b[1] or a[-1] == b[0] or a[-2] == b[-1] or a[-1] == b[-2]


_SCALE = tuple(
    Part(word, SCALES, scaling)
    for word in ("scale", "scales", "scale_inv", "scale_weight", "absmax")
)
_ZERO = tuple(
    Part(word, FLOAT | INTEGER | FP8, scaling)
    for word in ("zero_point", "zero_points", "zeros", "zero", "zp", "shift")
)


def _behind(parts: Iterable[Part], *marks: str) -> tuple[Part, ...]:
    """``parts`` whose names follow the codes' own, after one of ``marks``."""
    return tuple(Part(mark + part.name, part.dtypes, part.fits) for mark in marks for part in parts)


_MORE_BEHIND = (
    *_behind(_ZERO, "_", ".", "._"),
    Part("_scale_2", FLOAT, scaling),
    Part("_global_scale", FLOAT, one_number),
    Part("_g_idx", INTEGER, vector),
    Part("_shape", INTEGER, vector),
)
_ALPHA = (Part("alpha", FLOAT, one_number), Part("dora_scale", FLOAT, any_shape))


def _factor(*names: str) -> tuple[Part, ...]:
    return tuple(Part(name, FLOAT, shares_rank) for name in names)


# The one table of what is built in; plugins add to it by the hook register_unit_kinds.
KINDS: tuple[UnitKind, ...] = (
    Parts(
        "gptq",
        "weights as GPTQ and AWQ store them: qweight, qzeros, scales, g_idx",
        ("qweight",),
        INTEGER - {"i64"},
        (Part("scales", FLOAT, scaling),),
        (Part("qzeros", INTEGER, packed_zeros), Part("g_idx", INTEGER, vector)),
    ),
    Parts(
        "bitsandbytes-4bit",
        "4-bit weights of bitsandbytes: weight, absmax, quant_map, quant_state, and the nested"
        " ones",
        ("",),
        FLOAT | BYTES,
        (Part(".absmax", FLOAT | BYTES, scaling),),
        (
            Part(".quant_map", FLOAT, table),
            Part(".nested_absmax", FLOAT, vector),
            Part(".nested_quant_map", FLOAT, table),
            Part(".quant_state.bitsandbytes__nf4", BYTES, vector),
            Part(".quant_state.bitsandbytes__fp4", BYTES, vector),
        ),
    ),
    Parts(
        "bitsandbytes-8bit",
        "8-bit weights of bitsandbytes: weight, SCB",
        ("weight", "CB"),
        BYTES,
        (Part("SCB", FLOAT, by_row),),
        (Part("weight_format", BYTES, one_number),),
    ),
    *(
        Parts(
            "optimizer-8bit" if number == "1" else f"optimizer-8bit-{number}",
            f"an 8-bit optimizer's moment: state{number}, absmax{number}, qmap{number}",
            (f"state{number}",),
            BYTES,
            (Part(f"absmax{number}", FLOAT, scaling),),
            (Part(f"qmap{number}", FLOAT, table),),
        )
        for number in "12"
    ),
    Parts(
        "scaled",
        "fp8, int8 or packed values and their scale: x with x_scale, x_scale_inv, x_zero_point, …",
        ("",),
        CODES,
        _behind(_SCALE, "_", ".", "._"),
        _MORE_BEHIND,
    ),
    Parts(
        "scaled-parts",
        "codes and scales that are parts of one weight (torchao, HQQ, quanto, AQLM,"
        " compressed-tensors): qdata, scale, zero_point, …",
        (
            "weight",
            "qdata",
            "int_data",
            "float8_data",
            "packed_weight",
            "_data",
            "W_q",
            "codes",
            "qweight",
        ),
        CODES,
        (*_SCALE, *_behind(_SCALE, "_"), Part("scale_and_zero", FLOAT, any_shape)),
        (
            *_ZERO,
            *_behind(_ZERO, "_"),
            Part("qmap", FLOAT, table),
            Part("codebooks", FLOAT, any_shape),
        ),
    ),
    Parts(
        "packed",
        "packed codes of compressed-tensors: weight_packed, weight_scale, weight_zero_point,"
        " weight_g_idx, weight_shape",
        ("_packed", "_quantized"),
        CODES,
        (Part("_scale", SCALES, scaling),),
        _MORE_BEHIND,
    ),
    Parts(
        "mlx",
        "quantised weights of MLX: weight, scales, biases",
        ("weight",),
        frozenset(("u32",)),
        (Part("scales", FLOAT, scaling),),
        (Part("biases", FLOAT, scaling),),
    ),
    Parts(
        "mxfp4",
        "microscaling weights: blocks and their scales",
        ("_blocks", ".blocks"),
        BYTES,
        (Part("_scales", SCALES, without_last), Part(".scales", SCALES, without_last)),
    ),
    Parts(
        "quantizer",
        "a quantizer's scale and integer zero point",
        ("zero_point",),
        INTEGER,
        (Part("scale", FLOAT, as_many),),
    ),
    LowRankKind(),
    Parts(
        "loha",
        "LoHa: four factors of a weight's change",
        ("hada_w1_a",),
        FLOAT,
        _factor("hada_w1_b"),
        (*_factor("hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"), *_ALPHA),
    ),
    Parts(
        "lokr",
        "LoKr: the factors of a Kronecker product",
        ("lokr_w1", "lokr_w1_a"),
        FLOAT,
        tuple(Part(f"lokr_{name}", FLOAT, any_shape) for name in ("w2", "w2_a")),
        (*(Part(f"lokr_{name}", FLOAT, any_shape) for name in ("w1_b", "w2_b", "t2")), *_ALPHA),
    ),
)
