"""A softmax network of three layers, trained with Adam. Nothing but numpy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

Weights = dict[str, np.ndarray]

LAYERS = (784, 768, 512, 10)


def new(seed: int) -> Weights:
    """Untrained weights (He et al. 2015): normal, with variance 2 over the number of inputs."""
    random = np.random.default_rng(seed)
    weights: Weights = {}
    for number, (inputs, outputs) in enumerate(pairwise(LAYERS)):
        scale = np.float32(np.sqrt(2 / inputs))
        weights[f"layer{number}.weight"] = scale * random.standard_normal(
            (inputs, outputs), dtype=np.float32
        )
        weights[f"layer{number}.bias"] = np.zeros(outputs, np.float32)
    return weights


def train(
    weights: Weights,
    pictures: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int,
    rate: float,
    seed: int,
    only: Sequence[str] = (),
    batch: int = 128,
) -> Weights:
    """The weights after ``epochs`` passes of Adam with learning rate ``rate``, falling to zero;
    ``only`` these, where given.
    """
    random = np.random.default_rng(seed)
    weights = {name: value.copy() for name, value in weights.items()}
    names = list(only or weights)
    mean = {name: np.zeros_like(weights[name]) for name in names}
    square = {name: np.zeros_like(weights[name]) for name in names}
    steps, step = epochs * (len(pictures) // batch), 0
    for _ in range(epochs):
        order = random.permutation(len(pictures))
        for start in range(0, len(order) - batch + 1, batch):
            rows = order[start : start + batch]
            gradients = _gradients(weights, pictures[rows], labels[rows])
            step += 1
            now = rate * (1 - (step - 1) / steps) * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            for name in names:
                mean[name] += 0.1 * (gradients[name] - mean[name])
                square[name] += 0.001 * (gradients[name] ** 2 - square[name])
                weights[name] -= (
                    np.float32(now) * mean[name] / (np.sqrt(square[name]) + np.float32(1e-8))
                )
    return weights


def accuracy(weights: Weights, pictures: np.ndarray, labels: np.ndarray) -> float:
    """The share of ``pictures`` that the network reads rightly."""
    return float((_activations(weights, pictures)[-1].argmax(1) == labels).mean())


def _activations(weights: Weights, pictures: np.ndarray) -> list[np.ndarray]:
    """The input of each layer, and the last one's output."""
    values = [pictures]
    for number in range(len(LAYERS) - 1):
        if number:
            values[-1] = np.maximum(values[-1], 0)
        values.append(
            values[-1] @ weights[f"layer{number}.weight"] + weights[f"layer{number}.bias"]
        )
    return values


def _gradients(weights: Weights, pictures: np.ndarray, labels: np.ndarray) -> Weights:
    """Of the mean cross-entropy, by every weight."""
    *inputs, output = _activations(weights, pictures)
    slope = np.exp(output - output.max(1, keepdims=True))
    slope /= slope.sum(1, keepdims=True)
    slope[np.arange(len(labels)), labels] -= 1
    slope /= len(labels)
    gradients: Weights = {}
    for number in reversed(range(len(inputs))):
        gradients[f"layer{number}.weight"] = inputs[number].T @ slope
        gradients[f"layer{number}.bias"] = slope.sum(0)
        if number:
            slope = (slope @ weights[f"layer{number}.weight"].T) * (inputs[number] > 0)
    return gradients
