"""Measurements as text: what `edgekd benchmark` prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekd.evidence.measurement import Measurement
from edgekd.evidence.outcome import Verdict


def measurement_lines(path: Path, found: Measurement, verdict: Verdict) -> Iterator[str]:
    """What an artifact takes, and what there is to know of the figures."""
    p50, p90 = found.percentile_ms(0.5), found.percentile_ms(0.9)
    p99 = found.to_json()["p99_ms"]
    yield (
        f"{path}: {verdict.outcome.value}  p50 {p50.value:.4f} ms  "
        f"p90 {p90.value:.4f} ms ({p90.low:.4f} to {p90.high:.4f})"
        + (f"  p99 {p99:.4f} ms" if p99 is not None else "")
    )
    phases = {
        "process start": found.start_ms,
        "import": found.import_ms,
        "load": found.init_ms,
        "first": found.first_ms,
    }
    told = [f"{name} {ms:.1f} ms" for name, ms in phases.items() if ms is not None]
    memory = f"{found.peak_memory_bytes:,} bytes" if found.peak_memory_bytes else "not told"
    yield f"  {'  '.join(told)}  peak memory {memory}"
    quick = "  QUICK: a first impression" if found.quick else ""
    yield (
        f"  {found.sample_count:,} samples in {found.process_count} process(es) after "
        f"{found.warm_up_count:,} of warm-up, {placed(found.device['runtime'])}{quick}"
    )
    if found.flags:
        late = found.percentile_ms(0.5, sustained=True), found.percentile_ms(0.9, sustained=True)
        yield f"  FLAGGED, and so never passed: {'; '.join(found.flags)}"
        yield f"  sustained, which is what is judged: p50 {late[0].value:.4f} ms  p90 " + (
            f"{late[1].value:.4f} ms"
        )
    yield from (f"  {note}" for note in found.notes)
    if verdict.detail:
        yield f"  {verdict.detail}"


def placed(facts: Any) -> str:
    """Who computed an artifact, by the runtime's facts, and how many operators each took."""
    name = f"by {facts['runtime']} {facts['version']}"
    if facts.get("delegate"):
        return f"{name}: {facts['delegate']} took {facts['delegated']} of {facts['operators']}"
    if facts.get("nodes"):
        return f"{name}: " + ", ".join(f"{n} in {kind}" for kind, n in facts["nodes"].items())
    if facts.get("providers"):
        return f"{name}: {', '.join(facts['providers'])}"
    return name


def comparison_lines(path: Path, found: Measurement) -> Iterator[str]:
    """How an artifact stands against the first of its runtime, which was timed beside it."""
    ratio = found.ratio
    if ratio is None:
        return
    words = {
        "faster": "faster",
        "slower": "slower",
        "none": "no difference is claimed",
    }
    shared = found.device.get("virtual") or any(note.startswith("noisy") for note in found.notes)
    least = "on this shared host none under 1 % is" if shared else "none under 1 % is"
    yield (
        f"{path} against {ratio.parent}: {ratio.value:.3f} times its p50 "
        f"({ratio.low:.3f} to {ratio.high:.3f}): {words[ratio.claim]}; {least}"
    )
