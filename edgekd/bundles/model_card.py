"""The model card of a bundle, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from edgekd.bundles.manifest import Manifest, Model, Tensor
from edgekd.bundles.quoting import markdown_line
from edgekd.errors import listed

LABELS = "labels.txt"


def card_lines(manifest: Manifest) -> Iterator[str]:
    """The lines of the model card, in Markdown."""
    yield f"# {markdown_line(manifest.name)} {manifest.version}"
    yield ""
    yield markdown_line(manifest.description or f"A {manifest.task} model, exported by edgekd.")
    yield ""
    yield from _models(manifest)
    yield from _usage(manifest)
    yield from _origin(manifest)
    yield "To check it and run its golden vectors: `edgekd bundle --check FOLDER`"


def _models(manifest: Manifest) -> Iterator[str]:
    yield "## What ships"
    yield ""
    metric = markdown_line(manifest.metric)
    yield f"| target | file | precision | bytes | {metric} | p50 ms | where |"
    yield "|---|---|---|---:|---:|---:|---|"
    yield from (_row(model) for model in manifest.models)
    yield ""
    for model in manifest.models:
        yield f"- {markdown_line(model.target)}: {markdown_line(model.why)}"
    for target, reason in manifest.left_out.items():
        yield f"- {markdown_line(target)} has no model: {markdown_line(reason)}"
    yield ""
    yield "`where` is where the figures were measured: on the device itself, on this host in its "
    yield "place, on an emulator (no latency), or in a reference evaluator."
    yield ""


def _usage(manifest: Manifest) -> Iterator[str]:
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
            yield f"On {markdown_line(listed(targets))}:"
            yield ""
        yield description
        yield ""
    for name, raw in manifest.folded.items():
        yield f"- preprocessing embedded in the file, of {markdown_line(name)}: {_keys(raw)}"
    for name, steps in manifest.preprocessing.items():
        yield f"- preprocessing in the app, of {markdown_line(name)}: {_keys(steps)}"
    if not manifest.preprocessing and not manifest.folded:
        yield "- no preprocessing is stated: inputs are those of the recipe's data"
    for model in manifest.models:
        if model.routing is not None:
            yield f"- routing on {markdown_line(model.target)}: {markdown_line(model.routing.why)}"
    if manifest.labels:
        yield f"- {len(manifest.labels)} labels in `{LABELS}`, one per line, in output order"
    yield ""


def _origin(manifest: Manifest) -> Iterator[str]:
    yield "## Origin"
    yield ""
    lineage = manifest.lineage
    for role, figures in (("teacher", lineage.teacher), ("student", lineage.student)):
        if figures:
            text = ", ".join(f"{k} {v:g}" for k, v in figures.items() if isinstance(v, int | float))
            yield f"- {role}: {markdown_line(text)}"
    yield f"- recipe sha256 `{lineage.recipe_sha256}`"
    yield f"- data sha256 `{lineage.data_sha256}`"
    tools = lineage.tools.items()
    yield "- exported with " + ", ".join(
        markdown_line(f"{tool} {version}") for tool, version in tools
    )
    for role, licence in manifest.licences:
        yield f"- licence of the {role}: {markdown_line(licence or 'not stated')}"
    yield ""


def _keys(table: BaseModel) -> str:
    """The keys of a table that are not at their default, and their values."""
    values = table.model_dump(exclude_defaults=True).items()
    return ", ".join(f"{key} {markdown_line(value)}" for key, value in values)


def _tensor(tensor: Tensor) -> str:
    """A tensor's name, shape, dtype, axes, meaning and quantization, as text."""
    shape = " x ".join("any" if size is None else str(size) for size in tensor.shape)
    quantization = tensor.quantization
    parts = [
        f"{markdown_line(tensor.name)}: {shape} {tensor.dtype}",
        *(markdown_line(text) for text in (tensor.layout, tensor.meaning) if text),
        *(
            [f"value = {quantization.scale:g} * (number - {quantization.zero_point})"]
            if quantization
            else []
        ),
    ]
    return ", ".join(parts)


def _row(model: Model) -> str:
    agreement, measurement = model.evidence.agreement, model.evidence.measurement
    metric, p50_ms = agreement and agreement.metric, measurement and measurement.p50_ms
    cells = [
        markdown_line(model.target),
        f"`{model.entry}`",
        model.scheme,
        f"{model.size_bytes:,}",
        f"{metric:.4f}" if metric is not None else "",
        f"{p50_ms:.3f}" if p50_ms is not None else "",
        model.evidence.evidence or "",
    ]
    return f"| {' | '.join(cells)} |"
