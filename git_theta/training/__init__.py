"""Commits every checkpoint of a training run in the background, with its metrics.

:class:`~git_theta.training.background.BackgroundSaver` serves a loop of your own,
:class:`~git_theta.training.transformers.ThetaCallback` the Trainer of transformers, and
:class:`~git_theta.training.lightning.ThetaCheckpoint` Lightning. Each is imported, and its
framework with it, when it is first named.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from git_theta.training.background import BackgroundSaver as BackgroundSaver
    from git_theta.training.lightning import ThetaCheckpoint as ThetaCheckpoint
    from git_theta.training.transformers import ThetaCallback as ThetaCallback

_PLACES = {
    "BackgroundSaver": "background",
    "ThetaCallback": "transformers",
    "ThetaCheckpoint": "lightning",
}
__all__ = [*_PLACES]  # noqa: PLE0604 - the keys are texts


def __getattr__(name: str) -> object:
    """What :data:`__all__` promises, imported now."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"git_theta.training.{_PLACES[name]}"), name)
    globals()[name] = value
    return value
