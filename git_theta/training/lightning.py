"""A checkpoint callback for Lightning, under whichever of its two names (``lightning`` or
``pytorch_lightning``) is in use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from git_theta.api.sessions import RepoLike
from git_theta.training.background import BackgroundSaver, default_branch, numbers


def _model_checkpoint() -> Any:
    names = ("lightning.pytorch", "pytorch_lightning")
    for name in (*(name for name in names if name in sys.modules), *names):
        try:
            return import_module(f"{name}.callbacks").ModelCheckpoint
        except ModuleNotFoundError as error:
            if error.name not in ("lightning", name, f"{name}.callbacks"):
                raise
    raise ModuleNotFoundError(
        "neither 'lightning' nor 'pytorch_lightning' is installed; 'pip install lightning' installs"
        " the one"
    )


# A base that is known when it is imported
class ThetaCheckpoint(_model_checkpoint()):  # type: ignore[misc]  # as Lightning is installed
    """A ``ModelCheckpoint`` that also commits every checkpoint it saves, in the background;
    training neither waits nor fails for it.

    A checkpoint becomes ``path`` on ``branch`` of the repository that ``repo`` lies in, just as
    Lightning wrote it, so that a run can go on from it. By default the branch is ``runs/<the
    folder's name>``; where the folder is Lightning's own ``checkpoints``, the one around it counts.
    The metrics logged so far are noted on the commit, and with ``monitor`` the tag ``best_tag``
    (default: ``best/<branch>``) moves to the best. All other arguments are those of
    ``ModelCheckpoint``. ``path`` must be tracked by Git-Theta: commit a ``.gitattributes`` that
    says so first.

    ``saver.commits`` and ``saver.errors`` tell what was committed and what could not be; errors are
    logged when training ends.
    """

    def __init__(
        self,
        *arguments: Any,
        path: str = "model.ckpt",
        branch: str | None = None,
        repo: RepoLike | None = None,
        best_tag: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.saver = BackgroundSaver(branch, repo=repo, best_tag=best_tag)
        self._path = path

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Choose the branch."""
        super().on_fit_start(trainer, pl_module)
        if self.saver.branch is None:
            self.saver.branch = default_branch(self.dirpath or trainer.default_root_dir)

    def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        if trainer.is_global_zero:
            message = f"Step {trainer.global_step}"
            try:
                metrics = {
                    "epoch": trainer.current_epoch,
                    "step": trainer.global_step,
                    **numbers(trainer.callback_metrics),
                }
                best = self.monitor is not None and self.best_model_path == filepath
                self.saver.save_files(
                    {self._path: filepath}, message=message, metrics=metrics, best=best
                )
            except Exception as error:  # whatever it is, training goes on
                self.saver.failed(message, error)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Wait for the commits of a run that failed, too."""
        super().on_exception(trainer, pl_module, exception)
        self.saver.finish()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Wait for the last commits, and log what could not be committed."""
        super().on_fit_end(trainer, pl_module)
        self.saver.finish()
