"""The command: write the arrays of an ``.npz`` as a file of this format."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from git_theta.plugin import Tensor
from git_theta_json_weights.format import JsonWeights


@click.command("json-weights")
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
def json_weights(source: Path, target: Path) -> None:
    """Write the arrays of an .npz file as json-weights."""
    with np.load(source, allow_pickle=False) as archive:
        tensors = {name: Tensor.from_array(archive[name]) for name in archive.files}
    target.write_bytes(JsonWeights().build(tensors, None))
    click.echo(f"Wrote {target}.")
