"""What TensorFlow Lite's `benchmark_model` prints, as values: text in, nothing else.

It is the tool for phones without Python. It tells no single sample, only their summary, so what it
measures has no confidence interval and decides no budget.

Source: google-ai-edge/LiteRT, tflite/tools/benchmark, and openxla/xla,
xla/tsl/util/stats_calculator.h, which prints the summaries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Runs of one kind, in microseconds; None is what an older build does not print."""

    count: int
    first_us: float | None
    min_us: float
    max_us: float
    mean_us: float
    std_us: float
    p5_us: float | None = None
    median_us: float | None = None
    p95_us: float | None = None


@dataclass(frozen=True)
class Benchmark:
    """A run of `benchmark_model`.

    Attributes:
        init_us: loading the model; first_us: the first inference.
        peak_memory_mb: by its periodic look; None where it did not look.
        delegated: what it says of delegates, word for word: whether one was applied is there.
    """

    init_us: float
    first_us: float
    warm_up: Summary
    steady: Summary
    peak_memory_mb: float | None
    delegated: tuple[str, ...]


_NUMBER = r"[\d.]+(?:e[+-]?\d+)?"
_FIELD = re.compile(rf"(\w+)=({_NUMBER})")
_TIMINGS = re.compile(rf"Inference timings in us: Init: ({_NUMBER}), First inference: ({_NUMBER}),")
_PEAK = re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: ({_NUMBER})")
_DELEGATE = re.compile(r"delegate", re.IGNORECASE)


def parse_benchmark_model(text: str) -> Benchmark:
    """The run whose output, stdout and stderr together, is `text`.

    Raises:
        ValueError: it does not hold the timings and the summaries of warm-up and steady runs.
    """
    timings = _TIMINGS.search(text)
    lines = [line for line in text.splitlines() if re.search(r"(^|\s)count=\d+ ", line)]
    if timings is None or len(lines) != 2:
        last = " | ".join(line.strip() for line in text.splitlines()[-3:])
        raise ValueError(f"benchmark_model did not finish: {last or 'it said nothing'}")
    peak = _PEAK.search(text)
    return Benchmark(
        init_us=float(timings[1]),
        first_us=float(timings[2]),
        warm_up=_summary(lines[0]),
        steady=_summary(lines[1]),
        peak_memory_mb=float(peak[1]) if peak else None,
        delegated=tuple(line.strip() for line in text.splitlines() if _DELEGATE.search(line)),
    )


def _summary(line: str) -> Summary:
    values = {name: float(text) for name, text in _FIELD.findall(line)}
    if "(all same)" in line:
        value = values["curr"]
        return Summary(int(values["count"]), value, value, value, value, 0.0, value, value, value)
    missing = [name for name in ("min", "max", "avg", "std") if name not in values]
    if missing:
        raise ValueError(f"benchmark_model tells no {missing[0]}: {line.strip()}")
    return Summary(
        count=int(values["count"]),
        first_us=values.get("first"),
        min_us=values["min"],
        max_us=values["max"],
        mean_us=values["avg"],
        std_us=values["std"],
        p5_us=values.get("p5"),
        median_us=values.get("median"),
        p95_us=values.get("p95"),
    )
