"""The head of a report: what ships per target, the networks, and the effect of each stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from edgekd.report.html import table
from edgekd.report.run_data import RunData, budget_of, figure_of, name_of, ships, shown, targets_of

BUDGETS = {
    "size_bytes": ("artifact", "size_bytes", "{:,.0f} bytes"),
    "latency_p50_ms": ("measurement", "p50_ms", "p50 {:.3g} ms"),
    "latency_p90_ms": ("measurement", "p90_ms", "p90 {:.3g} ms"),
    "latency_p99_ms": ("measurement", "p99_ms", "p99 {:.3g} ms"),
    "peak_memory_bytes": ("measurement", "peak_memory_bytes", "peak memory {:,.0f} bytes"),
}
"""By key of a budget, the place of its figure in a row, and its format."""

ALWAYS = ("size_bytes", "latency_p90_ms")
"""The figures that are shown even without a budget."""


def verdicts(run: RunData) -> Iterator[str]:
    """One card per target: what ships, and its figures beside the budget and the teacher."""
    yield '<h2>Verdict by target</h2><div class="cards">'
    optional = [entry["name"] for entry in run.recipe["targets"] if not entry.get("required", True)]
    for target in targets_of(run):
        rows = [row for row in run.result["rows"] if row["target"] == target]
        best = next((row for row in rows if ships(run, row)), None)
        choice = run.result["chosen"].get(target, {})
        note = ", not required" if target in [Path(name).stem for name in optional] else ""
        yield f'<section class="card{"" if best else " no"}"><h3>{escape(target)}</h3>'
        end = f"\u2713 ships {name_of(best)}" if best else "\u2717 ships nothing"
        yield f'<p><span class="end">{escape(end)}</span>{note}</p>'
        if best:
            yield f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in _figures(run, best))}</ul>"
        else:
            limits = ", ".join(f"{k} {v:,}" for k, v in budget_of(run, target).items()) or "none"
            yield f"<p><small>budget: {escape(limits)}</small></p>"
        yield f"<p><small>{escape(str(choice.get('why', '')))}</small></p></section>"
    yield "</div>"


def _figures(run: RunData, best: Mapping[str, Any]) -> Iterator[str]:
    """The figures of the candidate that ships, each with what it is compared with."""
    metric, teacher = str(run.result["metric"]), run.result["teacher"]
    value = figure_of(best, "agreement", "metric")
    if value is not None:
        lead = value - teacher["metric"] if teacher else 0.0
        gap = f", {abs(lead):.4f} {'over' if lead > 0 else 'under'} the teacher" if lead else ""
        yield f"{metric} {value:.4f}{gap}"
    budget = budget_of(run, best["target"])
    for key, (part, field, form) in BUDGETS.items():
        value = figure_of(best, part, field)
        if value is None or (key not in ALWAYS and key not in budget):
            continue
        limit = f", budget {budget[key]:,}" if key in budget else ""
        share = ""
        if key == "size_bytes" and teacher and teacher["parameters"]:
            ratio = value / (FLOAT_BYTES * teacher["parameters"])
            share = f", {ratio:.3f} of the teacher's float32 weights"
        flags = ("doubts", "notes") if part == "measurement" else ()
        remarks = "".join(f"; {text}" for flag in flags for text in best[part].get(flag, ()))
        yield f"{form.format(value)}{limit}{share}{remarks}"
    if figure_of(best, "measurement", "p90_ms") is None:
        yield "latency not measured"
    if best.get("instructions"):
        yield f"{best['instructions']:,} instructions"
    yield f"evidence: {best['evidence']}"


FLOAT_BYTES = 4
"""Bytes of a float32 weight, by which the teacher is counted: it has no file."""


def networks(run: RunData) -> Iterator[str]:
    """The figures of teacher and student, and the ratio of the student's to the teacher's."""
    roles = [role for role in ("teacher", "unpruned", "student") if run.result.get(role)]
    scores = [run.result[role] for role in roles]
    agreed = f"{run.result.get('agreed', 'same class')} as the teacher"
    lines = [
        (str(run.result["metric"]), [score["metric"] for score in scores], ".4f"),
        ("parameters", [score["parameters"] for score in scores], ",.0f"),
        (
            "weights in float32, bytes",
            [FLOAT_BYTES * (score["parameters"] or 0) or None for score in scores],
            ",.0f",
        ),
        ("multiply-accumulates", [score["macs"] for score in scores], ",.0f"),
        ("PyTorch latency, ms", [score.get("eager_ms") for score in scores], ".4g"),
        (agreed, [score.get("teacher_agreement") for score in scores], ".4f"),
    ]
    rows = []
    for name, values, form in lines:
        if not any(value is not None for value in values):
            continue
        known = roles[0] == "teacher" and values[0] and values[-1] is not None and len(roles) > 1
        ratio = f"{values[-1] / values[0]:.3f}" if known else ""
        rows.append([name, *(shown(value, form) for value in values), ratio])
    yield "<h2>Teacher and student</h2>"
    yield table(["", *roles, "ratio"], rows, " nnnn")
    if any(score.get("eager_ms") for score in scores):
        yield "<p><small>PyTorch latency: the median of alternating calls in eager mode, on one "
        yield "thread of the machine of the run. It is not a latency on a target.</small></p>"


NOTHING_S = 0.05
"""A stage without an effect that took no longer is not shown."""


def steps(run: RunData) -> Iterator[str]:
    """The time and the effect of each stage."""
    took = run.result.get("seconds", {})
    rows = [
        [stage, effect, _time(run, stage, seconds)]
        for stage, seconds in took.items()
        if (effect := _effect(run, stage)) or seconds > NOTHING_S
    ]
    if rows:
        yield "<h2>Stages</h2>"
        yield table(["stage", "effect", "time"], rows, " wn", stacked=True)


def _time(run: RunData, stage: str, seconds: float) -> str:
    """The time of a stage in this run, and how many results it reused."""
    reused = sum(name.partition("/")[0] == stage for name in run.result["reused"])
    return f"{seconds:.1f} s" + (f", {reused} reused" if reused else "")


def _effect(run: RunData, stage: str) -> str:
    """What a stage changed: metric, size, latency."""
    result, metric = run.result, str(run.result["metric"])
    teacher, student, unpruned = (result.get(key) for key in ("teacher", "student", "unpruned"))
    distilled = unpruned or student
    if stage == "train" and teacher:
        return f"teacher: {metric} {teacher['metric']:.4f}"
    if stage == "distill" and distilled:
        return f"{_gap(distilled, teacher, metric, 'teacher')}{_shares(distilled, teacher)}"
    if stage == "prune" and unpruned and student:
        gap = _gap(student, unpruned, metric, "unpruned student")
        return f"{gap}{_shares(student, unpruned)}"
    if stage == "choose":
        return "; ".join(_shipped(run, target) for target in targets_of(run))
    rows = result["rows"]
    if stage == "quantize":
        count = sum(bool(row["method"]) for row in rows)
        return f"{count} quantized candidates" if count else ""
    if stage == "export":
        count = sum(row["artifact"] is not None for row in rows)
        return f"{count} files for {len(rows)} candidates"
    if stage == "verify":
        outcomes = [row["agreement"]["outcome"] for row in rows if row.get("agreement")]
        return f"{outcomes.count('passed')} of {len(outcomes)} agree with their network"
    if stage == "bundle":
        return ", ".join(result.get("bundles", {}))
    if stage == "benchmark":
        ends = [str(row["outcome"]) for row in rows]
        return ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))
    return ""


def _gap(ours: Mapping[str, Any], theirs: Mapping[str, Any] | None, metric: str, whose: str) -> str:
    if not theirs:
        return f"{metric} {ours['metric']:.4f}"
    difference = ours["metric"] - theirs["metric"]
    return f"{metric} {ours['metric']:.4f}, {difference:+.4f} against the {whose}"


def _shares(ours: Mapping[str, Any], theirs: Mapping[str, Any] | None) -> str:
    """The ratios of parameters and multiply-accumulates."""
    text = ""
    for key, name in (("parameters", "parameters"), ("macs", "multiply-accumulates")):
        if theirs and ours[key] and theirs[key]:
            text += f", {ours[key] / theirs[key]:.3f} of its {name}"
    return text


def _shipped(run: RunData, target: str) -> str:
    """What ships for a target, against its float32 candidate."""
    rows = [row for row in run.result["rows"] if row["target"] == target]
    best = next((row for row in rows if ships(run, row)), None)
    plain = next((row for row in rows if name_of(row) == "fp32"), None)
    if best is None:
        return f"{target}: nothing"
    if plain is None or plain is best:
        return f"{target}: {name_of(best)}"
    text = f"{target}: {name_of(best)}"
    ours, theirs = (figure_of(row, "agreement", "metric") for row in (best, plain))
    if ours is not None and theirs is not None:
        text += f", {run.result['metric']} {ours - theirs:+.4f}"
    size, whole = (figure_of(row, "artifact", "size_bytes") for row in (best, plain))
    if size and whole:
        text += f", {size / whole:.2f} of the bytes"
    ratio = best["measurement"]["ratio"] if best.get("measurement") else None
    return text + (f", {ratio['value']:.2f} of the latency of {ratio['parent']}" if ratio else "")
