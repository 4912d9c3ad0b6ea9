"""Bundles after their run: find them, pack another kind, check their golden vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.signature import Signature, TensorSpec
from edgekd.bundles import bundle_names, find_bundle, missing_requirement, packs_format
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
from edgekd.system.scratch import scratch_folder


def find(path: Path) -> Path:
    """The folder of the bundle at `path`: itself, or that of a run.

    Raises:
        RecipeError: there is no bundle.
    """
    if (path / MANIFEST).exists():
        return path
    manifests = sorted((path / "bundle").glob(f"*/{MANIFEST}"))
    if manifests:
        return manifests[0].parent
    got, fix = _no_bundle(path)
    raise RecipeError(
        Fault(
            what=f"There is no bundle in {path}.",
            at=str(path),
            got=got,
            expected="the folder or archive of a bundle, or a run with a model that ships",
            fix=fix,
        )
    )


def _no_bundle(path: Path) -> tuple[str, str]:
    """A description of `path`, which is not a bundle, and the fix."""
    if not (path / "result.json").exists():
        content = "no manifest.json and no bundle/ folder" if path.exists() else "nothing"
        return content, "name RUN, such as runs/NAME/latest, or RUN/bundle/NAME-VERSION"
    recipe = path / "recipe.toml"
    if recipe.exists() and "[bundle]" in recipe.read_text(encoding="utf-8").splitlines():
        return "a run without a model that ships", f"see why: edgekd report {path}"
    add = 'add [bundle] kinds = ["folder"] to the recipe and run it again'
    return "a run without a bundle", f"{add}: finished stages are reused"


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The folder of the bundle at `path`: a bundle, a run, or an archive, which is unpacked.

    Raises:
        RecipeError: there is no bundle, or the archive is damaged.
    """
    if not path.is_file():
        yield find(path)
        return
    with scratch_folder("bundle") as scratch:
        yield find(unpack(path, scratch))


def pack(path: Path, kind: str, out: Path | None = None, group: str | None = None) -> Path:
    """Pack the bundle at `path` as `kind`, in `out` or beside the bundle.

    Args:
        out: a folder that does not exist, or is empty.
        group: Maven's group, in place of the recipe's.

    Raises:
        RecipeError: there is no such kind or bundle, no model has a format of the kind, or `out`
            is not empty.
        MissingPackageError: a program that the kind requires is not installed.
    """
    if kind not in bundle_names():
        raise RecipeError(unknown("kind of bundle", kind, bundle_names(), "--kind"))
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RecipeError(
            Fault(
                what="A package needs an empty folder.",
                at="--out",
                got=f"{out}, which is not empty",
                expected="a folder that does not exist, or is empty",
                fix=f"--out {out / kind}",
            )
        )
    with opened(path) as bundle:
        manifest = whole(bundle)
        module = find_bundle(kind)
        if not any(packs_format(kind, model.format) for model in manifest.models):
            raise RecipeError(
                Fault(
                    what=f"No model of the bundle has a format of the kind {kind!r}.",
                    at=str(bundle / MANIFEST),
                    got=listed(sorted({model.format for model in manifest.models})),
                    expected=listed(module.FORMATS or ()),
                    fix=f"add a target of {listed(module.FORMATS or ())} to the recipe",
                )
            )
        missing = missing_requirement(kind)
        if missing:
            raise MissingPackageError(missing)
        # Beside the archive or the bundle's folder.
        package = out or (path if path.is_file() else bundle).parent / kind
        with written_atomically(package) as draft:
            draft.mkdir()
            module.pack(bundle, _with_group(manifest, kind, group), draft)
    return package


def _with_group(manifest: Manifest, kind: str, group: str | None) -> Manifest:
    """`manifest` with the Maven group `group`, if that is given.

    Raises:
        RecipeError: the group is not valid, or an Android package has no group.
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
    """The outcome of a model's golden vectors: passed, disagrees, or unavailable on this host."""

    target: str
    outcome: Outcome
    detail: str
    runtime: str = ""


def check(path: Path) -> list[Checked]:
    """Check the integrity of the bundle at `path`, then its golden vectors in this host's runtimes.

    Raises:
        RecipeError: a file does not match the manifest; no model was run.
    """
    with opened(path) as bundle:
        return [_checked(bundle, model) for model in whole(bundle).models]


def failure(checked: Sequence[Checked]) -> EdgekdError | None:
    """The error of a check, or None."""
    faults = [
        Fault(
            what=f"The model of {entry.target} fails its golden vectors on this host.",
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
        detail = f"{error.faults[0].what} {error.faults[0].fix}"
        return Checked(model.target, Outcome.UNAVAILABLE, detail)
    except EdgekdError as error:
        return Checked(model.target, Outcome.RUN_FAILED, f"{error.faults[0].got}")
    if isinstance(ran, Verdict):
        return Checked(model.target, ran.outcome, ran.detail)
    runtime = f"{ran.facts.get('runtime', module.RUNTIME)} {ran.facts.get('version', '')}".strip()
    faults = golden.differences(bundle, model, ran.outputs)
    if faults:
        detail = "; ".join(f"{fault.at}: {fault.got}, {fault.expected}" for fault in faults)
        return Checked(model.target, Outcome.DISAGREES, detail, runtime)
    by_reference = "by the reference evaluator" if ran.by_reference else ""
    return Checked(model.target, Outcome.PASSED, by_reference, runtime)


def _spec(tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.name, tuple(tensor.shape), tensor.dtype, tensor.layout, tensor.meaning)
