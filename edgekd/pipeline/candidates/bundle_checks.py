"""Checks of a recipe's [bundle], before any training."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgekd.artifacts.signature import Signature
from edgekd.bundles import bundle_options, find_bundle, packs_format
from edgekd.bundles.manifest import NAME_LENGTH
from edgekd.bundles.quoting import CONTROLS
from edgekd.errors import Fault, listed, nearest, unknown
from edgekd.formats import format_names
from edgekd.pipeline.candidates.state import DeploymentTarget
from edgekd.recipe.bundle import Bundle, group_fault
from edgekd.recipe.schema import Recipe

NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LENGTH - 1}}}")
VERSION = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}")


def option_faults(
    recipe: Recipe, base: Path, deployments: Sequence[DeploymentTarget]
) -> Iterator[Fault]:
    """The faults of [bundle] that the recipe alone shows."""
    options = recipe.bundle
    assert options is not None
    if not VERSION.fullmatch(recipe.version):
        yield Fault(
            what="The version does not suit Gradle, Swift, CMake and pip.",
            at="version",
            got=repr(recipe.version),
            expected="a version of the form major.minor.patch",
            fix='write version = "1.0.0"',
        )
    if not NAME.fullmatch(recipe.name):
        yield Fault(
            what="The recipe's name is too long for the packages of a bundle.",
            at="name",
            got=repr(recipe.name),
            expected=f"at most {NAME_LENGTH} characters",
            fix="write a shorter name",
        )
    group = group_fault("bundle.android.group", options.android.group)
    if group and "android" in options.kinds:
        yield group
    for deployment in deployments:
        if not NAME.fullmatch(deployment.target.name):
            yield Fault(
                what="A target's name is not a valid name of files and packages in the bundle.",
                at="targets",
                got=repr(deployment.target.name),
                expected=f"at most {NAME_LENGTH} letters, digits, '.', '_' and '-', the first a "
                "letter or digit",
                fix="rename the profile's file",
            )
    yield from _embedded_twice(recipe, options)
    yield from _label_faults(options, base)
    yield from _text_faults(options)
    yield from _kind_option_faults(options)
    formats = sorted({deployment.target.format for deployment in deployments})
    for kind in options.kinds:
        if not any(packs_format(kind, format) for format in formats):
            takes = find_bundle(kind).FORMATS or format_names()
            yield Fault(
                what=f"No target has a format that a bundle of kind {kind!r} supports.",
                at="bundle.kinds",
                got=listed(formats) if formats else "no targets",
                expected=listed(takes),
                fix=f"add a target of format {listed(takes)}, or remove {kind!r}",
            )


def _kind_option_faults(options: Bundle) -> Iterator[Fault]:
    """Faults of the options of kinds that installed packages add."""
    for kind, table in options.options.items():
        known = list(bundle_options(kind)) if kind in options.kinds else []
        for key in sorted(set(table) - set(known)):
            close = nearest(key, known)
            yield Fault(
                what=f"The bundle kind {kind!r} has no option {key!r}."
                if kind in options.kinds
                else f"{kind!r} has options but is not a kind of this bundle.",
                at=f"bundle.{kind}.{key}",
                got=repr(table[key]),
                expected=listed(known) if known else f"no options of {kind!r}",
                fix=f"did you mean {close!r}?" if close else f"remove {key!r}",
            )


def _embedded_twice(recipe: Recipe, options: Bundle) -> Iterator[Fault]:
    for name in sorted(set(options.preprocessing) & set(recipe.export.inputs)):
        stated = sorted(options.preprocessing[name].model_fields_set & {"scale", "mean", "std"})
        if stated:
            yield Fault(
                what=f"The preprocessing of input {name!r} is already embedded in the model.",
                at=f"bundle.preprocessing.{name}",
                got=listed(stated),
                expected=f"no such keys, because [export.inputs.{name}] embeds them in the model",
                fix=f"remove {listed(stated)} from bundle.preprocessing.{name}",
            )


def _label_faults(options: Bundle, base: Path) -> Iterator[Fault]:
    try:
        labels = options.label_names(base)
    except (OSError, UnicodeDecodeError) as error:
        yield Fault(
            what="The label file cannot be read.",
            at="bundle.labels",
            got=f"{type(error).__name__}: {error}",
            expected="a UTF-8 text file with one label per line",
            fix="give a path relative to the recipe",
        )
        return
    bad = [label for label in labels if not label.strip() or CONTROLS.search(label)]
    if bad:
        yield Fault(
            what="A label is empty or contains a control character.",
            at="bundle.labels",
            got=repr(bad[0]),
            expected="non-empty labels, each on one line",
            fix="correct the label",
        )


def _text_faults(options: Bundle) -> Iterator[Fault]:
    texts = {"description": options.description.replace("\n", " ")}
    texts |= {f"licences.{role}": licence or "" for role, licence in options.licences}
    for key, text in texts.items():
        if CONTROLS.search(text):
            yield Fault(
                what="A text of the bundle has characters that XML does not allow.",
                at=f"bundle.{key}",
                got=repr(text),
                expected="text without control characters",
                fix=f"remove the control characters from bundle.{key}",
            )


def network_faults(
    options: Bundle, base: Path, classes_axis: int | None, signature: Signature
) -> Iterator[Fault]:
    """The faults of [bundle] against the student: unknown inputs, a wrong number of labels."""
    names = signature.input_names
    for name in options.preprocessing:
        if name not in names:
            yield unknown("input of the student", name, names, f"bundle.preprocessing.{name}")
    labels = options.label_names(base)
    classes = None if classes_axis is None else signature.outputs[0].shape[classes_axis]
    if labels and classes_axis is not None and len(labels) != classes:
        yield Fault(
            what="The bundle does not have one label per class of the student.",
            at="bundle.labels",
            got=f"{len(labels)} labels",
            expected=f"{classes}, the classes of the student's first output",
            fix="give one label per class, in the order of the output",
        )
