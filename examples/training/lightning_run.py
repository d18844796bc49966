"""Lightning with ThetaCheckpoint in the place of ModelCheckpoint: a small network.

``lightning_run.py [FOLDER]``.
"""

from __future__ import annotations

import pytorch_lightning as lightning
import torch
from repository import prepared, show

import git_theta
from git_theta.training import ThetaCheckpoint


class Sine(lightning.LightningModule):
    """Learns the sine."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(
            torch.nn.Linear(1, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)
        )

    def _loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        inputs, wanted = batch
        return torch.nn.functional.mse_loss(self.network(inputs), wanted)

    # Lightning hands it over
    def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
        """The loss of a batch."""
        return self._loss(batch)

    # As above
    def validation_step(self, batch: list[torch.Tensor], number: int) -> None:
        """Note the loss of a batch."""
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=0.02)


def main() -> None:
    """Train for three epochs, each validated and saved; go on from the best."""
    repository = prepared()
    torch.manual_seed(0)
    inputs = torch.linspace(-3, 3, 512).unsqueeze(1)
    data = torch.utils.data.TensorDataset(inputs, torch.sin(inputs))
    checkpoint = ThetaCheckpoint(
        dirpath=repository / "out" / "sine",
        monitor="val_loss",
        save_top_k=1,
        path="sine.ckpt",
        repo=repository,
    )
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[checkpoint],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        Sine(),
        torch.utils.data.DataLoader(data, 64, shuffle=True),
        torch.utils.data.DataLoader(data, 512),
    )
    show(repository, "runs/sine", "sine.ckpt")
    best = git_theta.load("best/runs/sine", "sine.ckpt", "state_dict", "torch", repo=repository)
    print(
        f"The best one has {len(best)} tensors; {len(checkpoint.saver.commits)} commits,"
        f" {len(checkpoint.saver.errors)} errors."
    )


if __name__ == "__main__":
    main()
