"""The output of trtexec, by version; recorded, as no Jetson was available."""

from __future__ import annotations

import pytest

from edgekd.devices.vendor_tools.trtexec import parse_trtexec, power_mw

# TensorRT 10: NVIDIA/TensorRT, samples/common/sampleReporting.cpp.
NEW = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b26] # trtexec --onnx=m.onnx
[08/12/2026-10:00:00] [I] TensorRT version: 10.3.0
[08/12/2026-10:00:10] [I] Engine built in 10.7204 sec.
[08/12/2026-10:00:10] [I] [TRT] Loaded engine size: 101 MiB
[08/12/2026-10:00:10] [I] Engine deserialized in 0.10331 sec.
[08/12/2026-10:00:10] [I] Starting inference
[08/12/2026-10:00:14] [I] === Performance summary ===
[08/12/2026-10:00:14] [I] Throughput: 32.7494 qps
[08/12/2026-10:00:14] [I] Latency: min = 30.7003 ms, max = 31.6415 ms, mean = 30.8066 ms, \
median = 30.7695 ms, percentile(90%) = 30.8008 ms, percentile(95%) = 31.1944 ms, \
percentile(99%) = 31.5444 ms
[08/12/2026-10:00:14] [I] GPU Compute Time: min = 30.1 ms, max = 31 ms, mean = 30.2 ms, \
median = 30.2 ms, percentile(90%) = 30.2 ms, percentile(95%) = 30.6 ms, percentile(99%) = 30.9 ms
[08/12/2026-10:00:14] [I] Total Host Walltime: 3.08403 s
[08/12/2026-10:00:14] [W] * GPU compute time is unstable, with coefficient of variance = 3.1%.
&&&& PASSED TensorRT.trtexec [TensorRT v100300] [b26] # trtexec --onnx=m.onnx
"""

# TensorRT 8.2, from JetPack 4.6: one percentile, and the end-to-end latency.
MIDDLE = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v8201] # trtexec --onnx=m.onnx
[01/12/2022-17:34:20] [I] TensorRT version: 8.2.1
[01/12/2022-17:34:24] [I] Engine built in 442.12 sec.
[01/12/2022-17:36:31] [I] === Performance summary ===
[01/12/2022-17:36:31] [I] Throughput: 11.0613 qps
[01/12/2022-17:36:31] [I] Latency: min = 89.312 ms, max = 91.492 ms, mean = 90.3 ms, \
median = 90.2 ms, percentile(99%) = 91.4 ms
[01/12/2022-17:36:31] [I] End-to-End Host Latency: min = 89.4 ms, max = 91.6 ms, mean = 90.4 ms, \
median = 90.3 ms, percentile(99%) = 91.5 ms
"""

# TensorRT 7, from JetPack 4.4: figures below their headings, percentile last.
OLD = """\
&&&& RUNNING TensorRT.trtexec # trtexec --onnx=m.onnx
[01/12/2021-17:36:31] [I] Host Latency
[01/12/2021-17:36:31] [I] min: 55.2 ms (end to end 55.21 ms)
[01/12/2021-17:36:31] [I] max: 55.9 ms (end to end 56 ms)
[01/12/2021-17:36:31] [I] mean: 55.3 ms (end to end 55.4 ms)
[01/12/2021-17:36:31] [I] median: 55.25 ms (end to end 55.3 ms)
[01/12/2021-17:36:31] [I] percentile: 55.8 ms at 99% (end to end 55.9 ms at 99%)
[01/12/2021-17:36:31] [I] throughput: 18.0755 qps
[01/12/2021-17:36:31] [I] walltime: 3.09807 s
[01/12/2021-17:36:31] [I] GPU Compute
[01/12/2021-17:36:31] [I] min: 55.1 ms
[01/12/2021-17:36:31] [I] mean: 55.2 ms
"""


def test_the_summary_of_version_10_is_parsed() -> None:
    summary = parse_trtexec(NEW)
    assert (summary.version, summary.throughput_qps) == ("10.3.0", 32.7494)
    assert (summary.build_s, summary.load_s) == (10.7204, 0.10331)
    assert summary.metrics["Latency"] == {
        "min": 30.7003, "max": 31.6415, "mean": 30.8066, "median": 30.7695,
        "p90": 30.8008, "p95": 31.1944, "p99": 31.5444,
    }  # fmt: skip
    assert summary.metrics["GPU Compute Time"]["median"] == 30.2
    assert summary.unstable is not None
    assert "variance = 3.1%" in summary.unstable


def test_the_summaries_of_older_versions_are_parsed() -> None:
    summary = parse_trtexec(MIDDLE)
    assert (summary.version, summary.throughput_qps, summary.load_s) == ("8.2.1", 11.0613, None)
    assert summary.metrics["Latency"]["p99"] == 91.4
    assert summary.metrics["End-to-End Host Latency"]["median"] == 90.3
    summary = parse_trtexec(OLD)
    assert (summary.version, summary.throughput_qps) == (None, 18.0755)
    assert summary.metrics["Latency"] == {
        "min": 55.2, "max": 55.9, "mean": 55.3, "median": 55.25, "p99": 55.8,
    }  # fmt: skip
    assert summary.metrics["GPU Compute Time"] == {"min": 55.1, "mean": 55.2}


@pytest.mark.parametrize(
    ("text", "version"),
    [("[TensorRT v8201]", "8.2.1"), ("[TensorRT v100300]", "10.3.0"), ("[TensorRT v101303]",
      "10.13.3"), ("[TensorRT v7103]", "7.1.3")],
)  # fmt: skip
def test_a_version_is_parsed_from_its_number(text: str, version: str) -> None:
    body = MIDDLE.replace("[TensorRT v8201]", text).replace("TensorRT version: 8.2.1", "")
    assert parse_trtexec(body).version == version


def test_a_failed_run_is_not_a_measurement() -> None:
    failed = "[I] Start parsing\n[E] Error[4]: unsupported op\n&&&& FAILED TensorRT.trtexec\n"
    with pytest.raises(ValueError, match="unsupported op"):
        parse_trtexec(failed)


def test_power_is_the_modules_input_or_the_sum_of_its_rails() -> None:
    orin = "CPU [1%@729] VDD_IN {}mW/4900mW VDD_CPU_GPU_CV 600mW/600mW VDD_SOC 1500mW/1500mW"
    assert power_mw([orin.format(4000), orin.format(6000)]) == (5000, "VDD_IN")
    agx = "CPU [1%@729] VDD_GPU_SOC 2000mW/2000mW VDD_CPU_CV 500mW/500mW"
    assert power_mw([agx]) == (2500, "VDD_CPU_CV + VDD_GPU_SOC")
    nano = "CPU [1%@102] POM_5V_IN 2100/2100 POM_5V_GPU 0/0 POM_5V_CPU 300/300"
    assert power_mw([nano]) == (2100, "POM_5V_IN")
    assert power_mw(["RAM 1/2MB (lfb 1x1MB)"]) is None
