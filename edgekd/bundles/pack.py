"""Bundles after their run: found, packed in another kind, and checked in every runtime here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.signature import Signature, TensorSpec
from edgekd.bundles import bundle_names, find_bundle, missing_requirement
from edgekd.bundles import golden_vectors as golden
from edgekd.bundles.archive import unpack
from edgekd.bundles.integrity import whole
from edgekd.bundles.manifest import MANIFEST, Manifest, Model
from edgekd.devices.execution import run_artifact
from edgekd.errors import (
    DisagreementError,
    EdgekdError,
    Fault,
    MissingPackageError,
    RecipeError,
    listed,
    unknown,
)
from edgekd.evidence.outcome import Outcome, Verdict
from edgekd.formats import find_format, format_names
from edgekd.recipe.bundle import Android, group_fault
from edgekd.system.files import written_atomically


def find(path: Path) -> Path:
    """The bundle at `path`: its folder, or a run's.

    Raises:
        RecipeError: there is none.
    """
    if (path / MANIFEST).exists():
        return path
    made = sorted((path / "bundle").glob(f"*/{MANIFEST}"))
    if made:
        return made[0].parent
    got, fix = _absent(path)
    raise RecipeError(
        Fault(
            what=f"There is no bundle in {path}.",
            at=str(path),
            got=got,
            expected="the folder or archive of a bundle, or a run of which something ships",
            fix=fix,
        )
    )


def _absent(path: Path) -> tuple[str, str]:
    """What `path` is, which is no bundle, and what to do."""
    if not (path / "result.json").exists():
        what = "no manifest.json and no bundle/ folder" if path.exists() else "nothing there"
        return what, "name RUN, such as runs/NAME/latest, or RUN/bundle/NAME-VERSION"
    recipe = path / "recipe.toml"
    if recipe.exists() and "[bundle]" in recipe.read_text(encoding="utf-8").splitlines():
        return "a run of which nothing ships", f"edgekd report {path} says why"
    add = 'add [bundle] kinds = ["folder"] to the recipe and run it again'
    return "a run that made none", f"{add}: nothing is done twice"


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The folder of the bundle at `path`: a bundle's, a run's, or that of an archive, unpacked.

    Raises:
        RecipeError: there is none, or the archive is broken.
    """
    if not path.is_file():
        yield find(path)
        return
    with tempfile.TemporaryDirectory(prefix="edgekd-bundle-") as scratch:
        unpack(path, Path(scratch))
        made = sorted(Path(scratch).glob(f"*/{MANIFEST}"))
        yield find(made[0].parent if made else Path(scratch))


def pack(path: Path, kind: str, out: Path | None = None, group: str | None = None) -> Path:
    """The package of `kind`, made of the bundle at `path`, in `out` or beside the bundle.

    Args:
        out: a folder that is not there, or is empty.
        group: Maven's, in place of the recipe's.

    Raises:
        RecipeError: there is no such kind or bundle, none of its models suits, or `out` holds
            something.
        MissingPackageError: what makes the kind is not installed.
    """
    if kind not in bundle_names():
        raise RecipeError(unknown("kind of bundle", kind, bundle_names(), "--kind"))
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RecipeError(
            Fault(
                what="A package goes into a folder of its own.",
                at="--out",
                got=f"{out}, which holds something else",
                expected="a folder that is not there, or is empty",
                fix=f"--out {out / kind}",
            )
        )
    with opened(path) as bundle:
        manifest = whole(bundle)
        module = find_bundle(kind)
        if not any(model.format in module.FORMATS for model in manifest.models):
            raise RecipeError(
                Fault(
                    what=f"None of the bundle's models goes into a package of kind {kind!r}.",
                    at=str(bundle / MANIFEST),
                    got=listed(sorted({model.format for model in manifest.models})),
                    expected=listed(module.FORMATS),
                    fix=f"add a target of {listed(module.FORMATS)} to the recipe",
                )
            )
        missing = missing_requirement(kind)
        if missing:
            raise MissingPackageError(missing)
        # Beside an archive, as beside the folder of a run.
        place = out or (path if path.is_file() else bundle).parent / kind
        with written_atomically(place) as draft:
            draft.mkdir()
            module.pack(bundle, _named(manifest, kind, group), draft)
    return place


def _named(manifest: Manifest, kind: str, group: str | None) -> Manifest:
    """`manifest` with Maven's group as it is asked for now.

    Raises:
        RecipeError: the group is none, or an Android package has none.
    """
    if kind != "android":
        return manifest
    group = group or manifest.android.group
    fault = group_fault("--group", group)
    if fault:
        raise RecipeError(fault)
    return manifest.model_copy(update={"android": Android(group=group)})


@dataclass(frozen=True)
class Checked:
    """How the golden vectors of one model ended: passed, disagrees, or unavailable here."""

    target: str
    outcome: Outcome
    detail: str
    runtime: str = ""


def check(path: Path) -> list[Checked]:
    """The bundle at `path`, its integrity first, then its golden vectors in every runtime here.

    Raises:
        RecipeError: a file is not what the manifest says; none of them was run.
    """
    with opened(path) as bundle:
        return [_checked(bundle, model) for model in whole(bundle).models]


def failure(checked: Sequence[Checked]) -> EdgekdError | None:
    """The error that a check ends with, or None."""
    faults = [
        Fault(
            what=f"The model of {entry.target} does not do here what it did when it was bundled.",
            at=entry.target,
            got=f"{entry.outcome.value}: {entry.detail}",
            expected="its golden outputs, within their tolerance",
            fix="compare the runtime's version with the one in the manifest's evidence",
        )
        for entry in checked
        if entry.outcome not in (Outcome.PASSED, Outcome.UNAVAILABLE)
    ]
    return DisagreementError(*faults) if faults else None


def _checked(bundle: Path, model: Model) -> Checked:
    if model.format not in format_names():
        return Checked(model.target, Outcome.UNAVAILABLE, f"no format {model.format} here")
    module = find_format(model.format)
    artifact = Artifact(
        path=bundle / model.entry,
        format=model.format,
        scheme=model.scheme,
        sha256=model.exported_sha256,
        size_bytes=model.size_bytes,
        signature=Signature(
            tuple(_spec(entry) for entry in model.inputs),
            tuple(_spec(entry) for entry in model.outputs),
        ),
    )
    try:
        inputs = golden.read_inputs(bundle, model)
        ran = run_artifact(artifact, inputs, "local")
    except (ValueError, TypeError) as error:
        return Checked(model.target, Outcome.RUN_FAILED, f"its golden vectors: {error}")
    except MissingPackageError as error:
        told = f"{error.faults[0].what} {error.faults[0].fix}"
        return Checked(model.target, Outcome.UNAVAILABLE, told)
    except EdgekdError as error:
        return Checked(model.target, Outcome.RUN_FAILED, f"{error.faults[0].got}")
    if isinstance(ran, Verdict):
        return Checked(model.target, ran.outcome, ran.detail)
    told = f"{ran.facts.get('runtime', module.RUNTIME)} {ran.facts.get('version', '')}".strip()
    off = golden.differences(bundle, model, ran.outputs)
    if off:
        detail = "; ".join(f"{fault.at}: {fault.got}, {fault.expected}" for fault in off)
        return Checked(model.target, Outcome.DISAGREES, detail, told)
    by_reference = "by the reference evaluator" if ran.by_reference else ""
    return Checked(model.target, Outcome.PASSED, by_reference, told)


def _spec(tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.name, tuple(tensor.shape), tensor.dtype, tensor.layout, tensor.meaning)
