"""A training loop of one's own: every epoch is committed in the background, the best one is tagged.

``plain.py [FOLDER]``.
"""

from __future__ import annotations

import torch
from repository import prepared, show

import git_theta
from git_theta.training import BackgroundSaver


def main() -> None:
    """Fit a small network to the sine."""
    repository = prepared()
    torch.manual_seed(0)
    inputs = torch.linspace(-3, 3, 512).unsqueeze(1)
    wanted = torch.sin(inputs)
    network = torch.nn.Sequential(torch.nn.Linear(1, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.02)
    lowest = float("inf")
    with BackgroundSaver("runs/sine", repo=repository) as saver:
        for epoch in range(5):
            for _ in range(40):
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(network(inputs), wanted)
                loss.backward()
                optimizer.step()
            metrics = {"epoch": epoch, "loss": loss.item()}
            best = metrics["loss"] < lowest
            lowest = min(lowest, metrics["loss"])
            saver.save(
                network.state_dict(),
                "sine.safetensors",
                message=f"Epoch {epoch}",
                metrics=metrics,
                best=best,
            )
    show(repository, "runs/sine", "sine.safetensors")
    network.load_state_dict(
        git_theta.load("best/runs/sine", "sine.safetensors", framework="torch", repo=repository)
    )
    print(
        "The best one's loss is"
        f" {torch.nn.functional.mse_loss(network(inputs), wanted).item():.6f}."
    )


if __name__ == "__main__":
    main()
