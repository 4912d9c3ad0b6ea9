"""The bundle itself: a folder whose manifest describes every file and its origin."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import BaseModel

from edgekd.bundles.archive import files_under
from edgekd.bundles.manifest import MANIFEST, SCHEMA, File, Manifest, Model, Tensor, json_schema
from edgekd.errors import listed
from edgekd.system.files import path_digest, write_json, write_text

FORMATS: tuple[str, ...] | None = None

CARD = "MODEL_CARD.md"
LABELS = "labels.txt"
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
    write_text(folder / CARD, "\n".join(_card(manifest)) + "\n")
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


def _plain(text: object) -> str:
    """`text` with everything escaped that Markdown or HTML would interpret."""
    escaped = re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(str(text).split()))
    return escaped.replace("&", "&amp;")


def _card(manifest: Manifest) -> Iterator[str]:
    yield f"# {_plain(manifest.name)} {manifest.version}"
    yield ""
    yield _plain(manifest.description or f"A {manifest.task} model, exported by edgekd.")
    yield ""
    yield "## What ships"
    yield ""
    yield f"| target | file | precision | bytes | {_plain(manifest.metric)} | p50 ms | where |"
    yield "|---|---|---|---:|---:|---:|---|"
    yield from (_card_row(model) for model in manifest.models)
    yield ""
    for model in manifest.models:
        yield f"- {_plain(model.target)}: {_plain(model.why)}"
    for target, why in manifest.left_out.items():
        yield f"- {_plain(target)} has no model: {_plain(why)}"
    yield ""
    yield "`where` is where the figures were measured: on the device itself, on this host in its "
    yield "place, on an emulator (no latency), or in a reference evaluator."
    yield ""
    yield "## How to use it"
    yield ""
    # Models with the same inputs and outputs are described once.
    alike: dict[str, list[str]] = {}
    for model in manifest.models:
        lines = [f"- input {_tensor(tensor)}" for tensor in model.inputs]
        lines += [f"- output {_tensor(tensor)}" for tensor in model.outputs]
        alike.setdefault("\n".join(lines), []).append(model.target)
    for description, targets in alike.items():
        if len(alike) > 1:
            yield f"On {_plain(listed(targets))}:"
            yield ""
        yield description
        yield ""
    for name, raw in manifest.folded.items():
        yield f"- preprocessing embedded in the file, of {_plain(name)}: {_keys(raw)}"
    for name, steps in manifest.preprocessing.items():
        yield f"- preprocessing in the app, of {_plain(name)}: {_keys(steps)}"
    if not manifest.preprocessing and not manifest.folded:
        yield "- no preprocessing is stated: inputs are those of the recipe's data"
    for model in manifest.models:
        if model.routing is not None:
            yield f"- on {_plain(model.target)}, an answer is kept if: {_plain(model.routing.why)}"
    if manifest.labels:
        yield f"- {len(manifest.labels)} labels in `{LABELS}`, one per line, in output order"
    yield ""
    yield "## Origin"
    yield ""
    for role, figures in (
        ("teacher", manifest.lineage.teacher),
        ("student", manifest.lineage.student),
    ):
        if figures:
            text = ", ".join(f"{k} {v:g}" for k, v in figures.items() if isinstance(v, int | float))
            yield f"- {role}: {text}"
    yield f"- recipe sha256 `{manifest.lineage.recipe_sha256}`"
    yield f"- data sha256 `{manifest.lineage.data_sha256}`"
    tools = manifest.lineage.tools.items()
    yield "- exported with " + ", ".join(f"{_plain(tool)} {version}" for tool, version in tools)
    for role, licence in manifest.licences:
        yield f"- licence of the {role}: {_plain(licence or 'not stated')}"
    yield ""
    yield "To check it and run its golden vectors: `edgekd bundle --check FOLDER`"


def _keys(table: BaseModel) -> str:
    """The keys of a table that are not at their default, and their values."""
    values = table.model_dump(exclude_defaults=True).items()
    return ", ".join(f"{key} {_plain(value)}" for key, value in values)


def _tensor(tensor: Tensor) -> str:
    """A tensor's name, shape, dtype, axes, meaning and quantization, as text."""
    shape = " x ".join("any" if size is None else str(size) for size in tensor.shape)
    quantization = tensor.quantization
    parts = [
        f"{_plain(tensor.name)}: {shape} {tensor.dtype}",
        *(_plain(text) for text in (tensor.layout, tensor.meaning) if text),
        *(
            [f"value = {quantization.scale:g} * (number - {quantization.zero_point})"]
            if quantization
            else []
        ),
    ]
    return ", ".join(parts)


def _card_row(model: Model) -> str:
    agreement, measurement = model.evidence.agreement, model.evidence.measurement
    metric, p50_ms = agreement and agreement.metric, measurement and measurement.p50_ms
    cells = [
        _plain(model.target),
        f"`{model.entry}`",
        model.scheme,
        f"{model.size_bytes:,}",
        f"{metric:.4f}" if metric is not None else "",
        f"{p50_ms:.3f}" if p50_ms is not None else "",
        model.evidence.evidence or "",
    ]
    return f"| {' | '.join(cells)} |"
