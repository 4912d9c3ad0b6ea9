"""Compare a bundle with the previous release: regressions, and changes of its interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from edgekd.bundles.manifest import Evidence, Model, Tensor, read_manifest
from edgekd.errors import BudgetMissedError, DisagreementError, EdgekdError, Fault

ChangeKind = Literal["accuracy", "cost", "interface"]


@dataclass(frozen=True)
class Tolerance:
    """The largest tolerated regressions.

    Attributes:
        metric, agreement: absolute differences.
        latency, size: relative differences. The medians of two runs differ by a few percent even on
            an idle device.
    """

    metric: float = 0.005
    agreement: float = 0.005
    latency: float = 0.10
    size: float = 0.02


@dataclass(frozen=True)
class Change:
    """One figure of one target, before and after.

    Attributes:
        kind: accuracy and cost have a tolerance; any change of an interface is worse.
        worse: whether it is worse than the tolerance allows.
        told: an explanation, if the figures need one; `edgekd diff --json` has it under this key.
    """

    target: str
    figure: str
    kind: ChangeKind
    before: float | str | None
    after: float | str | None
    worse: bool
    told: str = ""


def compare(old: Path, new: Path, tolerance: Tolerance) -> list[Change]:
    """The differences of the bundle `new` from `old`, target by target.

    Latencies are compared only if both have the same kind of evidence.

    Raises:
        RecipeError: a folder is not a bundle.
    """
    before, after = read_manifest(old), read_manifest(new)
    changes = [
        _interface("(all)", figure, was, now)
        for figure, was, now in (
            ("labels", *_first_difference(before.labels, after.labels)),
            ("preprocessing", *_steps(before.preprocessing, after.preprocessing)),
            ("folded", *_steps(before.folded, after.folded)),
            ("metric", before.metric, after.metric),
        )
        if was != now
    ]
    now = {model.target: model for model in after.models}
    for model in before.models:
        if model.target not in now:
            reason = after.left_out.get(model.target, "it is no longer a target")
            changes.append(_interface(model.target, "model", model.scheme, None, reason))
            continue
        changes += _model_changes(
            model, now[model.target], tolerance, before.metric == after.metric
        )
    known = {model.target for model in before.models}
    changes += [
        Change(name, "model", "interface", None, model.scheme, worse=False)
        for name, model in now.items()
        if name not in known
    ]
    return changes


def failure(changes: Sequence[Change], new: Path) -> EdgekdError | None:
    """The error of a comparison, or None: exit code 7 for accuracy and interface, else 8."""
    worse = [change for change in changes if change.worse]
    faults = [
        Fault(
            what=f"{change.figure} of {change.target} is worse than in the previous bundle.",
            at=f"{new}: {change.target}, {change.figure}",
            got=f"{change.after}" + (f" ({change.told})" if change.told else ""),
            expected=f"{change.before}, within the tolerance",
            fix="release it under another major version, or restore the interface"
            if change.kind == "interface"
            else "find the stage that lost it in the runs' reports, or widen the tolerance",
        )
        for change in worse
    ]
    if not faults:
        return None
    cost_only = all(change.kind == "cost" for change in worse)
    return (BudgetMissedError if cost_only else DisagreementError)(*faults)


def _interface(
    target: str, figure: str, before: str | None, after: str | None, told: str = ""
) -> Change:
    return Change(target, figure, "interface", before, after, worse=True, told=told)


def _model_changes(old: Model, new: Model, tolerance: Tolerance, same_metric: bool) -> list[Change]:
    changes = []
    for role in ("inputs", "outputs"):
        before, after = (_tensors(getattr(model, role)) for model in (old, new))
        if before != after:
            changes.append(_interface(old.target, role, before, after))
    if (old.routing is None) != (new.routing is None):
        routing = [None if model.routing is None else model.routing.why for model in (old, new)]
        changes.append(_interface(old.target, "routing", routing[0], routing[1]))
    if old.format != new.format:
        changes.append(_interface(old.target, "format", old.format, new.format))
    a, b = old.evidence, new.evidence
    figures: list[tuple[str, ChangeKind, float | None, float | None, float]] = [
        ("agreement", "accuracy", *_figures(a, b, "agreement", _agreement_key(old)),
         tolerance.agreement),
        ("p50_ms", "cost", *_figures(a, b, "measurement", "p50_ms"), tolerance.latency),
        ("p90_ms", "cost", *_figures(a, b, "measurement", "p90_ms"), tolerance.latency),
        ("size_bytes", "cost", old.size_bytes, new.size_bytes, tolerance.size),
    ]  # fmt: skip
    if same_metric:
        both = _figures(a, b, "agreement", "metric")
        figures.insert(0, ("metric", "accuracy", *both, tolerance.metric))
    return changes + [_change(old, new, *figure) for figure in figures]


def _change(
    old: Model,
    new: Model,
    figure: str,
    kind: ChangeKind,
    a: float | None,
    b: float | None,
    allowed: float,
) -> Change:
    note = ""
    if a is None:
        worse = False
    elif b is None:
        worse, note = True, "the figure is missing now"
    elif kind == "accuracy":
        agreement = old.evidence.agreement
        error = figure == "metric" and agreement is not None and agreement.smaller_is_better
        worse = b > a + allowed if error else b < a - allowed
    elif figure.endswith("_ms") and _measured_on(old) != _measured_on(new):
        worse = False
        note = f"not compared: {_measured_on(old)} before, {_measured_on(new)} now"
    else:
        worse = b > a * (1 + allowed)
    return Change(old.target, figure, kind, a, b, worse, note)


def _agreement_key(model: Model) -> str:
    """The key of the task's agreement; older bundles have the share of equal classes only."""
    agreement = model.evidence.agreement
    known = agreement is not None and agreement.task_agreement is not None
    return "task_agreement" if known else "top1_agreement_frac"


def _figures(old: Evidence, new: Evidence, part: str, key: str) -> tuple[Any, Any]:
    """The figure `key` of `part` in both; None if it is missing."""
    before, after = getattr(old, part), getattr(new, part)
    return (before and getattr(before, key)), (after and getattr(after, key))


def _measured_on(model: Model) -> str:
    """The kind of evidence of a model's latency, and the processor."""
    measurement = model.evidence.measurement
    device = (measurement.model_extra or {}).get("device") if measurement else None
    processor = device.get("processor") if isinstance(device, dict) else None
    evidence = str(model.evidence.evidence)
    return f"{evidence}, {processor}" if processor else evidence


def _first_difference(old: Sequence[str], new: Sequence[str]) -> tuple[str, str]:
    """The count of both, and the first entry that differs, as text; empty if they are equal."""
    if list(old) == list(new):
        return "", ""
    number = next(
        (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b),
        min(len(old), len(new)),
    )
    texts = [
        f"{len(labels)}: [{number}] {labels[number]!r}"
        if number < len(labels)
        else f"{len(labels)}"
        for labels in (old, new)
    ]
    return texts[0], texts[1]


def _steps(old: Mapping[str, BaseModel], new: Mapping[str, BaseModel]) -> tuple[str, str]:
    """The steps for each input whose steps differ, as text."""
    names = [name for name in (*old, *new) if old.get(name) != new.get(name)]
    texts = [
        "; ".join(
            f"{name}: "
            + ", ".join(
                f"{k} {v}" for k, v in steps[name].model_dump(exclude_defaults=True).items()
            )
            for name in dict.fromkeys(names)
            if name in steps
        )
        for steps in (old, new)
    ]
    return texts[0], texts[1]


def _tensors(tensors: list[Tensor]) -> str:
    return ", ".join(map(_tensor, tensors))


def _tensor(tensor: Tensor) -> str:
    quantization = tensor.quantization
    return " ".join(
        [
            f"{tensor.name} {tensor.shape} {tensor.dtype}",
            *([f"({tensor.layout})"] if tensor.layout else []),
            *([tensor.meaning] if tensor.meaning else []),
            *(
                [f"scale {quantization.scale:g} zero {quantization.zero_point}"]
                if quantization
                else []
            ),
        ]
    )
