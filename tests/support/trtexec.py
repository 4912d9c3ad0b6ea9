"""A fake trtexec with the arguments, the output and the exported files of NVIDIA's.

ONNX Runtime on the CPU computes in place of TensorRT.

    python trtexec.py --onnx=FILE --loadInputs=x:FILE --exportTimes=FILE ...

Source: NVIDIA/TensorRT, samples/common/sampleReporting.cpp, version 10.
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


def main(args: list[str]) -> int:
    options = dict(arg.lstrip("-").partition("=")[::2] for arg in args)
    print("&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b26] #", *args, flush=True)
    log("TensorRT version: 10.3.0")
    model = Path(options.get("onnx") or options["loadEngine"])
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  Any error is a failed parse.
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
    warm_up_ms, least = float(options["warmUp"]), int(options["iterations"])
    while True:
        start = (time.perf_counter() - begin) * 1e3
        outputs = session.run(None, feed)
        elapsed_ms = (time.perf_counter() - begin) * 1e3 - start
        transfers = {"h2dMs": 0.01, "d2hMs": 0.01}
        trace.append(
            {
                "startComputeMs": start,
                "computeMs": elapsed_ms,
                "latencyMs": elapsed_ms + 0.02,
                **transfers,
            }
        )
        steady = [event for event in trace if event["startComputeMs"] >= warm_up_ms]
        enough = len(steady) >= least and start >= warm_up_ms + 1e3 * float(options["duration"])
        if enough or start > 20_000:
            break
        if len(trace) % 50 == 0:
            time.sleep(0.02)
    log("=== Trace details ===")
    times = sorted(event["latencyMs"] for event in steady)
    wall_s = (trace[-1]["startComputeMs"] - warm_up_ms) / 1e3 or 1e-3
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
        exported = [
            {
                "name": entry.name,
                "dimensions": "x".join(map(str, value.shape)),
                "values": [float(f"{number:g}") for number in value.ravel()],
            }
            for entry, value in zip(session.get_outputs(), outputs, strict=True)
        ]
        Path(options["exportOutput"]).write_text(json.dumps(exported))
    print("&&&& PASSED TensorRT.trtexec [TensorRT v100300] [b26] #", *args, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
