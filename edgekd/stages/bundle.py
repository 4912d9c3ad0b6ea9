"""Pack what ships, for the app build: the folder first, every other kind of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import edgekd
from edgekd import golden
from edgekd.artifact import parts
from edgekd.bundles import find_bundle, folder
from edgekd.bundles.archive import files_under
from edgekd.bundles.manifest import Lineage, Manifest, Model
from edgekd.bundles.manifest import Tensor as Spec
from edgekd.data import Inputs
from edgekd.errors import ConversionError, Fault, MissingPackageError, RecipeError, listed, nearest
from edgekd.evidence import Row
from edgekd.execution import Ran, run_artifact
from edgekd.formats import embed, find_format
from edgekd.need import tool_versions
from edgekd.packaging import Bundle
from edgekd.recipe import Recipe
from edgekd.store import Run, digest
from edgekd.work import Goal, Scored, Work

KEPT = ("evidence", "agreement", "measurement", "notes")
"""What of a row goes into the manifest."""


VERSION = re.compile(r"\d+\.\d+\.\d+")
GROUP = re.compile(r"[a-z][a-z0-9]*(\.[a-z][a-z0-9]*)*")


def check(recipe: Recipe, base: Path, goals: Sequence[Goal]) -> None:
    """What packages need, found before days of training: names, labels, a target that suits."""
    options = recipe.bundle
    if options is None:
        return
    faults = []

    def fault(what: str, at: str, got: str, expected: str, fix: str) -> None:
        faults.append(Fault(what=what, at=at, got=got, expected=expected, fix=fix))

    if not VERSION.fullmatch(recipe.version):
        fault(
            "A bundle's version is read by Gradle, Swift, CMake and pip.",
            "version",
            repr(recipe.version),
            "three numbers, major.minor.patch",
            'write version = "1.0.0"',
        )
    group = options.android.group or ""
    if "android" in options.kinds and not GROUP.fullmatch(group):
        fault(
            "An Android package has no group that Maven and Java take.",
            "bundle.android.group",
            repr(group) if group else "nothing",
            "words of small letters and digits, joined by dots, such as com.acme.models",
            'write android = { group = "com.acme.models" }',
        )
    try:
        labels = options.label_names(base)
    except (OSError, UnicodeDecodeError) as error:
        labels = []
        fault(
            "The file of labels cannot be read.",
            "bundle.labels",
            f"{type(error).__name__}: {error}",
            "a text file in UTF-8, a label on a line",
            "name the file relative to the recipe",
        )
    bad = [label for label in labels if not label.strip() or "\n" in label or "\r" in label]
    if bad:
        fault(
            "A label is no line of text.",
            "bundle.labels",
            repr(bad[0]),
            "a label on a line, none empty",
            "mend the label",
        )
    formats = [goal.target.format for goal in goals]
    for kind in options.kinds:
        takes = find_bundle(kind).FORMATS
        if not set(takes) & set(formats):
            fault(
                f"None of the targets has a file that a bundle of kind {kind!r} takes.",
                "bundle.kinds",
                listed(sorted(set(formats))) if formats else "no target",
                listed(takes),
                f"add a target of {listed(takes)}, or remove {kind!r}",
            )
    if faults:
        raise RecipeError(*faults)
    lacking = [lack for kind in options.kinds if (lack := find_bundle(kind).lacks())]
    if lacking:
        raise MissingPackageError(*lacking)


def preflight(work: Work) -> None:
    """Holds what a bundle says of the network against the network, before any training.

    Raises:
        RecipeError: preprocessing names no input, or there are not as many labels as classes.
    """
    options = work.recipe.bundle
    if options is None:
        return
    faults = []
    names = work.student.signature.input_names
    for name in options.preprocessing:
        if name not in names:
            close = nearest(name, names)
            faults.append(
                Fault(
                    what="A bundle's preprocessing is of an input that the student does not have.",
                    at=f"bundle.preprocessing.{name}",
                    got=repr(name),
                    expected=listed(names),
                    fix=f"did you mean {close!r}?" if close else f"name it {names[0]!r}",
                )
            )
    labels = options.label_names(work.base)
    axis = work.task.classes_axis
    classes = None if axis is None else work.student.signature.outputs[0].shape[axis]
    if labels and axis is not None and len(labels) != classes:
        faults.append(
            Fault(
                what="A bundle has not as many labels as the student has classes.",
                at="bundle.labels",
                got=f"{len(labels)} labels",
                expected=f"{classes}, as the student's first output has",
                fix="give a label for each class, in the outputs' order",
            )
        )
    if faults:
        raise RecipeError(*faults)


def step(work: Work, run: Run) -> Work:
    """The work with a package of every kind, where any target has something that ships.

    Raises:
        ConversionError: a model with its labels inside is not the one that was verified, or a
            package cannot be made.
    """
    options = work.recipe.bundle
    assert options is not None
    shipped = [row for row in work.rows if work.chosen[row.target].ships(row)]
    if not shipped:
        return work
    recipe = work.recipe
    place = run.folder / "bundle"
    bundle = place / f"{recipe.name}-{recipe.version}"
    inputs = _inputs(work)
    models = []
    for number, row in enumerate(shipped):
        run.tell("bundle", row.target, number + 1, len(shipped))
        models.append(_model(row, work, options, bundle, inputs))
    manifest = _manifest(work, options, models)
    manifest = folder.finish(bundle, manifest)
    made = {"folder": bundle}
    for kind in dict.fromkeys(options.kinds):
        if kind == "folder":
            continue
        module = find_bundle(kind)
        if any(model.format in module.FORMATS for model in models):
            run.tell("bundle", kind)
            made[kind] = place / kind
            made[kind].mkdir(parents=True)
            module.pack(bundle, manifest, made[kind])
    return replace(work, bundles=made)


def _inputs(work: Work) -> Inputs:
    """The golden inputs, spread over the test split."""
    test = work.samples("test")
    count = min(golden.COUNT, len(test))
    ids = torch.arange(count) * (len(test) // count)
    return test.take(ids)[0]


def _model(row: Row, work: Work, options: Bundle, bundle: Path, inputs: Inputs) -> Model:
    artifact = row.artifact
    assert artifact is not None
    assert artifact.signature is not None
    home = bundle / "models" / row.target
    home.mkdir(parents=True)
    for part in parts(artifact.path):
        copy = shutil.copytree if part.is_dir() else shutil.copyfile
        copy(part, home / part.name)
    entry = home / artifact.path.name
    told = embed(row.format, entry, _metadata(row, work, options))
    outputs = _same_outputs(row, entry, inputs) if told else _run(row, artifact.path, inputs)
    target = work.goal(row).target
    files = {f"models/{row.target}/{name}": path for name, path in files_under(home).items()}
    document = row.to_json()
    return Model(
        target=row.target,
        format=row.format,
        scheme=row.scheme,
        machine=target.machine,
        accelerator=target.accelerator,
        entry=f"models/{row.target}/{entry.name}",
        files=[folder.described(name, path) for name, path in files.items()],
        size_bytes=sum(path.stat().st_size for path in files.values()),
        zipped_bytes=artifact.zipped_bytes,
        exported_sha256=artifact.sha256,
        inputs=[_spec(spec) for spec in artifact.signature.inputs],
        outputs=[_spec(spec) for spec in artifact.signature.outputs],
        golden=golden.write(
            bundle, inputs, outputs, row.target, row.scheme, artifact.channels_last
        ),
        why=work.chosen[row.target].why,
        evidence={name: document[name] for name in KEPT},
    )


def _spec(spec: Any) -> Spec:
    return Spec(**{**asdict(spec), "shape": list(spec.shape)})


def _metadata(row: Row, work: Work, options: Bundle) -> dict[str, str]:
    told = {
        "name": work.recipe.name,
        "version": work.recipe.version,
        "description": options.description,
        "target": row.target,
        "scheme": row.scheme,
        "labels": "\n".join(options.label_names(work.base)),
        "licence": options.licences.model or "",
    }
    return {key: value for key, value in told.items() if value}


def _run(row: Row, path: Path, inputs: Inputs) -> Mapping[str, Tensor]:
    assert row.artifact is not None
    # On this host: the bundle is made here, and a board may be busy or gone by now.
    ran = run_artifact(replace(row.artifact, path=path), inputs, "local")
    if isinstance(ran, Ran):
        return ran.outputs
    raise ConversionError(_unlike(row, path, f"{ran.outcome.value}: {ran.detail}"))


def _same_outputs(row: Row, entry: Path, inputs: Inputs) -> Mapping[str, Tensor]:
    """The outputs of the file with its metadata, which are those of the file without."""
    assert row.artifact is not None
    before, after = _run(row, row.artifact.path, inputs), _run(row, entry, inputs)
    for name, values in before.items():
        if name not in after or not torch.equal(values, after[name]):
            raise ConversionError(_unlike(row, entry, f"other values of {name}"))
    return after


def _unlike(row: Row, path: Path, got: str) -> Fault:
    return Fault(
        what="A model that ships does not run here as it did when it was verified.",
        at=f"bundle, target {row.target}, {path}",
        got=got,
        expected="the outputs of the artifact that passed",
        fix=f"run it by hand; leave {row.scheme} out for this target, or [bundle] out meanwhile",
    )


def _manifest(work: Work, options: Bundle, models: list[Model]) -> Manifest:
    recipe = work.recipe
    packages = [name for model in models for name in find_format(model.format).PACKAGES]
    return Manifest(
        schema_version=1,
        name=recipe.name,
        version=recipe.version,
        description=options.description,
        task=recipe.task,
        metric=recipe.accept.metric,
        labels=options.label_names(work.base),
        preprocessing=options.preprocessing,
        licences=options.licences,
        packaging={"android": {"group": options.android.group}} if options.android.group else {},
        models=models,
        left_out={
            name: choice.why for name, choice in work.chosen.items() if choice.scheme is None
        },
        lineage=Lineage(
            edgekd=edgekd.__version__,
            recipe_sha256=digest(recipe.model_dump(mode="json")),
            data_sha256=work.data_key,
            tools=tool_versions(tuple(dict.fromkeys(packages))),
            teacher=_figures(work.teacher_score),
            student=_figures(work.student_score),
        ),
    )


def _figures(score: Scored | None) -> dict[str, Any] | None:
    return asdict(score) if score else None
