"""A bundle against the one released before it: what got worse, and what an app must change for."""

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
    kind: ChangeKind
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
    found = [
        _interface("(all)", figure, was, now)
        for figure, was, now in (
            ("labels", *_apart(before.labels, after.labels)),
            ("preprocessing", *_steps(before.preprocessing, after.preprocessing)),
            ("folded", *_steps(before.folded, after.folded)),
            ("metric", before.metric, after.metric),
        )
        if was != now
    ]
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


def _interface(
    target: str, figure: str, before: str | None, after: str | None, told: str = ""
) -> Change:
    return Change(target, figure, "interface", before, after, worse=True, told=told)


def _compared(old: Model, new: Model, tolerance: Tolerance, same_metric: bool) -> list[Change]:
    found = []
    for role in ("inputs", "outputs"):
        before, after = (_told(getattr(model, role)) for model in (old, new))
        if before != after:
            found.append(_interface(old.target, role, before, after))
    if (old.routing is None) != (new.routing is None):
        kept = [None if each.routing is None else each.routing.why for each in (old, new)]
        found.append(_interface(old.target, "routing", kept[0], kept[1]))
    if old.format != new.format:
        found.append(_interface(old.target, "format", old.format, new.format))
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
    return found + [_change(old, new, *each) for each in figures]


def _change(
    old: Model,
    new: Model,
    figure: str,
    kind: ChangeKind,
    a: float | None,
    b: float | None,
    allowed: float,
) -> Change:
    told = ""
    if a is None:
        worse = False
    elif b is None:
        worse, told = True, "there is no such figure any more"
    elif kind == "accuracy":
        agreed = old.evidence.agreement
        error = figure == "metric" and agreed is not None and agreed.smaller_is_better
        worse = b > a + allowed if error else b < a - allowed
    elif figure.endswith("_ms") and _where(old) != _where(new):
        worse = False
        told = f"not compared: {_where(old)} before, {_where(new)} now"
    else:
        worse = b > a * (1 + allowed)
    return Change(old.target, figure, kind, a, b, worse, told)


def _agreement_key(model: Model) -> str:
    """The task's figure; bundles of before it was kept have the share of equal classes."""
    agreed = model.evidence.agreement
    known = agreed is not None and agreed.task_agreement is not None
    return "task_agreement" if known else "top1_agreement_frac"


def _figures(old: Evidence, new: Evidence, part: str, key: str) -> tuple[Any, Any]:
    """The figure `key` of the `part` of both; None where there is none."""
    before, after = getattr(old, part), getattr(new, part)
    return (before and getattr(before, key)), (after and getattr(after, key))


def _where(model: Model) -> str:
    """What a model's times are of: kind of evidence, and the device as it calls itself."""
    measured = model.evidence.measurement
    device = (measured.model_extra or {}).get("device") if measured else None
    named = device.get("processor") if isinstance(device, dict) else None
    return f"{model.evidence.evidence}, {named}" if named else str(model.evidence.evidence)


def _apart(old: Sequence[str], new: Sequence[str]) -> tuple[str, str]:
    """Both in words that differ where they do: how many, and the first that differs."""
    if list(old) == list(new):
        return "", ""
    number = next(
        (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b),
        min(len(old), len(new)),
    )
    told = [
        f"{len(each)}: [{number}] {each[number]!r}" if number < len(each) else f"{len(each)}"
        for each in (old, new)
    ]
    return told[0], told[1]


def _steps(old: Mapping[str, BaseModel], new: Mapping[str, BaseModel]) -> tuple[str, str]:
    """What is done to inputs, of those to which the other does something else."""
    names = [name for name in (*old, *new) if old.get(name) != new.get(name)]
    told = [
        "; ".join(
            f"{name}: "
            + ", ".join(f"{k} {v}" for k, v in each[name].model_dump(exclude_defaults=True).items())
            for name in dict.fromkeys(names)
            if name in each
        )
        for each in (old, new)
    ]
    return told[0], told[1]


def _told(tensors: list[Tensor]) -> str:
    return ", ".join(map(_tensor, tensors))


def _tensor(tensor: Tensor) -> str:
    step = tensor.quantization
    return " ".join(
        [
            f"{tensor.name} {tensor.shape} {tensor.dtype}",
            *([f"({tensor.layout})"] if tensor.layout else []),
            *([tensor.meaning] if tensor.meaning else []),
            *([f"scale {step.scale:g} zero {step.zero_point}"] if step else []),
        ]
    )
