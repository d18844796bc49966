"""Telling training state from weights by its names: counters, which no formula merges, and what
cannot be negative.

No size proves anything: a large tensor may be state, and a few integers may be quantised weights.
"""

from __future__ import annotations

import re

from git_theta.core import dtypes
from git_theta.core.manifest import Entry

_SEPARATORS = re.compile(r"[./:\[\]'\"#]+")
_ABOVE = frozenset(
    (
        "optimizer",
        "optimizers",
        "optimizer_state",
        "optimizer_states",
        "optimizer_state_dict",
        "optim",
        "optim_state",
        "opt_state",
        "scheduler",
        "schedulers",
        "lr_scheduler",
        "lr_schedulers",
        "scaler",
        "grad_scaler",
        "amp",
        "loops",
        "callbacks",
        "rng",
        "rng_state",
        "trainer",
        "trainer_state",
        "param_groups",
    )
)
_ITSELF = frozenset(
    (
        "step",
        "steps",
        "global_step",
        "epoch",
        "epochs",
        "global_epoch",
        "iter",
        "iteration",
        "iterations",
        "num_steps",
        "num_epochs",
        "lr",
        "learning_rate",
        "initial_lr",
        "last_epoch",
        "loss",
        "best_loss",
        "best_score",
        "best_metric",
        "num_updates",
        "total_steps",
        "samples_seen",
        "tokens_seen",
        "num_batches_tracked",
    )
)


# The moments of optimizers, one number for each parameter. Their squares cannot be negative.
_MOMENTS = frozenset(("exp_avg", "momentum_buffer", "momentum", "mu", "m", "trace", "delta"))
_SQUARES = frozenset(
    (
        "exp_avg_sq",
        "max_exp_avg_sq",
        "exp_avg_sq_row",
        "exp_avg_sq_col",
        "exp_inf",
        "square_avg",
        "acc_delta",
        "nu",
        "nu_max",
        "v_row",
        "v_col",
        "vhat",
        "second_moment",
        "accumulator",
        "accumulator_value",
        "sum_of_squares",
    )
)
# Slots of optimizers whose names say nothing elsewhere.
_SQUARES_OF_OPTIMIZERS = frozenset(("sum", "v", "rms", "velocity_sq"))
_VARIANCES = frozenset(
    (
        "running_var",
        "running_std",
        "moving_var",
        "moving_variance",
        "moving_std",
        "ema_var",
        "batch_var",
        "fisher",
        "fisher_diag",
        "fim",
    )
)


def is_counter(entry: Entry) -> bool:
    """Whether ``entry`` is one number that counts or sets how training goes on, as its name says
    (``optimizer.….step``).

    One number alone is no proof: models have scalar weights, such as CLIP's ``logit_scale``, and
    optimizers have moments of these.
    """
    if dtypes.get(entry.dtype).kind not in "biuf" or dtypes.count(entry.shape) != 1:
        return False
    parts = _parts(entry.name)
    if parts[-1] in _ITSELF:
        return True
    moment = "param_groups" not in parts and not (
        _MOMENTS | _SQUARES | _SQUARES_OF_OPTIMIZERS
    ).isdisjoint(parts)
    return not moment and not _ABOVE.isdisjoint(parts[:-1])


def never_negative(name: str) -> bool:
    """Whether the tensor ``name`` holds variances, means of squares or Fisher information, which
    are 0 or more by definition.
    """
    parts = _parts(name)
    if parts[-1] in _VARIANCES or not _SQUARES.isdisjoint(parts):
        return True
    if "batch_stats" in parts[:-1] and parts[-1] == "var":  # Flax
        return True
    return parts[-1] in _SQUARES_OF_OPTIMIZERS and not _ABOVE.isdisjoint(parts)


def _parts(name: str) -> list[str]:
    """The words of a name; without those that TensorFlow adds to all."""
    parts = [part for part in _SEPARATORS.split(name.lower()) if part]
    return (parts[:-2] if parts[-2:] == ["attributes", "variable_value"] else parts) or [""]
