"""The commands for targets, devices and this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli import completion
from edgekd.cli.options import AsJson, echo, print_json, say_next
from edgekd.errors import Fault, RecipeError


def targets(
    name: Annotated[
        str | None,
        typer.Argument(
            help="The target to show. Without it, all are listed.",
            autocompletion=completion.targets,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List all targets, or show one target with its facts and their sources."""
    from edgekd.artifacts.scheme import SCHEMES
    from edgekd.artifacts.target import load_target, target_names
    from edgekd.cli.result_text import target_line, target_lines

    profiles = [load_target(each) for each in ([name] if name else target_names())]
    if as_json:
        from dataclasses import asdict

        print_json(asdict(profiles[0]) if name else [asdict(target) for target in profiles])
        return
    for target in profiles:
        echo(target_line(target))
    if name:
        for line in target_lines(profiles[0], list(SCHEMES)):
            echo(line)
        say_next(f'in the recipe: [[targets]] name = "{profiles[0].name}"')
    else:
        say_next("edgekd targets NAME")


def doctor(as_json: AsJson = False) -> None:
    """Report what is installed, what works, and how to fix what does not."""
    from edgekd.pipeline.doctor import examine

    findings = examine()
    if as_json:
        print_json([finding.to_json() for finding in findings])
        return
    for finding in findings:
        mark = "ok     " if finding.works else "missing"
        echo(f"{mark} {finding.name:10} {finding.detail}")
        if finding.fix:
            echo(f"        fix: {finding.fix}")
    missing = [finding.name for finding in findings if not finding.works]
    say_next(
        f"edgekd init; if you need {', '.join(missing)}, apply the fix above first"
        if missing
        else "edgekd init"
    )


def devices(
    action: Annotated[str, typer.Argument(help="The only action is setup.")],
    device: Annotated[
        str,
        typer.Argument(
            help="The device: emulated (Arm64 under QEMU, without a board or root), or "
            "ssh://USER@HOST (a board)."
        ),
    ],
    sources: Annotated[
        Path | None,
        typer.Option(
            help="For an emulated device: the sources.list that apt downloads Arm64 packages from. "
            "The default is the one of this system."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="For a board: the target whose runtime is installed.",
            autocompletion=completion.targets,
        ),
    ] = None,
    wheels: Annotated[
        Path | None,
        typer.Option(help="For a board without network access: a folder of wheels."),
    ] = None,
) -> None:
    """Set up an emulated Arm64 device, or the Python and the runtime of a board."""
    from edgekd.artifacts.target import load_target
    from edgekd.devices import board_setup, emulated
    from edgekd.formats import find_format

    def log(line: str) -> None:
        echo(line, err=True)

    if action != "setup" or not (device == "emulated" or device.startswith("ssh://")):
        raise RecipeError(
            Fault(
                what=f"edgekd cannot set up the device {device!r}.",
                at="edgekd devices",
                got=f"{action} {device}",
                expected="setup emulated, or setup ssh://USER@HOST --target NAME",
                fix="edgekd devices setup emulated",
            )
        )
    if device == "emulated":
        emulated.setup(log, sources=sources)
        _say_device("emulated://cortex-a76")
        return
    if target is None:
        raise RecipeError(
            Fault(
                what="The setup of a board needs a target.",
                at="edgekd devices setup",
                got="no --target",
                expected="the target that the board is; edgekd targets lists them",
                fix=f"edgekd devices setup {device} --target raspberry-pi-5-litert",
            )
        )
    runtime = find_format(load_target(target).format).RUNTIME
    board_setup.setup(device, runtime, log, wheels=wheels)
    _say_device(device)


def _say_device(url: str) -> None:
    """Prints the next step with a device that is ready."""
    say_next(f"edgekd verify ARTIFACT --against MODEL --samples FILE --device {url}")
