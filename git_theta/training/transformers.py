"""A callback for the Trainer of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from git_theta.api.sessions import RepoLike, StrPath
from git_theta.training.background import BackgroundSaver, default_branch, numbers

FILES = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin", "*config.json", "*.index.json")


class ThetaCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not checked with us
    """Commits every checkpoint that the Trainer saves, in the background; training neither waits
    nor fails for it.

    The ``files`` of a checkpoint (globs over their names; by default weights and configuration,
    without the optimizer's state) become ``<folder>/<name>`` on ``branch``, by default ``runs/<the
    output folder's name>``, in the repository that ``repo`` lies in. The metrics logged at that
    step are noted on the commit, and with ``metric_for_best_model`` the tag ``best_tag`` (default:
    ``best/<branch>``) moves to the best model. Weights must be tracked by Git-Theta: commit a
    ``.gitattributes`` that says so first.

    ``saver.commits`` and ``saver.errors`` tell what was committed and what could not be; errors are
    logged when training ends.
    """

    def __init__(
        self,
        folder: str = "model",
        branch: str | None = None,
        *,
        repo: RepoLike | None = None,
        files: Sequence[str] = FILES,
        best_tag: str | None = None,
    ) -> None:
        self.saver = BackgroundSaver(branch, repo=repo, best_tag=best_tag)
        self._folder = folder.strip("/")
        self._files = tuple(files)

    # The Trainer's signature
    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Choose the branch."""
        if self.saver.branch is None:
            self.saver.branch = default_branch(args.output_dir)

    # The Trainer's signature
    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Commit the checkpoint that was just written."""
        if not state.is_world_process_zero:
            return
        message = f"Step {state.global_step}"
        try:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            names = sorted(
                file.name
                for file in checkpoint.iterdir()
                if any(fnmatchcase(file.name, glob) for glob in self._files)
            )
            files: dict[StrPath, StrPath] = {
                f"{self._folder}/{name}" if self._folder else name: checkpoint / name
                for name in names
            }
            metrics: dict[str, float] = {}
            for logged in state.log_history:
                if logged.get("step") == state.global_step:
                    metrics |= numbers(logged)
            best = (
                state.best_model_checkpoint is not None
                and Path(state.best_model_checkpoint) == checkpoint
            )
            self.saver.save_files(files, message=message, metrics=metrics, best=best)
        except Exception as error:  # whatever it is, training goes on
            self.saver.failed(message, error)

    # The Trainer's signature
    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for the last commits, and log what could not be committed."""
        self.saver.finish()
