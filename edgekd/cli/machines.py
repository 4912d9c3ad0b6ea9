"""The commands about where artifacts run: targets, devices, and what is installed here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.options import AsJson, print_json, say_next
from edgekd.errors import Fault, RecipeError


def targets(
    name: Annotated[str | None, typer.Argument(help="One profile; without it, all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the devices artifacts can be made for, or show one with its facts and their sources."""
    from edgekd.artifacts.scheme import SCHEMES
    from edgekd.artifacts.target import load_target, target_names
    from edgekd.cli.result_text import target_line, target_lines

    found = [load_target(each) for each in ([name] if name else target_names())]
    if as_json:
        from dataclasses import asdict

        print_json(asdict(found[0]) if name else [asdict(target) for target in found])
        return
    for target in found:
        typer.echo(target_line(target))
    if name:
        for line in target_lines(found[0], list(SCHEMES)):
            typer.echo(line)
        say_next(f'in the recipe: [[targets]] name = "{found[0].name}"')
    else:
        say_next("edgekd targets NAME")


def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, what works, and how to mend what does not."""
    from edgekd.pipeline.doctor import examine

    findings = examine()
    if as_json:
        print_json([vars(finding) for finding in findings])
        return
    for finding in findings:
        mark = "ok     " if finding.works else "missing"
        typer.echo(f"{mark} {finding.name:10} {finding.told}")
        if finding.fix:
            typer.echo(f"        fix: {finding.fix}")
    lacks = [finding.name for finding in findings if not finding.works]
    say_next(
        f"of {', '.join(lacks)}: the fix above, if you need it; then edgekd init"
        if lacks
        else "edgekd init"
    )


def devices(
    action: Annotated[str, typer.Argument(help="setup")],
    device: Annotated[
        str,
        typer.Argument(help="emulated: ARM64 by QEMU, without a board or root; or ssh://user@host"),
    ],
    sources: Annotated[
        Path | None, typer.Option(help="emulated: apt's list of ARM64 packages.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="ssh: the profile whose runtime the board is to have.")
    ] = None,
    wheels: Annotated[
        Path | None,
        typer.Option(help="ssh: a folder of wheels, where the board has no network."),
    ] = None,
) -> None:
    """Set up a device: one that is made of software, or a board's Python and runtime."""
    from edgekd.artifacts.target import load_target
    from edgekd.devices import board_setup, emulated
    from edgekd.formats import find_format

    def log(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    known = "edgekd devices setup emulated, or edgekd devices setup ssh://user@host --target NAME"
    if action != "setup" or not (device == "emulated" or device.startswith("ssh://")):
        what, got = "There is no such device to set up.", f"{action} {device}"
        raise RecipeError(
            Fault(what, "edgekd devices", got, known, "edgekd devices setup emulated")
        )
    if device == "emulated":
        emulated.setup(log, sources=sources)
        _say_device("emulated://cortex-a76")
        return
    if target is None:
        what, fix = "A board is set up for a target.", "--target raspberry-pi-5-litert"
        expected = "the profile that it is; edgekd targets lists them"
        raise RecipeError(Fault(what, "edgekd devices setup", "no --target", expected, fix))
    runtime = find_format(load_target(target).format).RUNTIME
    board_setup.setup(device, runtime, log, wheels=wheels)
    _say_device(device)


def _say_device(url: str) -> None:
    """What to do with a device that is ready."""
    say_next(f"edgekd verify ARTIFACT --against MODEL --samples FILE --device {url}")
