"""The initial candidates of a target, and why others are refused, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgekd.artifacts.target import Target
from edgekd.devices.transport.url import drives_gpu
from edgekd.distillation.qat import no_simulation
from edgekd.errors import Fault, MissingPackageError, RecipeError, listed
from edgekd.evidence.candidate import Candidate
from edgekd.evidence.outcome import Outcome
from edgekd.formats import find_format
from edgekd.formats.capabilities import (
    computes_on,
    has_fixed_shapes,
    integer_io_formats,
    io_refusal,
    title,
    unsupported_input,
)
from edgekd.formats.integer_io import IO_SCHEME
from edgekd.pipeline.candidates.state import DeploymentTarget
from edgekd.recipe.schema import Recipe
from edgekd.system.packages import missing


def candidates_of(deployment: DeploymentTarget, recipe: Recipe) -> list[Candidate]:
    """One candidate per scheme and network of the recipe, refused if unsupported."""
    candidates = []
    target = deployment.target
    schemes = find_format(target.format).SCHEMES
    for scheme in dict.fromkeys(recipe.quantize.schemes):
        candidate = Candidate(target.name, target.format, scheme)
        reason = target.refusal(scheme)
        if reason is None and scheme not in schemes:
            reason = f"edgekd writes {target.format} in {listed(schemes)}"
        if reason is None:
            reason = _not_driven(target)
        if reason is None:
            reason = _unsupported_input(target.format, recipe)
        if reason is None and scheme == IO_SCHEME:
            reason = io_refusal(target.format, scheme, recipe.export.io)
        if reason is None and has_fixed_shapes(target.format) and recipe.student.dynamic:
            sizes = listed(recipe.student.dynamic)
            reason = f"{title(target.format)} files have static shapes: no dynamic {sizes}"
        if reason is not None:
            candidate = replace(candidate, outcome=Outcome.REFUSED, detail=reason)
        candidates.append(_available(candidate, deployment))
    # If methods are searched, QAT is the last fallback: see `edgekd.pipeline.stages.ladder`.
    asked = recipe.quantize.qat_epochs and recipe.quantize.search == "first"
    trained = [candidate for candidate in candidates if candidate.scheme == "int8"] if asked else []
    if recipe.prune is not None:
        # Pruning is timed against these, and they ship if it does not pay off.
        candidates += [
            replace(candidate, network="unpruned") for candidate in candidates if candidate.open
        ]
    return candidates + [
        _trainable(replace(candidate, network="qat")) for candidate in trained if candidate.open
    ]


def check_io(recipe: Recipe, candidates: Sequence[Candidate]) -> None:
    """Raises a RecipeError if the recipe asks for integer I/O that no candidate can have."""
    io = recipe.export.io
    if io == "float32" or any(
        candidate.open and candidate.scheme == IO_SCHEME for candidate in candidates
    ):
        return
    refused = dict.fromkeys(
        f"{candidate.target}, {candidate.scheme}: {candidate.detail}"
        for candidate in candidates
        if candidate.scheme == IO_SCHEME
    )
    raise RecipeError(
        Fault(
            what=f"No candidate of this recipe can have {io} inputs and outputs.",
            at="export.io",
            got="; ".join(refused) or f"quantize.schemes of {listed(recipe.quantize.schemes)}",
            expected=f"{IO_SCHEME!r} in quantize.schemes, and a target that supports it, "
            f"of format {listed(integer_io_formats())}",
            fix="remove export.io, or add the scheme or such a target",
        )
    )


def _trainable(candidate: Candidate) -> Candidate:
    """`candidate` for QAT, refused if edgekd cannot simulate the quantizer of its format."""
    reason = no_simulation(candidate.format)
    if reason is None:
        return candidate
    return replace(candidate, outcome=Outcome.REFUSED, detail=reason)


def _unsupported_input(format: str, recipe: Recipe) -> str | None:
    """Why a file of `format` cannot have an input of the recipe, or None."""
    for name, raw in recipe.export.inputs.items():
        reason = unsupported_input(format, raw.dtype)
        if reason is not None:
            hint = f'set export.inputs.{name}.dtype = "float32", which holds 0 to 255 as well'
            return f"{reason}: {hint}"
    return None


def _not_driven(target: Target) -> str | None:
    """Why edgekd cannot use the target's accelerator, or None."""
    if computes_on(target.format, target.accelerator):
        return None
    if target.accelerator == "gpu" and target.format == "onnx":
        if target.device is None or drives_gpu(target.device):
            return None
        options = "?trtexec=/usr/src/tensorrt/bin/trtexec or ?providers=tensorrt,cuda"
        return f"{target.name} runs on its GPU: add {options} to the URL of its device"
    return f"{target.name} runs on its {target.accelerator}; edgekd only runs on its CPU"


def _available(candidate: Candidate, deployment: DeploymentTarget) -> Candidate:
    module = find_format(candidate.format)
    absent = missing(module.PACKAGES, extra=module.EXTRA)
    if not candidate.open or absent is None:
        return candidate
    if deployment.required:
        raise MissingPackageError(absent)
    return replace(candidate, outcome=Outcome.UNAVAILABLE, detail=f"{absent.what} {absent.fix}")
