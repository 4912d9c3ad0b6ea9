"""What benchmark_model prints becomes values; what it did not finish is no measurement."""

from __future__ import annotations

import pytest

from edgekd.devices.benchmark_model import Summary, parse_benchmark_model

# facts/devices.md, section 5, "Field names for parsers": the lines; the figures are made up.
TOLD = """\
INFO: STARTING!
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
Initialized session in 12.5ms.
count=5 first=900 curr=410 min=400 max=900 avg=510.5 std=190 p5=400 median=412 p95=900
count=50 first=405 curr=401 min=399 max=450 avg=404.25 std=7.5 p5=400 median=403 p95=420
Inference timings in us: Init: 12500, First inference: 900, Warmup (avg): 510.5, Inference (avg): 404.25
Memory footprint delta from the start of the tool (MB): init=3.5 overall=8.25
Overall peak memory footprint (MB) via periodic monitoring: 9.75
"""  # noqa: E501


def test_all_that_it_tells_is_read() -> None:
    found = parse_benchmark_model(TOLD)
    assert (found.init_us, found.first_us, found.peak_memory_mb) == (12500, 900, 9.75)
    assert found.warm_up.count == 5
    assert found.steady == Summary(50, 405, 399, 450, 404.25, 7.5, 400, 403, 420)
    assert found.delegated == ("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",)


def test_older_builds_stop_at_the_standard_deviation() -> None:
    lines = [line.partition(" p5=")[0] for line in TOLD.splitlines()]
    found = parse_benchmark_model("\n".join(lines[:-1]))
    assert found.steady == Summary(50, 405, 399, 450, 404.25, 7.5)
    assert found.peak_memory_mb is None


def test_runs_that_all_took_the_same_are_told_in_short() -> None:
    text = TOLD.replace(TOLD.splitlines()[4], "count=50 curr=401 (all same)")
    found = parse_benchmark_model(text).steady
    assert found == Summary(50, 401, 401, 401, 401, 0, 401, 401, 401)


@pytest.mark.parametrize("text", ["", "ERROR: Failed to load model", TOLD.partition("count=50")[0]])
def test_a_run_that_broke_off_is_no_measurement(text: str) -> None:
    with pytest.raises(ValueError, match="did not finish"):
        parse_benchmark_model(text)
