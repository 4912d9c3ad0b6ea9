"""Pack what ships, for the app build: the folder first, every other kind of it."""

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
from edgekd.bundles import find_bundle, folder, missing_requirement
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
from edgekd.formats import embed, find_format, quantization
from edgekd.network.preprocessing import NCHW, images_of, turned
from edgekd.pipeline.candidates.bundle_checks import network_faults, option_faults
from edgekd.pipeline.candidates.state import DeploymentTarget, PipelineState, Scored
from edgekd.recipe.bundle import Bundle
from edgekd.recipe.schema import Recipe
from edgekd.system.files import digest
from edgekd.system.packages import tool_versions
from edgekd.system.store import Run
from edgekd.system.version import VERSION


def check(recipe: Recipe, base: Path, deployments: Sequence[DeploymentTarget]) -> None:
    """What packages need, found before days of training: names, labels, a target that suits."""
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
    """Holds what a bundle says of the network against the network, before any training.

    Raises:
        RecipeError: preprocessing names no input, or there are not as many labels as classes.
    """
    options = state.recipe.bundle
    if options is None:
        return
    signature = state.student.signature
    faults = [*network_faults(options, state.base, state.task.classes_axis, signature)]
    if faults:
        raise RecipeError(*faults)


def step(state: PipelineState, run: Run) -> PipelineState:
    """The work with a package of every kind, where any target has something that ships.

    Raises:
        ConversionError: a model with its labels inside is not the one that was verified, or a
            package cannot be made.
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
    place = run.folder / "bundle"
    bundle = place / f"{recipe.name}-{recipe.version}"
    inputs = _inputs(state)
    models = []
    for number, candidate in enumerate(shipped):
        run.progress("bundle", candidate.target, number + 1, len(shipped))
        models.append(_model(candidate, state, options, bundle, inputs))
    manifest = _manifest(state, options, models)
    manifest = folder.finish(bundle, manifest)
    made = {"folder": bundle}
    for kind in dict.fromkeys(options.kinds):
        if kind == "folder":
            continue
        module = find_bundle(kind)
        if any(model.format in module.FORMATS for model in models):
            run.progress("bundle", kind)
            made[kind] = place / kind
            made[kind].mkdir(parents=True)
            module.pack(bundle, manifest, made[kind])
    return replace(state, bundles=made)


def _inputs(state: PipelineState) -> Inputs:
    """The golden inputs, spread over the test split."""
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
    told = embed(
        candidate.format, entry, _metadata(candidate, state, options), options.preprocessing
    )
    ran = _same(candidate, entry, inputs) if told else _run(candidate, artifact.path, inputs)
    steps = quantization(candidate.format, entry)
    # The file's own types: some formats hold what the network has in 64 bits in 32.
    given = {
        name: values.to(getattr(torch, ran.dtypes[name].rstrip("_")))
        for name, values in _numbers(turned(inputs, artifact.channels_last), steps).items()
    }
    outputs = _numbers(ran.outputs, steps)
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
            _spec(spec, given[spec.name], steps, layout=NCHW if spec.name in images else None)
            for spec in artifact.signature.inputs
        ],
        outputs=[
            _spec(spec, outputs[spec.name], steps, meaning=None if number else meaning)
            for number, spec in enumerate(artifact.signature.outputs)
        ],
        golden=golden.write(bundle, given, outputs, candidate.target, candidate.scheme, steps),
        why=state.chosen[candidate.target].why,
        evidence=Evidence(**{name: document[name] for name in Evidence.model_fields}),
        routing=Routed(**state.routes[candidate.target].to_json())
        if candidate.target in state.routes
        else None,
    )


def _numbers(tensors: Mapping[str, Tensor], steps: Mapping[str, QuantizationParams]) -> Inputs:
    """`tensors`, those that `steps` name as the whole numbers that the file takes and gives."""
    arrays = as_numbers({name: values.numpy() for name, values in tensors.items()}, steps)
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _spec(
    spec: TensorSpec,
    values: Tensor,
    steps: Mapping[str, QuantizationParams],
    layout: str | None = None,
    meaning: str | None = None,
) -> Spec:
    """What the manifest says of a tensor of which `values` are some.

    Args:
        layout, meaning: what they are where `spec` does not say.
    """
    step = steps.get(spec.name)
    told: dict[str, Any] = {
        "name": spec.name,
        "shape": list(spec.shape),
        "dtype": str(values.dtype).removeprefix("torch."),
        "layout": spec.layout or layout,
        "meaning": spec.meaning or meaning,
        "quantization": Quantization(scale=step.scale, zero_point=step.zero_point)
        if step
        else None,
    }
    return Spec(**told)


def _metadata(candidate: Candidate, state: PipelineState, options: Bundle) -> dict[str, str]:
    steps = {
        name: each.model_dump(exclude_none=True) for name, each in options.preprocessing.items()
    }
    told = {
        "name": state.recipe.name,
        "version": state.recipe.version,
        "description": options.description,
        "target": candidate.target,
        "scheme": candidate.scheme,
        "outputs": state.recipe.export.outputs,
        "labels": "\n".join(options.label_names(state.base)),
        "licence": options.licences.model or "",
        "preprocessing": json.dumps(steps, sort_keys=True) if steps else "",
    }
    return {key: value for key, value in told.items() if value}


def _run(candidate: Candidate, path: Path, inputs: Inputs) -> Ran:
    assert candidate.artifact is not None
    # On this host: the bundle is made here, and a board may be busy or gone by now.
    ran = run_artifact(replace(candidate.artifact, path=path), inputs, "local")
    if isinstance(ran, Ran):
        return ran
    raise ConversionError(_unlike(candidate, path, f"{ran.outcome.value}: {ran.detail}"))


def _same(candidate: Candidate, entry: Path, inputs: Inputs) -> Ran:
    """What the file with its metadata does, which is what the file without does."""
    assert candidate.artifact is not None
    before, after = _run(candidate, candidate.artifact.path, inputs), _run(candidate, entry, inputs)
    for name, values in before.outputs.items():
        found = after.outputs.get(name)
        # Bit for bit, whatever stands for no number.
        if found is None or found.numpy().tobytes() != values.numpy().tobytes():
            raise ConversionError(_unlike(candidate, entry, f"other values of {name}"))
    return after


def _unlike(candidate: Candidate, path: Path, got: str) -> Fault:
    return Fault(
        what="A model that ships does not run here as it did when it was verified.",
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
    """What a manifest says of a network: no time, by which the same run would differ."""
    if score is None:
        return None
    return {name: value for name, value in asdict(score).items() if name != "eager_ms"}
