"""Git-Theta: version control for machine-learning models, as an extension of Git.

What Python programs use is here, and is imported when it is first named: :func:`load`,
:func:`open`, :func:`save`, :func:`save_files`, :func:`diff`, :func:`merge`, :func:`log` and
:func:`record_metrics`. Errors are in :mod:`git_theta.errors`, callbacks for training in
:mod:`git_theta.training`, contract suites for plugins in :mod:`git_theta.testing`. The guide is
``docs/python.md``.
"""

from __future__ import annotations

# What type checkers take for true; importing typing would cost a third of the time this takes
TYPE_CHECKING = False
if TYPE_CHECKING:
    from git_theta.api.loading import Checkpoint as Checkpoint
    from git_theta.api.loading import load as load
    from git_theta.api.loading import load_from_git as load_from_git
    from git_theta.api.loading import open as open  # noqa: A004 - git_theta.open, as gzip.open
    from git_theta.api.model_history import diff as diff
    from git_theta.api.model_history import log as log
    from git_theta.api.model_history import merge as merge
    from git_theta.api.model_history import record_metrics as record_metrics
    from git_theta.api.saving import save as save
    from git_theta.api.saving import save_files as save_files
    from git_theta.api.saving import save_to_git as save_to_git
    from git_theta.api.sessions import ThetaWarning as ThetaWarning

__version__ = "1.0.0.dev0"

_PLACES = {
    **dict.fromkeys(("Checkpoint", "load", "load_from_git", "open"), "loading"),
    **dict.fromkeys(("save", "save_files", "save_to_git"), "saving"),
    **dict.fromkeys(("diff", "log", "merge", "record_metrics"), "model_history"),
    "ThetaWarning": "sessions",
}
__all__ = ["__version__", *_PLACES]  # noqa: PLE0604 - the keys are texts


def __getattr__(name: str) -> object:
    """What :data:`__all__` promises, imported now."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"git_theta.api.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
