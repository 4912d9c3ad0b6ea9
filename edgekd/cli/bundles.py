"""The commands for bundles: what an app build consumes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.cli.completion import KINDS, kinds
from edgekd.cli.options import AsJson, console, echo, print_json, say_next
from edgekd.errors import Fault, RecipeError, listed


def bundle(
    path: Annotated[
        Path, typer.Argument(help="The folder of a run, the folder of a bundle, or an archive.")
    ],
    kind: Annotated[
        str | None,
        typer.Option(help=f"Make a package: {listed(KINDS)}.", autocompletion=kinds),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder of the package. The default is beside the bundle."),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(help="The Maven group of an android package, instead of the recipe's."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check every digest and run the golden vectors.")
    ] = False,
    sign: Annotated[
        Path | None, typer.Option(help="Sign the manifest with this Ed25519 private key (PEM).")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(help="Verify the signature with this public key (PEM).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Package, check or sign the models of a run for an app build.

    Without options, the command lists what the bundle holds.

    \b
    Exit codes:
      2  the bundle differs from its manifest
      4  a program or package is missing
      7  a model does not reproduce its golden outputs
    """
    from edgekd.bundles import pack as packing
    from edgekd.bundles import signing
    from edgekd.bundles.manifest import read_manifest

    if sign is not None and path.is_file():
        raise RecipeError(
            Fault(
                what="An archive cannot be signed; sign its bundle before you pack it.",
                at="--sign",
                got=str(path),
                expected="the folder of a bundle or of a run",
                fix="edgekd bundle RUN --sign KEY --kind archive",
            )
        )
    document: dict[str, Any] = {"bundle": str(path)}
    with packing.opened(path) as folder:
        if path.is_dir():
            document["bundle"] = str(folder)
        if verify is not None:
            signing.verify_signature(folder, verify)
            document["signature"] = "valid"
        if sign is not None:
            document["signed"] = str(signing.sign(folder, sign))
        if kind is not None:
            document["package"] = str(packing.pack(path, kind, out, group))
        checked = packing.check(folder) if check else []
        manifest = read_manifest(folder)
    document["checked"] = [{**vars(entry), "outcome": entry.outcome.value} for entry in checked]
    document["manifest"] = manifest.to_json()
    error = packing.failure(checked)
    if as_json:
        print_json(document)
    else:
        _print_bundle(document, manifest, kind=kind, verified_by=verify)
        if error is None:
            say_next(_after_bundle(path, checked=check, kind=kind, signed=sign is not None))
    if error is not None:
        raise error


def _print_bundle(
    document: Mapping[str, Any], manifest: Any, *, kind: str | None, verified_by: Path | None
) -> None:
    """Prints what was done with a bundle, or what it holds if nothing was done."""
    from edgekd.cli.result_text import manifest_lines

    lines = list(_bundle_lines(document, kind, verified_by))
    for line in lines or manifest_lines(str(document["bundle"]), manifest):
        echo(line)


def _bundle_lines(
    document: Mapping[str, Any], kind: str | None, verified_by: Path | None
) -> Iterator[str]:
    if "signature" in document:
        manifest = document["manifest"]
        yield f"signed by {verified_by}: {manifest['name']} {manifest['version']}"
    if "signed" in document:
        yield f"signed: {document['signed']}"
    if "package" in document:
        yield f"{kind}: {document['package']}"
    for entry in document["checked"]:
        detail = f"  {entry['detail']}" if entry["detail"] else ""
        yield f"{entry['target']}: {entry['outcome']}  {entry['runtime']}{detail}"
    if document["checked"]:
        yield "every file matches its digest in the manifest"


def _after_bundle(path: Path, *, checked: bool, kind: str | None, signed: bool) -> str:
    """The next step with a bundle."""
    if kind == "archive":
        return "keep the archive as a release; before the next release: edgekd diff OLD NEW"
    if kind is not None:
        return "add the package to the app build; docs/bundles.md explains how"
    if signed:
        return f"edgekd bundle {path} --kind archive; check it with --verify and the public key"
    if not checked:
        return f"edgekd bundle {path} --check"
    return f"edgekd bundle {path} --kind archive, android, swift or linux"


def diff(
    old: Annotated[Path, typer.Argument(help="The bundle of the last release, or its run.")],
    new: Annotated[Path, typer.Argument(help="The bundle to release, or its run.")],
    metric: Annotated[
        float, typer.Option(min=0, help="How far the metric may fall, absolute.")
    ] = 0.005,
    agreement: Annotated[
        float, typer.Option(min=0, help="How far the agreement may fall, absolute.")
    ] = 0.005,
    latency: Annotated[
        float, typer.Option(min=0, help="How much the latency may grow, as a fraction.")
    ] = 0.10,
    size: Annotated[
        float, typer.Option(min=0, help="How much the size may grow, as a fraction.")
    ] = 0.02,
    as_json: AsJson = False,
) -> None:
    """Compare two bundles: metric, agreement, latency, size and interface.

    \b
    Exit codes:
      7  the new bundle is less accurate, or its inputs, outputs or labels changed
      8  the new bundle is slower or larger
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
