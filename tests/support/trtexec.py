"""A trtexec for tests: it takes the words that NVIDIA's takes, prints what that prints and exports
what that exports; ONNX Runtime on the CPU computes in place of TensorRT.

    python trtexec.py --onnx=FILE --loadInputs=x:FILE --exportTimes=FILE ...

Source of the form: NVIDIA/TensorRT, samples/common/sampleReporting.cpp, version 10.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime


def log(line: str) -> None:
    print(f"[11/26/2026-06:00:00] [I] {line}", flush=True)


def main(words: list[str]) -> int:
    options = dict(word.lstrip("-").partition("=")[::2] for word in words)
    print("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b26] #", *words, flush=True)
    log("TensorRT version: 10.3.0")
    model = Path(options.get("onnx") or options["loadEngine"])
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  What it says is of no interest.
        print(f"[11/26/2026-06:00:00] [E] Failed to parse onnx file: {str(error)[:80]}")
        print("&&&& FAILED TensorRT.trtexec [TensorRT v100300] [b26]")
        return 1
    if "saveEngine" in options:
        Path(options["saveEngine"]).write_bytes(model.read_bytes())
    log("Engine built in 1.5 sec.")
    log("Engine deserialized in 0.025 sec.")
    files = dict(pair.split(":") for pair in options["loadInputs"].split(","))
    feed = {}
    for entry in session.get_inputs():
        value = np.fromfile(files[entry.name], dtype=np.float32)
        feed[entry.name] = value.reshape([size if isinstance(size, int) else -1
                                          for size in entry.shape])  # fmt: skip
    log("Starting inference")
    begin, trace = time.perf_counter(), []
    warm, least = float(options["warmUp"]), int(options["iterations"])
    while True:
        start = (time.perf_counter() - begin) * 1e3
        found = session.run(None, feed)
        took = (time.perf_counter() - begin) * 1e3 - start
        trace.append({"startComputeMs": start, "computeMs": took, "h2dMs": 0.01, "d2hMs": 0.01,
                      "latencyMs": took + 0.02})  # fmt: skip
        steady = [each for each in trace if each["startComputeMs"] >= warm]
        enough = len(steady) >= least and start >= warm + 1e3 * float(options["duration"])
        if enough or start > 20_000:
            break
        if len(trace) % 50 == 0:
            time.sleep(0.02)
    log("=== Trace details ===")
    times = sorted(each["latencyMs"] for each in steady)
    wall_s = (trace[-1]["startComputeMs"] - warm) / 1e3 or 1e-3
    log("=== Performance summary ===")
    log(f"Throughput: {len(steady) / wall_s:g} qps")
    middle = times[len(times) // 2]
    log(
        f"Latency: min = {times[0]:g} ms, max = {times[-1]:g} ms, mean = {np.mean(times):g} ms, "
        f"median = {middle:g} ms, percentile(90%) = {times[-1]:g} ms, "
        f"percentile(95%) = {times[-1]:g} ms, percentile(99%) = {times[-1]:g} ms"
    )
    if "exportTimes" in options:
        Path(options["exportTimes"]).write_text(json.dumps(trace))
    if "exportOutput" in options:
        told = [
            {
                "name": entry.name,
                "dimensions": "x".join(map(str, value.shape)),
                "values": [float(f"{each:g}") for each in value.ravel()],
            }
            for entry, value in zip(session.get_outputs(), found, strict=True)
        ]
        Path(options["exportOutput"]).write_text(json.dumps(told))
    print("&&&& PASSED TensorRT.trtexec [TensorRT v100300] [b26] #", *words, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
