"""The head of a report: what ships for each target, the networks, and what each step paid."""

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
"""Of each budget, where the row has its figure, and how that is written."""

ALWAYS = ("size_bytes", "latency_p90_ms")
"""What is told also where no budget limits it."""


def verdicts(run: RunData) -> Iterator[str]:
    """A card a target: what ships, with its figures beside the budget and the teacher."""
    yield '<h2>Verdict by target</h2><div class="cards">'
    optional = [entry["name"] for entry in run.recipe["targets"] if not entry.get("required", True)]
    for target in targets_of(run):
        rows = [row for row in run.result["rows"] if row["target"] == target]
        best = next((row for row in rows if ships(run, row)), None)
        choice = run.result["chosen"].get(target, {})
        free = ", not required" if target in [Path(name).stem for name in optional] else ""
        yield f'<section class="card{"" if best else " no"}"><h3>{escape(target)}</h3>'
        end = f"\u2713 ships {name_of(best)}" if best else "\u2717 ships nothing"
        yield f'<p><span class="end">{escape(end)}</span>{free}</p>'
        if best:
            yield f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in _bits(run, best))}</ul>"
        else:
            limits = ", ".join(f"{k} {v:,}" for k, v in budget_of(run, target).items()) or "none"
            yield f"<p><small>budget: {escape(limits)}</small></p>"
        yield f"<p><small>{escape(str(choice.get('why', '')))}</small></p></section>"
    yield "</div>"


def _bits(run: RunData, best: Mapping[str, Any]) -> Iterator[str]:
    """The figures of what ships, each with what it is to be held against."""
    metric, teacher = str(run.result["metric"]), run.result["teacher"]
    value = figure_of(best, "agreement", "metric")
    if value is not None:
        lead = value - teacher["metric"] if teacher else 0.0
        gap = f", {abs(lead):.4f} {'over' if lead > 0 else 'under'} the teacher" if lead else ""
        yield f"{metric} {value:.4f}{gap}"
    budget = budget_of(run, best["target"])
    for key, (part, field, form) in BUDGETS.items():
        found = figure_of(best, part, field)
        if found is None or (key not in ALWAYS and key not in budget):
            continue
        limit = f", budget {budget[key]:,}" if key in budget else ""
        share = ""
        if key == "size_bytes" and teacher and teacher["parameters"]:
            whole = found / (FLOAT_BYTES * teacher["parameters"])
            share = f", {whole:.3f} of the teacher's float32 weights"
        flags = ("doubts", "notes") if part == "measurement" else ()
        told = "".join(f"; {each}" for flag in flags for each in best[part].get(flag, ()))
        yield f"{form.format(found)}{limit}{share}{told}"
    if figure_of(best, "measurement", "p90_ms") is None:
        yield "not timed"
    if best.get("instructions"):
        yield f"{best['instructions']:,} instructions"
    yield f"evidence: {best['evidence']}"


FLOAT_BYTES = 4
"""Of a weight in float32, as which a teacher's are counted: it is no file of its own."""


def networks(run: RunData) -> Iterator[str]:
    """Teacher against student: each figure, and the student's as a ratio to the teacher's."""
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
        ("ms a call in PyTorch, here", [score.get("eager_ms") for score in scores], ".4g"),
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
        yield "<p><small>In PyTorch: the median of alternating calls on one thread of this "
        yield "machine, before any converter. It is no device's latency; those are below.</small>"
        yield "</p>"


NOTHING_S = 0.05
"""A step that took no longer and came to nothing had nothing to do."""


def steps(run: RunData) -> Iterator[str]:
    """What each stage took, and what it paid."""
    took = run.result.get("seconds", {})
    rows = [
        [stage, told, _time(run, stage, seconds)]
        for stage, seconds in took.items()
        if (told := _paid(run, stage)) or seconds > NOTHING_S
    ]
    if rows:
        yield "<h2>What each step cost and gained</h2>"
        yield table(["step", "what it came to", "time"], rows, " wn", stacked=True)


def _time(run: RunData, stage: str, seconds: float) -> str:
    """How long a stage took in this run; what it looked up took an earlier one longer."""
    used = sum(name.partition("/")[0] == stage for name in run.result["reused"])
    return f"{seconds:.1f} s" + (f", {used} used again" if used else "")


def _paid(run: RunData, stage: str) -> str:
    """What a stage changed of accuracy, size and time."""
    result, metric = run.result, str(run.result["metric"])
    teacher, student, unpruned = (result.get(key) for key in ("teacher", "student", "unpruned"))
    taught = unpruned or student
    if stage == "train" and teacher:
        return f"the teacher: {metric} {teacher['metric']:.4f}"
    if stage == "distill" and taught:
        return f"{_gap(taught, teacher, metric, 'teacher')}{_shares(taught, teacher)}"
    if stage == "prune" and unpruned and student:
        told = _gap(student, unpruned, metric, "unpruned student")
        return f"{told}{_shares(student, unpruned)}"
    if stage == "choose":
        return "; ".join(_shipped(run, target) for target in targets_of(run))
    rows = result["rows"]
    if stage == "quantize":
        ways = sum(bool(row["method"]) for row in rows)
        return f"{ways} ways to quantize" if ways else ""
    if stage == "export":
        made = sum(row["artifact"] is not None for row in rows)
        return f"{made} files of {len(rows)} candidates"
    if stage == "verify":
        found = [row["agreement"]["outcome"] for row in rows if row.get("agreement")]
        return f"{found.count('passed')} of {len(found)} agree with their network"
    if stage == "bundle":
        return ", ".join(result.get("bundles", {}))
    if stage == "benchmark":
        ends = [str(row["outcome"]) for row in rows]
        return ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))
    return ""


def _gap(ours: Mapping[str, Any], theirs: Mapping[str, Any] | None, metric: str, whose: str) -> str:
    if not theirs:
        return f"{metric} {ours['metric']:.4f}"
    return f"{metric} {ours['metric']:.4f}, {ours['metric'] - theirs['metric']:+.4f} of the {whose}"


def _shares(ours: Mapping[str, Any], theirs: Mapping[str, Any] | None) -> str:
    """Of the other's parameters and multiply-accumulates."""
    told = ""
    for key, name in (("parameters", "parameters"), ("macs", "multiply-accumulates")):
        if theirs and ours[key] and theirs[key]:
            told += f", {ours[key] / theirs[key]:.3f} of its {name}"
    return told


def _shipped(run: RunData, target: str) -> str:
    """What of a target ships, against its float32 candidate."""
    rows = [row for row in run.result["rows"] if row["target"] == target]
    best = next((row for row in rows if ships(run, row)), None)
    plain = next((row for row in rows if name_of(row) == "fp32"), None)
    if best is None:
        return f"{target}: nothing"
    if plain is None or plain is best:
        return f"{target}: {name_of(best)}"
    told = f"{target}: {name_of(best)}"
    for part, key, name in (("agreement", "metric", run.result["metric"]),):
        ours, theirs = figure_of(best, part, key), figure_of(plain, part, key)
        if ours is not None and theirs is not None:
            told += f", {name} {ours - theirs:+.4f}"
    size, whole = (figure_of(row, "artifact", "size_bytes") for row in (best, plain))
    if size and whole:
        told += f", {size / whole:.2f} of the bytes"
    ratio = best["measurement"]["ratio"] if best.get("measurement") else None
    return told + (f", {ratio['value']:.2f} of the time of {ratio['parent']}" if ratio else "")
