"""The bundle itself: a folder that says of every file what it is and where it came from."""

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

FORMATS: tuple[str, ...] = ("onnx", "openvino", "litert", "coreml", "ncnn")

CARD = "MODEL_CARD.md"
LABELS = "labels.txt"
COMPONENTS = "components.cdx.json"
SUMS = "SHA256SUMS"
SIGNATURE = "manifest.json.sig"


def pack(bundle: Path, manifest: Manifest, out: Path) -> None:
    """Copies the bundle."""
    shutil.copytree(bundle, out / f"{manifest.name}-{manifest.version}")


def finish(folder: Path, manifest: Manifest) -> Manifest:
    """Writes what is made of the manifest beside the models and golden vectors in `folder`.

    Returns the manifest with the digests of all of that, as it is written.
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
    """The file at `path`, `name` in its bundle."""
    return File(path=name, sha256=path_digest(path), size_bytes=path.stat().st_size)


def sums(folder: Path) -> str:
    """The checksums of all files of the bundle in `folder`, as `sha256sum --check` reads them."""
    return "".join(
        f"{path_digest(path)}  {name}\n"
        for name, path in files_under(folder).items()
        if name not in (SUMS, SIGNATURE)
    )


def components(manifest: Manifest) -> dict[str, Any]:
    """The component list: models, data and the tools that made them, with their licences.

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
    """A licence as CycloneDX has it: an SPDX expression where it is one, else its name."""
    if not licence:
        return {}
    try:
        return {"licenses": [{"expression": canonicalize_license_expression(licence)}]}
    except InvalidLicenseExpression:
        return {"licenses": [{"license": {"name": licence}}]}


def _plain(text: object) -> str:
    """`text` without anything that Markdown or HTML would read."""
    escaped = re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(str(text).split()))
    return escaped.replace("&", "&amp;")


def _card(manifest: Manifest) -> Iterator[str]:
    yield f"# {_plain(manifest.name)} {manifest.version}"
    yield ""
    yield _plain(manifest.description or f"A {manifest.task} model, made by edgekd.")
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
    yield "`where` says what the figures are evidence of: the device itself, this host in its "
    yield "place, an emulation (its times are no latencies), or a reference evaluator."
    yield ""
    yield "## How it is used"
    yield ""
    # Models that take and give the same are told once.
    alike: dict[str, list[str]] = {}
    for model in manifest.models:
        lines = [f"- takes {_tensor(each)}" for each in model.inputs]
        lines += [f"- gives {_tensor(each)}" for each in model.outputs]
        alike.setdefault("\n".join(lines), []).append(model.target)
    for told, targets in alike.items():
        if len(alike) > 1:
            yield f"On {_plain(listed(targets))}:"
            yield ""
        yield told
        yield ""
    for name, raw in manifest.folded.items():
        yield f"- the file does itself, to {_plain(name)}: {_keys(raw)}"
    for name, steps in manifest.preprocessing.items():
        yield f"- before it, {_plain(name)}: {_keys(steps)}"
    if not manifest.preprocessing and not manifest.folded:
        yield "- no preprocessing is stated: the inputs are taken as the recipe's data gives them"
    for model in manifest.models:
        if model.routing is not None:
            yield f"- on {_plain(model.target)}, an answer is kept so: {_plain(model.routing.why)}"
    if manifest.labels:
        yield f"- {len(manifest.labels)} labels, in `{LABELS}`, one on a line in the outputs' order"
    yield ""
    yield "## Where it comes from"
    yield ""
    for role, figures in (
        ("teacher", manifest.lineage.teacher),
        ("student", manifest.lineage.student),
    ):
        if figures:
            told = ", ".join(f"{k} {v:g}" for k, v in figures.items() if isinstance(v, int | float))
            yield f"- {role}: {told}"
    yield f"- recipe sha256 `{manifest.lineage.recipe_sha256}`"
    yield f"- data sha256 `{manifest.lineage.data_sha256}`"
    tools = manifest.lineage.tools.items()
    yield "- made with " + ", ".join(f"{_plain(tool)} {version}" for tool, version in tools)
    for role, licence in manifest.licences:
        yield f"- licence of the {role}: {_plain(licence or 'not stated')}"
    yield ""
    yield "Check it, and run its golden vectors: `edgekd bundle --check FOLDER`"


def _keys(table: BaseModel) -> str:
    """The keys of a table that say something, and their values."""
    values = table.model_dump(exclude_defaults=True).items()
    return ", ".join(f"{key} {_plain(value)}" for key, value in values)


def _tensor(tensor: Tensor) -> str:
    """A tensor in words: its name, sizes, type, axes, meaning and quantization."""
    shape = " x ".join("any" if size is None else str(size) for size in tensor.shape)
    step = tensor.quantization
    told = [
        f"{_plain(tensor.name)}: {shape} {tensor.dtype}",
        *(_plain(each) for each in (tensor.layout, tensor.meaning) if each),
        *([f"value = {step.scale:g} * (number - {step.zero_point})"] if step else []),
    ]
    return ", ".join(told)


def _card_row(model: Model) -> str:
    agreed, measured = model.evidence.agreement, model.evidence.measurement
    metric, p50_ms = agreed and agreed.metric, measured and measured.p50_ms
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
