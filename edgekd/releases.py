"""A bundle against the one released before it: what got worse, and what an app must change for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekd.bundles.manifest import Model, Tensor, read_manifest
from edgekd.errors import BudgetMissedError, DisagreementError, EdgekdError, Fault

Kind = Literal["accuracy", "cost", "interface"]


@dataclass(frozen=True)
class Tolerance:
    """How much worse a bundle may be.

    Attributes:
        metric, agreement: absolute, as shares.
        latency, size: as shares of what it was. One run's median differs from the next's by a few
            percent on an idle device.
    """

    metric: float = 0.005
    agreement: float = 0.005
    latency: float = 0.10
    size: float = 0.02


@dataclass(frozen=True)
class Change:
    """One figure of one target, before and after.

    Attributes:
        kind: accuracy and cost are held against a tolerance; an interface is the same or is not.
        worse: whether it is worse than the tolerance allows.
        told: a sentence, where the figures do not speak for themselves.
    """

    target: str
    figure: str
    kind: Kind
    before: float | str | None
    after: float | str | None
    worse: bool
    told: str = ""


def compare(old: Path, new: Path, tolerance: Tolerance) -> list[Change]:
    """How the bundle `new` differs from `old`, target by target.

    Latencies are compared only where both are of the same kind of evidence.

    Raises:
        RecipeError: a folder is no bundle.
    """
    before, after = read_manifest(old), read_manifest(new)
    found: list[Change] = []
    if before.labels != after.labels:
        found.append(_interface("(all)", "labels", f"{len(before.labels)}", f"{len(after.labels)}"))
    if before.preprocessing != after.preprocessing:
        found.append(_interface("(all)", "preprocessing", "as it was", "other"))
    if before.metric != after.metric:
        found.append(_interface("(all)", "metric", before.metric, after.metric))
    now = {model.target: model for model in after.models}
    for model in before.models:
        if model.target not in now:
            why = after.left_out.get(model.target, "it is no longer a target")
            found.append(_interface(model.target, "model", model.scheme, None, why))
            continue
        found += _compared(model, now[model.target], tolerance, before.metric == after.metric)
    known = {model.target for model in before.models}
    found += [
        Change(name, "model", "interface", None, model.scheme, worse=False)
        for name, model in now.items()
        if name not in known
    ]
    return found


def failure(changes: Sequence[Change], new: Path) -> EdgekdError | None:
    """The error a comparison ends with, or None: 7 for accuracy and interface, else 8."""
    worse = [change for change in changes if change.worse]
    faults = [
        Fault(
            what=f"{change.figure} of {change.target} is worse than in the bundle before.",
            at=f"{new}: {change.target}, {change.figure}",
            got=f"{change.after}" + (f" ({change.told})" if change.told else ""),
            expected=f"{change.before}, within the tolerance",
            fix="release it under another major version, or mend it"
            if change.kind == "interface"
            else "find the stage that lost it in the runs' reports, or widen the tolerance",
        )
        for change in worse
    ]
    if not faults:
        return None
    cost_only = all(change.kind == "cost" for change in worse)
    return (BudgetMissedError if cost_only else DisagreementError)(*faults)


def _interface(target: str, figure: str, before: str, after: str | None, told: str = "") -> Change:
    return Change(target, figure, "interface", before, after, worse=True, told=told)


def _compared(old: Model, new: Model, tolerance: Tolerance, same_metric: bool) -> list[Change]:
    found = []
    for role in ("inputs", "outputs"):
        before, after = (_told(getattr(model, role)) for model in (old, new))
        if before != after:
            found.append(_interface(old.target, role, before, after))
    if old.format != new.format:
        found.append(_interface(old.target, "format", old.format, new.format))
    figures = [
        ("metric", "accuracy", "agreement", "metric", tolerance.metric),
        ("agreement", "accuracy", "agreement", _agreement_key(old), tolerance.agreement),
        ("p50_ms", "cost", "measurement", "p50_ms", tolerance.latency),
        ("p90_ms", "cost", "measurement", "p90_ms", tolerance.latency),
    ]
    for figure, kind, part, key, allowed in figures:
        if figure == "metric" and not same_metric:
            continue
        a, b = _figure(old, part, key), _figure(new, part, key)
        if figure == "metric" and _is_error(old):
            kind = "error"
        found.append(_change(old, new, figure, kind, a, b, allowed))
    found.append(
        _change(old, new, "size_bytes", "cost", old.size_bytes, new.size_bytes, tolerance.size)
    )
    return found


def _change(
    old: Model, new: Model, figure: str, kind: Any, a: float | None, b: float | None, allowed: float
) -> Change:
    told = ""
    if a is None:
        worse = False
    elif b is None:
        worse, told = True, "there is no such figure any more"
    elif kind == "accuracy":
        worse = b < a - allowed
    elif kind == "error":
        kind, worse = "accuracy", b > a + allowed
    elif figure.endswith("_ms") and old.evidence["evidence"] != new.evidence["evidence"]:
        worse = False
        told = f"not compared: {old.evidence['evidence']} before, {new.evidence['evidence']} now"
    else:
        worse = b > a * (1 + allowed)
    return Change(old.target, figure, kind, a, b, worse, told)


def _agreement_key(model: Model) -> str:
    """The task's figure; bundles of before it was kept have the share of equal classes."""
    known = _figure(model, "agreement", "task_agreement") is not None
    return "task_agreement" if known else "top1_agreement_frac"


def _is_error(model: Model) -> bool:
    table = model.evidence.get("agreement")
    return isinstance(table, dict) and bool(table.get("smaller_is_better"))


def _figure(model: Model, part: str, key: str) -> float | None:
    table = model.evidence.get(part)
    value = table.get(key) if isinstance(table, dict) else None
    return value if isinstance(value, int | float) else None


def _told(tensors: list[Tensor]) -> str:
    return ", ".join(map(_tensor, tensors))


def _tensor(tensor: Tensor) -> str:
    step = tensor.quantization
    quantized = f" scale {step.scale:g} zero {step.zero_point}" if step else ""
    return f"{tensor.name} {tensor.shape} {tensor.dtype}{quantized}"
