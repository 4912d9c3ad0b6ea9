"""Measurements as text, for `edgekd benchmark`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekd.evidence.measurement import Measurement
from edgekd.evidence.outcome import Verdict


def measurement_lines(path: Path, measured: Measurement, verdict: Verdict) -> Iterator[str]:
    """The latency and memory of an artifact, and how they were measured."""
    p50, p90 = measured.percentile_ms(0.5), measured.percentile_ms(0.9)
    p99 = measured.to_json()["p99_ms"]
    yield (
        f"{path}: {verdict.outcome.value}  p50 {p50.value:.4f} ms  "
        f"p90 {p90.value:.4f} ms ({p90.low:.4f} to {p90.high:.4f})"
        + (f"  p99 {p99:.4f} ms" if p99 is not None else "")
    )
    phases = {
        "process start": measured.start_ms,
        "import": measured.import_ms,
        "load": measured.init_ms,
        "first": measured.first_ms,
    }
    times = [f"{name} {ms:.1f} ms" for name, ms in phases.items() if ms is not None]
    memory = f"{measured.peak_memory_bytes:,} bytes" if measured.peak_memory_bytes else "unknown"
    yield f"  {'  '.join(times)}  peak memory {memory}"
    quick = "  QUICK: a first impression" if measured.quick else ""
    yield (
        f"  {measured.sample_count:,} samples in {measured.process_count} process(es) after "
        f"{measured.warm_up_count:,} warm-up runs, "
        f"{executed_by(measured.device['runtime'])}{quick}"
    )
    if measured.flags:
        late = (
            measured.percentile_ms(0.5, sustained=True),
            measured.percentile_ms(0.9, sustained=True),
        )
        yield f"  FLAGGED, so it cannot pass: {'; '.join(measured.flags)}"
        yield f"  sustained latency, which is judged: p50 {late[0].value:.4f} ms  p90 " + (
            f"{late[1].value:.4f} ms"
        )
    yield from (f"  {note}" for note in measured.notes)
    if verdict.detail:
        yield f"  {verdict.detail}"


def executed_by(facts: Any) -> str:
    """The runtime that executed an artifact, and how many operators each delegate took."""
    name = f"by {facts['runtime']} {facts['version']}"
    if facts.get("delegate"):
        return f"{name}: {facts['delegate']} took {facts['delegated']} of {facts['operators']}"
    if facts.get("nodes"):
        return f"{name}: " + ", ".join(f"{n} in {kind}" for kind, n in facts["nodes"].items())
    if facts.get("providers"):
        return f"{name}: {', '.join(facts['providers'])}"
    return name


def comparison_lines(path: Path, measured: Measurement) -> Iterator[str]:
    """The latency ratio of an artifact and the first one of its runtime, measured interleaved."""
    ratio = measured.ratio
    if ratio is None:
        return
    claims = {
        "faster": "faster",
        "slower": "slower",
        "none": "no difference is claimed",
    }
    noisy = any(note.startswith("noisy") for note in measured.notes)
    shared = " on this shared host" if measured.device.get("virtual") or noisy else ""
    yield (
        f"{path} against {ratio.parent}: {ratio.value:.3f} times its p50 "
        f"({ratio.low:.3f} to {ratio.high:.3f}): {claims[ratio.claim]}; differences under 1 % "
        f"are never claimed{shared}"
    )
