"""Parser of the output and of the result file of TensorFlow Lite's `benchmark_model`.

It is the tool for phones without Python. It reports a summary, not samples, so its measurements
have no confidence interval and cannot decide a budget.

Source: google-ai-edge/LiteRT, tflite/tools/benchmark, with proto/benchmark_result.proto of
tensorflow/tensorflow; and openxla/xla, xla/tsl/util/stats_calculator.h, which prints the summaries.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class BenchmarkModelSummary:
    """Latencies of a phase, in microseconds; older builds do not print those that may be None."""

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
        warm_up_count: inferences before the steady ones.
        peak_memory_mb: sampled periodically, in units of 2^20; None if it was not sampled.
        delegated: its messages about delegates.
    """

    init_us: float
    first_us: float
    warm_up_count: int
    steady: BenchmarkModelSummary
    peak_memory_mb: float | None
    delegated: tuple[str, ...] = ()

    @property
    def fell_back(self) -> str | None:
        """Its message that a requested delegate took no operators, or None."""
        return next((line for line in self.delegated if _NOT_DELEGATED.search(line)), None)


_NUMBER = r"[\d.]+(?:e[+-]?\d+)?"
_FIELD = re.compile(rf"(\w+)=({_NUMBER})")
_TIMINGS = re.compile(rf"Inference timings in us: Init: ({_NUMBER}), First inference: ({_NUMBER}),")
_PEAK = re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: ({_NUMBER})")
_DELEGATE = re.compile(r"delegate", re.IGNORECASE)
_NOT_DELEGATED = re.compile(r"will not be executed by the delegate|[Ff]ailed to apply \S+ delegate")


def parse_benchmark_model(text: str) -> Benchmark:
    """Parse the output of a run, stdout and stderr together.

    Raises:
        ValueError: the timings or the summaries of warm-up and steady runs are missing.
    """
    timings = _TIMINGS.search(text)
    lines = [line for line in text.splitlines() if re.search(r"(^|\s)count=\d+ ", line)]
    if timings is None or len(lines) != 2:
        last = " | ".join(line.strip() for line in text.splitlines()[-3:])
        raise ValueError(f"benchmark_model did not finish: {last or 'it printed nothing'}")
    peak = _PEAK.search(text)
    return Benchmark(
        init_us=float(timings[1]),
        first_us=float(timings[2]),
        warm_up_count=_summary(lines[0]).count,
        steady=_summary(lines[1]),
        peak_memory_mb=float(peak[1]) if peak else None,
        delegated=tuple(line.strip() for line in text.splitlines() if _DELEGATE.search(line)),
    )


def _summary(line: str) -> BenchmarkModelSummary:
    values = {name: float(text) for name, text in _FIELD.findall(line)}
    if "(all same)" in line:
        if not {"curr", "count"} <= values.keys():
            raise ValueError(f"benchmark_model printed no value: {line.strip()}")
        value = values["curr"]
        return BenchmarkModelSummary(
            int(values["count"]), value, value, value, value, 0.0, value, value, value
        )
    missing = [name for name in ("count", "min", "max", "avg", "std") if name not in values]
    if missing:
        raise ValueError(f"benchmark_model printed no {missing[0]}: {line.strip()}")
    return BenchmarkModelSummary(
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


# Field numbers of benchmark_result.proto; latencies are in ms.
_LATENCY = {
    1: "mean_us", 2: "min_us", 3: "max_us", 4: "std_us", 5: "median_us", 6: "p5_us", 7: "p95_us",
    8: "init_us", 9: "first_us",
}  # fmt: skip
_MEMORY, _PEAK_MB = 3, 3
_MISC, _RUNS, _WARM_UP_RUNS = 4, 2, 3


def parse_result_file(data: bytes) -> Benchmark:
    """Parse the file of `--result_file_path`, a BenchmarkResult of protocol buffers.

    Raises:
        ValueError: it is not a BenchmarkResult, or has no latency.
    """
    parts = dict(_fields(data))
    latency = {
        _LATENCY[number]: 1e3 * value
        for number, value in _fields(_message(parts, 2))
        if number in _LATENCY and isinstance(value, float)
    }
    misc = dict(_fields(_message(parts, _MISC)))
    peak = dict(_fields(_message(parts, _MEMORY))).get(_PEAK_MB)
    runs, warm_up = misc.get(_RUNS), misc.get(_WARM_UP_RUNS, 0)
    required = ("mean_us", "min_us", "max_us", "init_us", "first_us")
    missing = [name for name in required if name not in latency]
    if missing or not isinstance(runs, int) or not isinstance(warm_up, int):
        raise ValueError(f"the result file has no {missing[0] if missing else 'number of runs'}")
    return Benchmark(
        init_us=latency["init_us"],
        first_us=latency["first_us"],
        warm_up_count=warm_up,
        steady=BenchmarkModelSummary(
            count=runs,
            first_us=None,
            min_us=latency["min_us"],
            max_us=latency["max_us"],
            mean_us=latency["mean_us"],
            std_us=latency.get("std_us", 0.0),
            p5_us=latency.get("p5_us"),
            median_us=latency.get("median_us"),
            p95_us=latency.get("p95_us"),
        ),
        peak_memory_mb=peak if isinstance(peak, float) and peak > 0 else None,
    )


def _message(parts: dict[int, int | float | bytes], number: int) -> bytes:
    message = parts.get(number, b"")
    if not isinstance(message, bytes):
        raise ValueError(f"field {number} of the result file is not a message")
    return message


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """The fields of a message, each with its number.

    Source: protobuf.dev, "Encoding": varints, 4 and 8 bytes, and lengths before bytes.
    """
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise ValueError("the result file ends within a number")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        size = {1: 8, 2: None, 5: 4}.get(kind, -1)
        if size == -1:
            raise ValueError(f"the result file has a field of the unknown wire type {kind}")
        length = varint() if size is None else size
        piece, at = data[at : at + length], at + length
        if len(piece) < length:
            raise ValueError("the result file is truncated")
        if size is None:
            yield number, piece
        else:
            yield number, float(struct.unpack("<f" if size == 4 else "<d", piece)[0])
