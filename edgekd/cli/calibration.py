"""The commands about what quantizers are calibrated with, and what they did to each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.options import AsJson, Settings, print_json, say_next


def calibrate(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    name: Annotated[str | None, typer.Option(help="Of the set; SELECTION-COUNT.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many samples.")] = 128,
    selection: Annotated[
        str, typer.Option(help="random, stratified, first, k-centre or worst-loss.")
    ] = "random",
    source: Annotated[str, typer.Option(help="train, validation or unlabeled.")] = "train",
    licence: Annotated[str, typer.Option(help="Of the samples.")] = "that of the recipe's data",
    out: Annotated[
        Path | None, typer.Option(help="The folder; calibration/ beside the recipe.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    settings: Settings = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a set.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a calibration set of a recipe's data: NAME.toml and the very samples beside it.

    A k-centre selection spreads the samples over the teacher's features, worst-loss takes those
    that the student gets most wrong; what these look at is trained first, as a run would.
    """
    from edgekd.cli.progress import Shown

    with Shown() as progress:
        progress("load", "edgekd")
        from edgekd.pipeline.calibrate import calibrate as make

        made = make(
            recipe,
            name=name,
            source=source,
            count=count,
            selection=selection,
            licence=licence,
            out=out,
            runs=runs,
            settings=settings or [],
            replace_it=force,
            progress=progress,
        )
    if as_json:
        told = made.calibration.to_json()
        paths = {"path": str(made.path), "samples": str(made.samples)}
        print_json({**told, **paths, "doubts": list(made.doubts)})
        return
    for sentence in made.doubts:
        typer.echo(f"doubtful: {sentence}")
    typer.echo(f"{made.calibration.count} samples: {made.samples}")
    place = made.path
    if place.resolve().is_relative_to(recipe.parent.resolve()):
        place = place.resolve().relative_to(recipe.parent.resolve())
    say_next(f'in the recipe, under [quantize]: calibration = "{place}"')


def sensitivity(
    artifact: Annotated[Path, typer.Argument(help="The file, or the folder with artifact.json.")],
    against: Annotated[str, typer.Option(help="The network it came from, as for export.")],
    samples: Annotated[Path, typer.Option(help="Real inputs by name, .safetensors or .npz.")],
    weights: Annotated[str | None, typer.Option(help="A .safetensors file.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Samples that are looked at.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Say what a quantized file did to each layer: noise, ranges, what is cut off, outliers."""
    from edgekd.artifacts.artifact import load_artifact
    from edgekd.cli.result_text import noise_lines
    from edgekd.network.load import load_network
    from edgekd.network.sample_files import read_samples
    from edgekd.verification.layer_sensitivity import layer_sensitivity as look

    inputs = read_samples(samples)
    network = load_network(against, example=inputs[0], weights=weights)
    layers = look(load_artifact(artifact), network, inputs[:count])
    if as_json:
        print_json([layer.to_json() for layer in layers])
        return
    for line in noise_lines(layers):
        typer.echo(line)
    say_next("another --method of edgekd export, or more samples; a run's search tries them all")
