"""The commands about where artifacts run: targets, devices, and what is installed here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.words import AsJson, print_json
from edgekd.errors import Fault, RecipeError


def targets(
    name: Annotated[str | None, typer.Argument(help="One profile; without it, all.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the devices artifacts can be made for, or show one with its facts and their sources."""
    from edgekd.scheme import SCHEMES
    from edgekd.target import load_target, target_names
    from edgekd.text import target_line, target_lines

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


def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, what works, and how to mend what does not."""
    from edgekd.doctor import examine

    findings = examine()
    if as_json:
        print_json([vars(finding) for finding in findings])
        return
    for finding in findings:
        mark = "ok     " if finding.works else "missing"
        typer.echo(f"{mark} {finding.name:10} {finding.told}")
        if finding.fix:
            typer.echo(f"        fix: {finding.fix}")


def devices(
    action: Annotated[str, typer.Argument(help="setup")],
    kind: Annotated[str, typer.Argument(help="emulated: ARM64 by QEMU, without a board or root")],
    sources: Annotated[Path | None, typer.Option(help="apt's list of ARM64 packages.")] = None,
) -> None:
    """Set up a device that is made of software: `edgekd devices setup emulated`."""
    from edgekd.devices import emulated

    if (action, kind) != ("setup", "emulated"):
        fix = "edgekd devices setup emulated"
        what, got = "There is no such device to set up.", f"{action} {kind}"
        raise RecipeError(Fault(what=what, at="edgekd devices", got=got, expected=fix, fix=fix))

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    emulated.setup(say, sources=sources)
