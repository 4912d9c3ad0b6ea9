"""Which candidates a target has, and why it has not the others, before any work."""

from __future__ import annotations

from dataclasses import replace

from edgekd.conversion import FIXED
from edgekd.devices.options import drives_gpu
from edgekd.errors import MissingPackageError, listed
from edgekd.evidence import Outcome, Row
from edgekd.formats import find_format
from edgekd.need import missing
from edgekd.quantization.places import METHODS
from edgekd.recipe import Recipe
from edgekd.target import Target
from edgekd.work import Goal


def candidates_of(goal: Goal, recipe: Recipe) -> list[Row]:
    """A row for each of the recipe's schemes, refused where target or format have it not, and
    the same of the other networks that the recipe makes."""
    rows = []
    target = goal.target
    schemes = find_format(target.format).SCHEMES
    for scheme in dict.fromkeys(recipe.quantize.schemes):
        row = Row(target.name, target.format, scheme)
        reason = target.refusal(scheme)
        if reason is None and scheme not in schemes:
            reason = f"{target.format} can be written here in {listed(schemes)}"
        if reason is None:
            reason = _not_driven(target)
        if reason is None and target.format == "coreml":
            whole = [name for name, raw in recipe.export.inputs.items() if raw.dtype == "uint8"]
            reason = f"Core ML takes no uint8 array: {UINT8.format(whole[0])}" if whole else None
        if reason is None and target.format in FIXED and recipe.student.dynamic:
            sizes = listed(recipe.student.dynamic)
            reason = f"{FIXED[target.format]} files have fixed sizes: no {sizes}"
        if reason is not None:
            row = replace(row, outcome=Outcome.REFUSED, detail=reason)
        rows.append(_available(row, goal))
    # Where methods are searched, it is trained only if all of them miss: the last rung of a ladder.
    asked = recipe.quantize.qat_epochs and recipe.quantize.search == "first"
    trained = [row for row in rows if row.scheme == "int8"] if asked else []
    if recipe.prune is not None:
        # What pruning is timed against, and what goes on where it does not pay.
        rows += [replace(row, network="unpruned") for row in rows if row.open]
    return rows + [_trainable(replace(row, network="quantized")) for row in trained if row.open]


def _trainable(row: Row) -> Row:
    """`row`, of the student trained to be rounded, refused where no training knows the rounding."""
    formats = list(dict.fromkeys(name for name, _ in METHODS))
    if row.format in formats:
        return row
    reason = f"what {row.format} rounds is not simulated; that of {listed(formats)} is"
    return replace(row, outcome=Outcome.REFUSED, detail=reason)


def _not_driven(target: Target) -> str | None:
    """Why edgekd cannot have the target's accelerator compute, or None."""
    if target.accelerator == "cpu" or target.format == "coreml":
        return None
    if target.accelerator == "gpu" and target.format == "onnx":
        if target.device is None or drives_gpu(target.device):
            return None
        ways = "?trtexec=/usr/src/tensorrt/bin/trtexec or ?providers=tensorrt,cuda"
        return f"{target.name} computes on its gpu: its device must be told to, by {ways}"
    return f"{target.name} computes on its {target.accelerator}; edgekd drives the CPU"


UINT8 = 'set export.inputs.{}.dtype = "float32", which holds 0 to 255 too'


def _available(row: Row, goal: Goal) -> Row:
    module = find_format(row.format)
    absent = missing(module.PACKAGES, extra=module.EXTRA)
    if not row.open or absent is None:
        return row
    if goal.required:
        raise MissingPackageError(absent)
    return replace(row, outcome=Outcome.UNAVAILABLE, detail=f"{absent.what} {absent.fix}")
