"""Writes ``tensorflow/`` with TensorFlow itself: ``python tests/data/make_tensorflow_files.py``.

Written with tensorflow-cpu 2.21.0, which no test needs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent / "tensorflow"


class Model(tf.Module):
    """Variables of several types."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [
            tf.Variable(tf.reshape(tf.range(12, dtype=tf.float32), (3, 4))) for _ in range(3)
        ]
        self.b = tf.Variable(tf.cast(tf.range(5), tf.bfloat16))
        self.n = tf.Variable(7, dtype=tf.int64)
        self.t = tf.Variable("text")
        self.f = tf.Variable([True, False])
        self.h = tf.Variable(np.arange(4, dtype=np.float16))


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    tf.train.Checkpoint(model=Model(), step=tf.Variable(3)).write(str(HERE / "small"))
