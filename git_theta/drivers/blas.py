"""The library that numpy multiplies matrices with."""

from __future__ import annotations

import os


def keep_to_one_thread() -> None:
    """Have each product computed in the thread that asks for it.

    To be called before numpy is imported, by a program of ours.

    Tensors are spread over threads already. With threads of its own in each, OpenBLAS spends its
    time waiting: on two busy processors the ranks of 45 small matrices took 24 s instead of 1 s.
    """
    for name in (
        "OPENBLAS_NUM_THREADS",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    ):
        os.environ.setdefault(name, "1")
