"""Telling training state, which is never merged by a formula, from weights."""

from __future__ import annotations

import re

from git_theta.core import dtypes
from git_theta.core.manifest import Entry

COUNTER_LIMIT = 64 * 1024
"""Bytes up to which integers and bools count as state (counters, random-generator states, masks); larger ones are quantised weights."""

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


def is_counter(entry: Entry) -> bool:
    """Whether ``entry`` is training state: small integers or bools, or one number whose name says so (``optimizer.….step``).

    One float alone is no proof: models have scalar weights, such as CLIP's ``logit_scale``.
    """
    kind = dtypes.get(entry.dtype).kind
    if kind in "biu":
        return entry.nbytes <= COUNTER_LIMIT
    if kind != "f" or dtypes.count(entry.shape) != 1:
        return False
    parts = _SEPARATORS.split(entry.name.lower())
    return parts[-1] in _ITSELF or not _ABOVE.isdisjoint(parts[:-1])
