"""The output of benchmark_model becomes values; an interrupted run is not a measurement."""

from __future__ import annotations

import struct

import pytest

from edgekd.devices.vendor_tools.benchmark_model import (
    BenchmarkModelSummary,
    parse_benchmark_model,
    parse_result_file,
)

# Real lines with invented figures.
OUTPUT = """\
INFO: STARTING!
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
Initialized session in 12.5ms.
count=5 first=900 curr=410 min=400 max=900 avg=510.5 std=190 p5=400 median=412 p95=900
count=50 first=405 curr=401 min=399 max=450 avg=404.25 std=7.5 p5=400 median=403 p95=420
Inference timings in us: Init: 12500, First inference: 900, Warmup (avg): 510.5, Inference (avg): 404.25
Memory footprint delta from the start of the tool (MB): init=3.5 overall=8.25
Overall peak memory footprint (MB) via periodic monitoring: 9.75
"""  # noqa: E501


def test_the_whole_output_is_parsed() -> None:
    run = parse_benchmark_model(OUTPUT)
    assert (run.init_us, run.first_us, run.peak_memory_mb) == (12500, 900, 9.75)
    assert run.warm_up_count == 5
    assert run.steady == BenchmarkModelSummary(50, 405, 399, 450, 404.25, 7.5, 400, 403, 420)
    assert run.delegated == ("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",)


def test_older_builds_stop_at_the_standard_deviation() -> None:
    lines = [line.partition(" p5=")[0] for line in OUTPUT.splitlines()]
    run = parse_benchmark_model("\n".join(lines[:-1]))
    assert run.steady == BenchmarkModelSummary(50, 405, 399, 450, 404.25, 7.5)
    assert run.peak_memory_mb is None


def test_the_short_summary_of_equal_latencies_is_parsed() -> None:
    text = OUTPUT.replace(OUTPUT.splitlines()[4], "count=50 curr=401 (all same)")
    run = parse_benchmark_model(text).steady
    assert run == BenchmarkModelSummary(50, 401, 401, 401, 401, 0, 401, 401, 401)


@pytest.mark.parametrize(
    "text", ["", "ERROR: Failed to load model", OUTPUT.partition("count=50")[0]]
)
def test_an_interrupted_run_is_not_a_measurement(text: str) -> None:
    with pytest.raises(ValueError, match="did not finish"):
        parse_benchmark_model(text)


def encoded(number: int, value: int | float | bytes) -> bytes:
    """A field in the encoding of protobuf.dev, "Encoding"; numbers are small here."""
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    if isinstance(value, int):
        rest = bytes([value]) if value < 128 else bytes([value & 127 | 128, value >> 7])
        return bytes([number << 3]) + rest
    return bytes([number << 3 | 2, len(value)]) + value


def result_file() -> bytes:
    """The run of `OUTPUT` by the field numbers of benchmark_result.proto."""
    times = [0.40425, 0.399, 0.45, 0.0075, 0.403, 0.4, 0.42, 12.5, 0.9, 0.5105]
    latency = b"".join(encoded(number, time) for number, time in enumerate(times, 1))
    memory = encoded(1, 3584) + encoded(2, 8448) + encoded(3, 9.75)
    misc = encoded(1, 0.5) + encoded(2, 150) + encoded(3, 5) + encoded(4, 1000.0)
    return encoded(1, b"it") + encoded(2, latency) + encoded(3, memory) + encoded(4, misc)


def test_the_result_file_is_parsed() -> None:
    run = parse_result_file(result_file())
    assert (run.warm_up_count, run.peak_memory_mb, run.steady.count) == (5, 9.75, 150)
    assert run.init_us == pytest.approx(12500)
    assert run.first_us == pytest.approx(900)
    steady = run.steady
    summary = (steady.min_us, steady.max_us, steady.mean_us, steady.std_us, steady.p5_us,
            steady.median_us, steady.p95_us)  # fmt: skip
    assert summary == pytest.approx((399, 450, 404.25, 7.5, 400, 403, 420))


@pytest.mark.parametrize("size", [0, 1, 10, 60, len(result_file()) - 1])
def test_a_truncated_result_file_is_not_a_measurement(size: int) -> None:
    with pytest.raises(ValueError, match="the result file"):
        parse_result_file(result_file()[:size])


def test_a_delegate_without_operators_is_a_fallback() -> None:
    line = "Though GPU delegate is explicitly applied, the model graph will not be executed by the"
    run = parse_benchmark_model(OUTPUT + f"INFO: {line} delegate.\n")
    assert run.fell_back is not None
    assert "Though GPU delegate" in run.fell_back
    assert parse_benchmark_model(OUTPUT).fell_back is None
