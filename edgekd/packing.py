"""Bundles after their run: packed again in another kind, checked, signed and verified."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import golden
from edgekd.artifact import Artifact
from edgekd.bundles import bundle_names, find_bundle
from edgekd.bundles.archive import files_under
from edgekd.bundles.folder import SIGNATURE, SUMS, sums
from edgekd.bundles.manifest import MANIFEST, Model, read_manifest
from edgekd.errors import (
    DisagreementError,
    EdgekdError,
    Fault,
    MissingPackageError,
    RecipeError,
    listed,
)
from edgekd.evidence import Outcome, Verdict
from edgekd.execution import run_artifact
from edgekd.formats import find_format, format_names
from edgekd.need import missing, need
from edgekd.signature import Signature, TensorSpec
from edgekd.store import path_digest, write_text, written_atomically


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
    ran = (path / "result.json").exists()
    raise RecipeError(
        Fault(
            what=f"There is no bundle in {path}.",
            at=str(path),
            got="a run that made none" if ran else "no manifest.json and no bundle/ folder",
            expected="the folder of a bundle, or of a run whose recipe has a [bundle]",
            fix='add [bundle] kinds = ["folder"] to the recipe and run it again: nothing is done '
            "twice"
            if ran
            else "name RUN, such as runs/NAME/latest, or RUN/bundle/NAME-VERSION",
        )
    )


def pack(path: Path, kind: str, out: Path | None = None, group: str | None = None) -> Path:
    """The package of `kind`, made of the bundle at `path`, in `out` or beside the bundle.

    Args:
        group: Maven's, in place of the recipe's.

    Raises:
        RecipeError: there is no such kind or bundle, or none of its models suits.
        MissingPackageError: what makes the kind is not installed.
    """
    if kind not in bundle_names():
        raise RecipeError(
            Fault(
                what=f"There is no kind of bundle {kind!r}.",
                at="--kind",
                got=repr(kind),
                expected=listed(bundle_names()),
                fix="use one of these kinds",
            )
        )
    bundle = find(path)
    faults = integrity(bundle)
    if faults:
        raise RecipeError(*faults)
    manifest = read_manifest(bundle)
    if group:
        packaging = {**manifest.packaging, "android": {"group": group}}
        manifest = manifest.model_copy(update={"packaging": packaging})
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
    lacks = module.lacks()
    if lacks:
        raise MissingPackageError(lacks)
    place = out or bundle.parent / kind
    with written_atomically(place) as draft:
        draft.mkdir()
        module.pack(bundle, manifest, draft)
    return place


def integrity(bundle: Path) -> list[Fault]:
    """What in the folder `bundle` is not as its manifest says; nothing of it is run.

    Raises:
        RecipeError: its manifest cannot be read.
    """
    links = [entry for entry in bundle.rglob("*") if entry.is_symlink()]
    if links:
        return [_fault(link, "a symbolic link", "only files and folders") for link in links]
    manifest = read_manifest(bundle)
    faults, files = [], files_under(bundle)
    known = [file for model in manifest.models for file in model.files]
    for file in (*known, *manifest.other_files):
        path = files.pop(file.path, None)
        if path is None:
            got = "no such file, or listed twice"
            faults.append(_fault(bundle / file.path, got, f"{file.size_bytes} bytes, once"))
        elif (found := path_digest(path)) != file.sha256:
            faults.append(_fault(path, f"sha256 {found}", f"sha256 {file.sha256}"))
    for name in files:
        if name not in (MANIFEST, SUMS, SIGNATURE):
            faults.append(_fault(bundle / name, "a file that nobody listed", "no such file"))
    for model in manifest.models:
        faults += _consistent(bundle, model)
    if not faults and (SUMS not in files or files[SUMS].read_bytes() != sums(bundle).encode()):
        faults.append(_fault(bundle / SUMS, "other checksums", "those of the bundle's files"))
    return faults


def _consistent(bundle: Path, model: Model) -> list[Fault]:
    """That a model's parts of the manifest speak of the same files and tensors."""
    faults, at = [], bundle / MANIFEST
    listed_files = [file.path for file in model.files]
    if not any(path == model.entry or path.startswith(f"{model.entry}/") for path in listed_files):
        faults.append(_fault(at, f"{model.target}: entry {model.entry}", "one of its files"))
    if model.format not in format_names():
        faults.append(_fault(at, f"{model.target}: format {model.format}", listed(format_names())))
    for role in ("inputs", "outputs"):
        names = [tensor.name for tensor in getattr(model, role)]
        vectors = list(getattr(model.golden, role))
        if sorted(names) != sorted(vectors):
            got = f"{model.target}: golden {role} {', '.join(vectors)}"
            faults.append(_fault(at, got, ", ".join(names)))
    return faults


def _fault(path: Path, got: str, expected: str) -> Fault:
    return Fault(
        what="The bundle is not what its manifest says.",
        at=str(path),
        got=got,
        expected=expected,
        fix="take the bundle from its source again, or make it again: edgekd run RECIPE",
    )


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
    bundle = find(path)
    faults = integrity(bundle)
    if faults:
        raise RecipeError(*faults)
    return [_checked(bundle, model) for model in read_manifest(bundle).models]


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
    module = find_format(model.format)
    absent = missing(module.PACKAGES[-1:], extra=module.EXTRA)
    if absent is not None:
        return Checked(model.target, Outcome.UNAVAILABLE, f"{absent.what} {absent.fix}")
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


def sign(path: Path, key: Path) -> Path:
    """The signature over the manifest of the bundle at `path`, written beside it, by Ed25519.

    The manifest holds the digests of all other files, so that it signs them too.

    Args:
        key: a private key in PEM, as `openssl genpkey -algorithm ed25519` writes it.

    Raises:
        RecipeError: the key is none of that kind, or the bundle is not what its manifest says.
        MissingPackageError: cryptography is not installed.
    """
    serialization = need("cryptography.hazmat.primitives.serialization", extra="sign")
    ed25519 = need("cryptography.hazmat.primitives.asymmetric.ed25519", extra="sign")
    bundle = find(path)
    faults = integrity(bundle)
    if faults:
        raise RecipeError(*faults)
    try:
        loaded = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise RecipeError(_key_fault(key, f"{type(error).__name__}: {error}")) from error
    if not isinstance(loaded, ed25519.Ed25519PrivateKey):
        raise RecipeError(_key_fault(key, type(loaded).__name__))
    made = base64.b64encode(loaded.sign((bundle / MANIFEST).read_bytes())).decode()
    write_text(bundle / SIGNATURE, f"{made}\n")
    return bundle / SIGNATURE


def verify_signature(path: Path, key: Path) -> None:
    """Returns where the bundle at `path` was signed by the private part of `key`, a PEM file.

    Raises:
        RecipeError: it was not, it was changed since, or the key is none.
        MissingPackageError: cryptography is not installed.
    """
    serialization = need("cryptography.hazmat.primitives.serialization", extra="sign")
    ed25519 = need("cryptography.hazmat.primitives.asymmetric.ed25519", extra="sign")
    exceptions = need("cryptography.exceptions", extra="sign")
    bundle = find(path)
    try:
        loaded = serialization.load_pem_public_key(key.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise RecipeError(_key_fault(key, f"{type(error).__name__}: {error}")) from error
    if not isinstance(loaded, ed25519.Ed25519PublicKey):
        raise RecipeError(_key_fault(key, type(loaded).__name__))
    try:
        given = base64.b64decode((bundle / SIGNATURE).read_bytes().strip(), validate=True)
        loaded.verify(given, (bundle / MANIFEST).read_bytes())
    except (OSError, ValueError, exceptions.InvalidSignature) as error:
        raise RecipeError(
            Fault(
                what="The bundle is not signed by this key.",
                at=str(bundle / SIGNATURE),
                got=f"{type(error).__name__} {error}".strip(),
                expected=f"the Ed25519 signature of {MANIFEST}, in base64",
                fix="take the bundle from its source again, or check the key",
            )
        ) from error
    faults = integrity(bundle)
    if faults:
        raise RecipeError(*faults)


def _key_fault(key: Path, got: str) -> Fault:
    return Fault(
        what="The key cannot be used.",
        at=str(key),
        got=got,
        expected="an Ed25519 key in PEM without a password",
        fix="openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout",
    )
