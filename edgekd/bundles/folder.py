"""The bundle itself: a folder whose manifest describes every file and its origin."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from edgekd.bundles.archive import files_under
from edgekd.bundles.manifest import MANIFEST, SCHEMA, File, Manifest, json_schema
from edgekd.bundles.model_card import LABELS, card_lines
from edgekd.system.files import path_digest, write_json, write_text

FORMATS: tuple[str, ...] | None = None

CARD = "MODEL_CARD.md"
COMPONENTS = "components.cdx.json"
SUMS = "SHA256SUMS"
SIGNATURE = "manifest.json.sig"


def pack(bundle: Path, manifest: Manifest, out: Path) -> None:
    """Copy the bundle."""
    shutil.copytree(bundle, out / f"{manifest.name}-{manifest.version}")


def finish(folder: Path, manifest: Manifest) -> Manifest:
    """Write all files derived from the manifest beside the models and golden vectors.

    Returns the manifest as it is written, with the digests of all files.
    """
    if manifest.labels:
        write_text(folder / LABELS, "".join(f"{label}\n" for label in manifest.labels))
    write_text(folder / CARD, "\n".join(card_lines(manifest)) + "\n")
    write_json(folder / COMPONENTS, components(manifest))
    write_json(folder / SCHEMA, json_schema())
    known = {file.path for model in manifest.models for file in model.files}
    others = [described(name, path) for name, path in files_under(folder).items()]
    others = [file for file in others if file.path not in known]
    manifest = manifest.model_copy(update={"other_files": others})
    write_json(folder / MANIFEST, manifest.to_json())
    write_text(folder / SUMS, sums(folder))
    return manifest


def described(name: str, path: Path) -> File:
    """The manifest's entry for the file at `path`, called `name` in the bundle."""
    return File(path=name, sha256=path_digest(path), size_bytes=path.stat().st_size)


def sums(folder: Path) -> str:
    """The checksums of all files of the bundle, in the format of `sha256sum --check`."""
    return "".join(
        f"{path_digest(path)}  {name}\n"
        for name, path in files_under(folder).items()
        if name not in (SUMS, SIGNATURE)
    )


def components(manifest: Manifest) -> dict[str, Any]:
    """The component list: models, data and tools, with their licences.

    Source: CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/
    """
    licences = manifest.licences
    models = [
        {
            "type": "machine-learning-model",
            "bom-ref": f"model:{model.target}",
            "name": f"{manifest.name}-{model.target}",
            "version": manifest.version,
            "description": f"{model.format} {model.scheme} for {model.target}",
            **_licensed(licences.model),
        }
        for model in manifest.models
    ]
    files = [
        {
            "type": "file",
            "bom-ref": f"file:{file.path}",
            "name": file.path,
            "hashes": [{"alg": "SHA-256", "content": file.sha256}],
        }
        for model in manifest.models
        for file in model.files
    ]
    data = {"type": "data", "bom-ref": "data:training", "name": "training data"}
    tools = [
        {"type": "library", "bom-ref": f"tool:{name}", "name": name, "version": version}
        for name, version in sorted(manifest.lineage.tools.items())
        if version
    ]
    teacher = {"type": "machine-learning-model", "bom-ref": "model:teacher", "name": "teacher"}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "bundle",
                "name": manifest.name,
                "version": manifest.version,
            }
        },
        "components": [
            *models,
            *files,
            {**data, **_licensed(licences.data)},
            *([{**teacher, **_licensed(licences.teacher)}] if manifest.lineage.teacher else []),
            *tools,
        ],
    }


def _licensed(licence: str | None) -> dict[str, Any]:
    """A licence in CycloneDX's form: an SPDX expression if it is one, else a name."""
    if not licence:
        return {}
    try:
        return {"licenses": [{"expression": canonicalize_license_expression(licence)}]}
    except InvalidLicenseExpression:
        return {"licenses": [{"license": {"name": licence}}]}
