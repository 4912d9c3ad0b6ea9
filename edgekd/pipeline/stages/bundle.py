"""Bundle the artifacts that ship for app builds: first the folder, then every other kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekd.artifacts.artifact import parts, zipped
from edgekd.artifacts.quantization_params import QuantizationParams, as_numbers
from edgekd.artifacts.signature import TensorSpec
from edgekd.bundles import find_bundle, folder, missing_requirement, packs_format
from edgekd.bundles import golden_vectors as golden
from edgekd.bundles.archive import files_under
from edgekd.bundles.manifest import (
    SCHEMA_VERSION,
    Evidence,
    Lineage,
    Manifest,
    Model,
    Quantization,
    Routed,
)
from edgekd.bundles.manifest import Tensor as Spec
from edgekd.data import Inputs
from edgekd.devices.execution import Ran, run_artifact
from edgekd.errors import ConversionError, Fault, MissingPackageError, RecipeError
from edgekd.evidence.candidate import Candidate
from edgekd.formats import find_format
from edgekd.formats.capabilities import embed, quantization
from edgekd.network.preprocessing import NCHW, images_of, to_nhwc
from edgekd.pipeline.candidates.bundle_checks import network_faults, option_faults
from edgekd.pipeline.candidates.state import DeploymentTarget, PipelineState, Scored
from edgekd.recipe.bundle import Bundle
from edgekd.recipe.schema import Recipe
from edgekd.system.files import digest
from edgekd.system.packages import tool_versions
from edgekd.system.store import Run
from edgekd.system.version import VERSION


def check(recipe: Recipe, base: Path, deployments: Sequence[DeploymentTarget]) -> None:
    """Raises the faults of [bundle] before any training: names, labels, formats, packages."""
    options = recipe.bundle
    if options is None:
        return
    faults = [*option_faults(recipe, base, deployments)]
    if faults:
        raise RecipeError(*faults)
    lacking = [lack for kind in options.kinds if (lack := missing_requirement(kind))]
    if lacking:
        raise MissingPackageError(*lacking)


def preflight(state: PipelineState) -> None:
    """Checks [bundle] against the student, before any training.

    Raises:
        RecipeError: preprocessing names an unknown input, or the labels are not one per class.
    """
    options = state.recipe.bundle
    if options is None:
        return
    signature = state.student.signature
    faults = [*network_faults(options, state.base, state.task.classes_axis, signature)]
    if faults:
        raise RecipeError(*faults)


def step(state: PipelineState, run: Run) -> PipelineState:
    """The state with a bundle of every kind, if any target ships an artifact.

    Raises:
        ConversionError: a model with metadata does not compute what the verified one does, or a
            package cannot be built.
    """
    options = state.recipe.bundle
    assert options is not None
    shipped = [
        candidate
        for candidate in state.candidates
        if state.chosen[candidate.target].ships(candidate)
    ]
    if not shipped:
        return state
    recipe = state.recipe
    home = run.folder / "bundle"
    bundle = home / f"{recipe.name}-{recipe.version}"
    inputs = _inputs(state)
    models = []
    for number, candidate in enumerate(shipped):
        run.progress("bundle", candidate.target, number + 1, len(shipped))
        models.append(_model(candidate, state, options, bundle, inputs))
    manifest = _manifest(state, options, models)
    manifest = folder.finish(bundle, manifest)
    folders = {"folder": bundle}
    for kind in dict.fromkeys(options.kinds):
        if kind == "folder":
            continue
        module = find_bundle(kind)
        if any(packs_format(kind, model.format) for model in models):
            run.progress("bundle", kind)
            folders[kind] = home / kind
            folders[kind].mkdir(parents=True)
            module.pack(bundle, manifest, folders[kind])
    return replace(state, bundles=folders)


def _inputs(state: PipelineState) -> Inputs:
    """The inputs of the golden vectors, spread over the test split."""
    test = state.samples("test")
    count = min(golden.COUNT, len(test))
    ids = torch.arange(count) * (len(test) // count)
    return test.take(ids)[0]


def _model(
    candidate: Candidate, state: PipelineState, options: Bundle, bundle: Path, inputs: Inputs
) -> Model:
    artifact = candidate.artifact
    assert artifact is not None
    assert artifact.signature is not None
    home = bundle / "models" / candidate.target
    home.mkdir(parents=True)
    for part in parts(artifact.path):
        copy = shutil.copytree if part.is_dir() else shutil.copyfile
        copy(part, home / part.name)
    entry = home / artifact.path.name
    embedded = embed(
        candidate.format, entry, _metadata(candidate, state, options), options.preprocessing
    )
    ran = _checked(candidate, entry, inputs) if embedded else _run(candidate, artifact.path, inputs)
    params = quantization(candidate.format, entry)
    # The file's own dtypes: some formats store the network's 64-bit tensors in 32 bits.
    given = {
        name: values.to(getattr(torch, ran.dtypes[name].rstrip("_")))
        for name, values in _numbers(to_nhwc(inputs, artifact.channels_last), params).items()
    }
    outputs = _numbers(ran.outputs, params)
    target = state.deployment(candidate).target
    files = {f"models/{candidate.target}/{name}": path for name, path in files_under(home).items()}
    sizes = [path.stat().st_size for path in files.values()]
    images = images_of(state.network(candidate))
    meaning = None if state.task.classes_axis is None else "logits"
    document = candidate.to_json()
    return Model(
        target=candidate.target,
        format=candidate.format,
        scheme=candidate.scheme,
        network=candidate.network,
        machine=target.machine,
        accelerator=target.accelerator,
        entry=f"models/{candidate.target}/{entry.name}",
        files=[folder.described(name, path) for name, path in files.items()],
        size_bytes=sum(sizes),
        zipped_bytes=zipped(entry),
        exported_sha256=artifact.sha256,
        inputs=[
            _spec(spec, given[spec.name], params, layout=NCHW if spec.name in images else None)
            for spec in artifact.signature.inputs
        ],
        outputs=[
            _spec(spec, outputs[spec.name], params, meaning=None if number else meaning)
            for number, spec in enumerate(artifact.signature.outputs)
        ],
        golden=golden.write(bundle, given, outputs, candidate.target, candidate.scheme, params),
        why=state.chosen[candidate.target].why,
        evidence=Evidence(**{name: document[name] for name in Evidence.model_fields}),
        routing=Routed(**state.routes[candidate.target].to_json())
        if candidate.target in state.routes
        else None,
    )


def _numbers(tensors: Mapping[str, Tensor], params: Mapping[str, QuantizationParams]) -> Inputs:
    """`tensors`, with those named in `params` quantized to the integers of the file's I/O."""
    arrays = as_numbers({name: values.numpy() for name, values in tensors.items()}, params)
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _spec(
    spec: TensorSpec,
    values: Tensor,
    params: Mapping[str, QuantizationParams],
    layout: str | None = None,
    meaning: str | None = None,
) -> Spec:
    """The manifest's entry of a tensor; `values` are an example of it.

    Args:
        layout, meaning: the values for a `spec` without them.
    """
    quantized = params.get(spec.name)
    entry: dict[str, Any] = {
        "name": spec.name,
        "shape": list(spec.shape),
        "dtype": str(values.dtype).removeprefix("torch."),
        "layout": spec.layout or layout,
        "meaning": spec.meaning or meaning,
        "quantization": Quantization(scale=quantized.scale, zero_point=quantized.zero_point)
        if quantized
        else None,
    }
    return Spec(**entry)


def _metadata(candidate: Candidate, state: PipelineState, options: Bundle) -> dict[str, str]:
    preprocessing = {
        name: steps.model_dump(exclude_none=True) for name, steps in options.preprocessing.items()
    }
    metadata = {
        "name": state.recipe.name,
        "version": state.recipe.version,
        "description": options.description,
        "target": candidate.target,
        "scheme": candidate.scheme,
        "outputs": state.recipe.export.outputs,
        "labels": "\n".join(options.label_names(state.base)),
        "licence": options.licences.model or "",
        "preprocessing": json.dumps(preprocessing, sort_keys=True) if preprocessing else "",
    }
    return {key: value for key, value in metadata.items() if value}


def _run(candidate: Candidate, path: Path, inputs: Inputs) -> Ran:
    assert candidate.artifact is not None
    # On this host: a device may be busy or disconnected by now.
    ran = run_artifact(replace(candidate.artifact, path=path), inputs, "local")
    if isinstance(ran, Ran):
        return ran
    raise ConversionError(_differs(candidate, path, f"{ran.outcome.value}: {ran.detail}"))


def _checked(candidate: Candidate, entry: Path, inputs: Inputs) -> Ran:
    """The outputs of the file with metadata, which must equal those of the verified file."""
    assert candidate.artifact is not None
    before, after = _run(candidate, candidate.artifact.path, inputs), _run(candidate, entry, inputs)
    for name, values in before.outputs.items():
        other = after.outputs.get(name)
        # Bit by bit, so that NaN equals NaN.
        if other is None or other.numpy().tobytes() != values.numpy().tobytes():
            raise ConversionError(_differs(candidate, entry, f"different values of {name}"))
    return after


def _differs(candidate: Candidate, path: Path, got: str) -> Fault:
    return Fault(
        what="The bundled model does not compute the outputs of the verified artifact.",
        at=f"bundle, target {candidate.target}, {path}",
        got=got,
        expected="the outputs of the artifact that passed",
        fix=f"run the file by hand; meanwhile remove {candidate.scheme} from this target's schemes "
        "or remove [bundle]",
    )


def _manifest(state: PipelineState, options: Bundle, models: list[Model]) -> Manifest:
    recipe = state.recipe
    packages = [name for model in models for name in find_format(model.format).PACKAGES]
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=recipe.name,
        version=recipe.version,
        description=options.description,
        task=state.task.name,
        metric=recipe.accept.metric,
        labels=options.label_names(state.base),
        preprocessing=options.preprocessing,
        licences=options.licences,
        folded=recipe.export.inputs,
        android=options.android,
        options=options.options,
        models=models,
        left_out={
            name: choice.why for name, choice in state.chosen.items() if choice.scheme is None
        },
        lineage=Lineage(
            edgekd=VERSION,
            recipe_sha256=digest(recipe.model_dump(mode="json")),
            data_sha256=state.data_key,
            tools=tool_versions(tuple(dict.fromkeys(packages))),
            teacher=_figures(state.teacher_score),
            student=_figures(state.student_score),
        ),
    )


def _figures(score: Scored | None) -> dict[str, Any] | None:
    """A network's figures for the manifest, without the latency, which differs between runs."""
    if score is None:
        return None
    return {name: value for name, value in asdict(score).items() if name != "eager_ms"}
