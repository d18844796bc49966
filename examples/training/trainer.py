"""The Trainer of transformers with ThetaCallback: a tiny language model, made from a configuration.

``trainer.py [FOLDER]``.
"""

from __future__ import annotations

import torch
from repository import prepared, show
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import git_theta
from git_theta.training import ThetaCallback


class Counting(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Texts that count up from some number: learned in a moment."""

    def __init__(self, first: int, count: int) -> None:
        self._starts = range(first, first + count)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        tokens = (torch.arange(16) + self._starts[number]) % 64
        return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    """Train for three epochs, each evaluated and saved."""
    repository = prepared()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=64,
            n_positions=16,
            n_embd=32,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    arguments = TrainingArguments(
        output_dir=str(repository / "out" / "counting"),
        num_train_epochs=3,
        per_device_train_batch_size=16,
        learning_rate=0.01,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    callback = ThetaCallback("counting", repo=repository)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Counting(0, 64),
        eval_dataset=Counting(8, 16),
        callbacks=[callback],
    )
    trainer.train()
    show(repository, "runs/counting", "counting/model.safetensors")
    best = git_theta.load(
        "best/runs/counting", "counting/model.safetensors", framework="torch", repo=repository
    )
    print(
        f"The best one has {len(best)} tensors; {len(callback.saver.commits)} commits,"
        f" {len(callback.saver.errors)} errors."
    )


if __name__ == "__main__":
    main()
