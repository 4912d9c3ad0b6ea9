"""The head of a report: what ships for each target, the networks, and what each step paid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from edgekd.report.html import table
from edgekd.report.told import Told, budget_of, figure_of, name_of, ships, shown, targets_of


def verdicts(run: Told) -> Iterator[str]:
    """A card a target: what ships, with its figures and its budget."""
    metric = str(run.result["metric"])
    yield '<h2>Verdict by target</h2><div class="cards">'
    for target in targets_of(run):
        rows = [row for row in run.result["rows"] if row["target"] == target]
        best = next((row for row in rows if ships(run, row)), None)
        choice = run.result["chosen"].get(target, {})
        yield f'<div class="card{"" if best else " no"}"><b>{escape(target)}</b><br>'
        if best:
            bits = [f"ships {name_of(best)}"]
            bits += [f"{metric} {shown(figure_of(best, 'agreement', 'metric'), '.4f')}"]
            bits += [f"{shown(figure_of(best, 'artifact', 'size_bytes'), ',.0f')} bytes"]
            p90 = figure_of(best, "measurement", "p90_ms")
            bits += [f"p90 {p90:.3f} ms"] if p90 is not None else ["not timed"]
            count = best.get("instructions")
            bits += [f"{count:,} instructions"] if count else []
            yield escape("; ".join(bits)) + f"<br><small>evidence: {escape(str(best['evidence']))}"
            yield "</small>"
        else:
            yield "ships nothing"
        limits = ", ".join(f"{k} {v:,}" for k, v in budget_of(run, target).items()) or "none"
        yield f"<p><small>budget: {escape(limits)}</small></p>"
        yield f"<p><small>{escape(str(choice.get('why', '')))}</small></p></div>"
    yield "</div>"


def networks(run: Told) -> Iterator[str]:
    """Teacher against student: metric, parameters, multiply-accumulates."""
    teacher, metric = run.result["teacher"], str(run.result["metric"])
    found = [
        (role, run.result[key])
        for role, key in (("teacher", "teacher"), ("unpruned", "unpruned"), ("student", "student"))
        if run.result.get(key)
    ]
    rows = []
    for role, score in found:
        cells = [role, f"{score['metric']:.4f}"]
        for key in ("parameters", "macs"):
            value, whole = score[key], teacher[key] if teacher else None
            ours = role != "teacher" and value and whole
            share = f" ({value / whole:.3f} of the teacher's)" if ours else ""
            cells.append(f"{value:,}{share}" if value is not None else "a file: not known")
        rows.append(cells)
    yield "<h2>Teacher and student</h2>"
    yield table(["network", metric, "parameters", "multiply-accumulates"], rows, " nnn")


def steps(run: Told) -> Iterator[str]:
    """What each stage took, and what it paid."""
    took = run.result.get("seconds", {})
    rows = [
        [stage, _paid(run, stage), _time(run, stage, seconds)] for stage, seconds in took.items()
    ]
    if rows:
        yield "<h2>What each step cost and gained</h2>"
        yield table(["step", "what it came to", "time"], rows, " wn")


def _time(run: Told, stage: str, seconds: float) -> str:
    """How long a stage took in this run; what it looked up took an earlier one longer."""
    used = sum(name.partition("/")[0] == stage for name in run.result["reused"])
    return f"{seconds:.1f} s" + (f", {used} used again" if used else "")


def _paid(run: Told, stage: str) -> str:
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


def _shipped(run: Told, target: str) -> str:
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
