"""The commands about what an app build takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.options import AsJson, console, print_json, say_next
from edgekd.errors import Fault, RecipeError


def bundle(
    path: Annotated[Path, typer.Argument(help="A run's folder, a bundle's, or its archive.")],
    kind: Annotated[
        str | None,
        typer.Option(help="Make a package of it: folder, archive, android, swift or linux."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where it goes; beside the bundle without it.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Of android: Maven's group, in place of the recipe's.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check every digest, and run the golden vectors.")
    ] = False,
    sign: Annotated[
        Path | None, typer.Option(help="Sign the manifest with this Ed25519 key (PEM).")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(help="Demand the signature of this public key (PEM).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make, check or sign the package of a run's models that an app build takes.

    Without an option it says what the bundle holds. Exit codes: 2 the bundle is not what its
    manifest says, 4 a program or package is missing, 7 a model does not give its golden outputs.
    """
    from edgekd.bundles import pack as packing
    from edgekd.bundles import signing
    from edgekd.bundles.manifest import read_manifest
    from edgekd.cli.result_text import held_lines

    if sign is not None and path.is_file():
        raise RecipeError(
            Fault(
                what="An archive cannot be signed: its bundle is, before it is packed.",
                at="--sign",
                got=str(path),
                expected="the folder of a bundle, or of a run",
                fix="edgekd bundle RUN --sign KEY --kind archive",
            )
        )
    said: dict[str, object] = {"bundle": str(path)}
    lines = []
    with packing.opened(path) as place:
        if path.is_dir():
            said["bundle"] = str(place)
        if verify is not None:
            signing.verify_signature(place, verify)
            said["signature"] = "valid"
            lines.append(f"signed by {verify}")
        if sign is not None:
            made = signing.sign(place, sign)
            said["signed"] = str(made)
            lines.append(f"signed: {made}")
        if kind is not None:
            package = packing.pack(path, kind, out, group)
            said["package"] = str(package)
            lines.append(f"{kind}: {package}")
        checked = packing.check(place) if check else []
        manifest = read_manifest(place)
    said["checked"] = [{**vars(entry), "outcome": entry.outcome.value} for entry in checked]
    for entry in checked:
        detail = f"  {entry.detail}" if entry.detail else ""
        lines.append(f"{entry.target}: {entry.outcome.value}  {entry.runtime}{detail}")
    if checked:
        lines.append("every file is the one in the manifest")
    said["manifest"] = manifest.to_json()
    if not lines:
        lines += held_lines(str(said["bundle"]), manifest)
    error = packing.failure(checked)
    if as_json:
        print_json(said)
    else:
        for line in lines:
            typer.echo(line)
        if error is None:
            say_next(_after_bundle(path, checked=check, kind=kind, signed=sign is not None))
    if error is not None:
        raise error


def _after_bundle(path: Path, *, checked: bool, kind: str | None, signed: bool) -> str:
    """What to do with a bundle next."""
    if kind == "archive":
        return "keep it as a release; before the next one: edgekd diff OLD NEW"
    if kind is not None:
        return "give it to the app's build; docs/bundles.md says how each takes it"
    if signed:
        return f"edgekd bundle {path} --kind archive, and --verify with the public key there"
    if not checked:
        return f"edgekd bundle {path} --check"
    return f"edgekd bundle {path} --kind archive, android, swift or linux"


def diff(
    old: Annotated[Path, typer.Argument(help="The bundle released last, or its run.")],
    new: Annotated[Path, typer.Argument(help="The one to release.")],
    metric: Annotated[float, typer.Option(min=0, help="May fall by, absolute.")] = 0.005,
    agreement: Annotated[float, typer.Option(min=0, help="May fall by, absolute.")] = 0.005,
    latency: Annotated[float, typer.Option(min=0, help="May grow by, a share.")] = 0.10,
    size: Annotated[float, typer.Option(min=0, help="May grow by, a share.")] = 0.02,
    as_json: AsJson = False,
) -> None:
    """Compare a bundle with the one before it: metric, agreement, latency, size, interface.

    Exit codes: 7 less accurate, or its inputs, outputs or labels changed; 8 slower or larger.
    """
    from edgekd.bundles import pack as packing
    from edgekd.bundles.diff import Tolerance, compare, failure
    from edgekd.cli.result_text import changes_table

    tolerance = Tolerance(metric=metric, agreement=agreement, latency=latency, size=size)
    with packing.opened(old) as before, packing.opened(new) as after:
        changes = compare(before, after, tolerance)
    if as_json:
        worse = [change.target for change in changes if change.worse]
        print_json({"passed": not worse, "changes": [vars(change) for change in changes]})
    else:
        console().print(changes_table(changes))
    error = failure(changes, new)
    if error is None and not as_json:
        say_next(f"release it: edgekd bundle {new} --kind archive")
    if error is not None:
        raise error
