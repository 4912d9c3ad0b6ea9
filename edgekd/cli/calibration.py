"""The commands for calibration sets and for the quantization error of each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.completion import SELECTIONS, selections
from edgekd.cli.options import (
    Against,
    ArtifactPath,
    AsJson,
    RecipePath,
    Samples,
    Settings,
    Weights,
    echo,
    print_json,
    say_next,
)
from edgekd.errors import listed


def calibrate(
    recipe: RecipePath,
    name: Annotated[
        str | None,
        typer.Option(help="The name of the set. The default is SELECTION-COUNT."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="The number of samples.")] = 128,
    selection: Annotated[
        str,
        typer.Option(
            help=f"How the samples are selected: {listed(SELECTIONS)}.", autocompletion=selections
        ),
    ] = "random",
    source: Annotated[
        str, typer.Option(help="The split to select from: train, validation or unlabeled.")
    ] = "train",
    licence: Annotated[
        str, typer.Option(help="The licence of the samples.")
    ] = "that of the recipe's data",
    out: Annotated[
        Path | None,
        typer.Option(help="The folder of the set. The default is calibration/ beside the recipe."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs"),
    settings: Settings = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing set of that name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Freeze a calibration set: NAME.toml and the exact samples beside it.

    The selection k-centre spreads the samples over the teacher's features. The selection
    highest-loss takes the samples with the highest loss of the student. Both train the network that
    they need first, as a run does.
    """
    from edgekd.cli.progress import Shown

    with Shown() as progress:
        progress("load", "edgekd")
        from edgekd.pipeline.calibrate import CalibrationOptions
        from edgekd.pipeline.calibrate import calibrate as freeze

        options = CalibrationOptions(
            name=name,
            source=source,
            count=count,
            selection=selection,
            licence=licence,
            out=out,
            overwrite=force,
        )
        result = freeze(recipe, options, runs=runs, settings=settings or [], progress=progress)
    if as_json:
        paths = {"path": str(result.path), "samples": str(result.samples)}
        print_json({**result.calibration.to_json(), **paths, "doubts": list(result.doubts)})
        return
    for sentence in result.doubts:
        echo(f"doubtful: {sentence}")
    echo(f"{result.calibration.count} samples: {result.samples}")
    path = result.path
    if path.resolve().is_relative_to(recipe.parent.resolve()):
        path = path.resolve().relative_to(recipe.parent.resolve())
    say_next(f'in the recipe, under [quantize]: calibration = "{path}"')


def sensitivity(
    artifact: ArtifactPath,
    against: Against,
    samples: Samples,
    weights: Weights = None,
    count: Annotated[int, typer.Option(min=1, help="The number of samples to compare on.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Report the quantization error of each layer: SQNR, range, clipped values and outliers."""
    from edgekd.artifacts.artifact import load_artifact
    from edgekd.cli.result_text import noise_lines
    from edgekd.network.load import load_network
    from edgekd.network.sample_files import read_samples
    from edgekd.verification.layer_sensitivity import layer_sensitivity

    inputs = read_samples(samples)
    network = load_network(against, example=inputs[0], weights=weights)
    layers = layer_sensitivity(load_artifact(artifact), network, inputs[:count])
    if as_json:
        print_json([layer.to_json() for layer in layers])
        return
    for line in noise_lines(layers):
        echo(line)
    say_next("try another --method of edgekd export, or more samples; edgekd run tries all methods")
