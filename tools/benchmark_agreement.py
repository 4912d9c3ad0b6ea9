"""Agreement of our p50 with the runtimes' own tools: OpenVINO's benchmark_app, litert-benchmark.

Exports one network to both formats, in float32 and int8. The network is so large that an inference
takes milliseconds, because both tools round to 0.01 ms. Each round times a file three times in
random order: with the tool, with edgekd, and with edgekd again, which shows the noise. Each timing
has a process of its own, one thread, synchronous calls, inputs in place, and float32 for operators
that are not quantized. Prints every round, then for each file the ratio of the tool's median to
ours, and of ours to ours, with a bootstrap interval over rounds.

    python tools/benchmark_agreement.py [--rounds 8] [--seconds 3] [--pixels 448]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

import edgekd
from edgekd.benchmarking.benchmark import benchmark
from edgekd.evidence.measurement import Measurement
from edgekd.recipe.benchmark import Protocol

TOLERANCE = 0.05
BOOTSTRAPS = 2000


def network(pixels: int) -> edgekd.Network:
    """A depthwise-separable CNN, as used on phones."""

    def block(ins: int, outs: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(ins, ins, 3, stride, 1, groups=ins, bias=False),
            nn.BatchNorm2d(ins),
            nn.ReLU(),
            nn.Conv2d(ins, outs, 1, bias=False),
            nn.BatchNorm2d(outs),
            nn.ReLU(),
        ]

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), *block(16, 32, 2), *block(32, 64, 2)]
    layers += [*block(64, 64, 1), *block(64, 128, 2), *block(128, 128, 1)]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return edgekd.load_network(module.eval(), example={"image": torch.zeros(1, 3, pixels, pixels)})


def ours_ms(artifact: edgekd.Artifact, seconds: float, seed: int) -> float:
    """The p50 that edgekd measures, in ms."""
    protocol = Protocol(processes=1, runs=67, seconds=seconds, warm_up_s=0.5, cool_s=0.0)
    measurement: Measurement = benchmark(artifact, protocol=protocol, seed=seed)
    return measurement.percentile_ms(0.5).value


def program(name: str) -> str:
    """The path of a script that a wheel installed, beside this Python or on PATH."""
    beside = Path(sys.executable).with_name(name)
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is not installed: pip install openvino ai-edge-litert ml_dtypes")
    return path


def run_tool(command: Sequence[str]) -> None:
    """Runs a tool; shows its output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stdout[-1500:]} {done.stderr[-1500:]}")


def by_benchmark_app(path: Path, seconds: float) -> float:
    """The median that benchmark_app reports, in ms."""
    with tempfile.TemporaryDirectory() as folder:
        # Threads can be set only without a hint; the plugin then uses LATENCY, as edgekd does.
        args = ["-m", str(path), "-d", "CPU", "-api", "sync", "-hint", "none"]
        args += ["-nthreads", "1", "-infer_precision", "f32", "-t", str(max(1, round(seconds)))]
        args += ["-ip", "f32"]  # Its default for inputs that look like images is uint8.
        args += ["-json_stats", "-report_type", "no_counters", "-report_folder", folder]
        run_tool([program("benchmark_app"), *args])
        report = json.loads((Path(folder) / "benchmark_report.json").read_text())
    return float(report["execution_results"]["latency (ms)"])


def by_litert_benchmark(path: Path, seconds: float) -> float:
    """The median that litert-benchmark reports, in ms. It takes a number of runs, so a
    short call first measures how many runs fill `seconds`."""

    def median_ms(runs: int, warm_up: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "result.json"
            args = [f"--model={path}", "--num_threads=1", f"--result_json={out}"]
            args += [f"--num_runs={runs}", f"--warmup_runs={warm_up}"]
            run_tool([program("litert-benchmark"), *args])
            return float(json.loads(out.read_text())["latency"]["median_ms"])

    if path not in SHORT_MEDIAN_MS:
        SHORT_MEDIAN_MS[path] = median_ms(50, 5)
    first_ms = SHORT_MEDIAN_MS[path]
    return median_ms(max(67, round(1000 * seconds / first_ms)), round(500 / first_ms))


SHORT_MEDIAN_MS: dict[Path, float] = {}
"""By file, the median of the short call of litert-benchmark."""
TOOLS: dict[str, tuple[str, Callable[[Path, float], float]]] = {
    "openvino": ("benchmark_app", by_benchmark_app),
    "litert": ("litert-benchmark", by_litert_benchmark),
}


def interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """The ratio of the first median to the second, and its 95 % interval over rounds."""

    def ratio(drawn: Sequence[tuple[float, float]]) -> float:
        return statistics.median(a for a, _ in drawn) / statistics.median(b for _, b in drawn)

    generator = random.Random(0)
    ratios = sorted(ratio(generator.choices(pairs, k=len(pairs))) for _ in range(BOOTSTRAPS))
    return ratio(pairs), ratios[int(0.025 * BOOTSTRAPS)], ratios[int(0.975 * BOOTSTRAPS) - 1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--pixels", type=int, default=448)
    parser.add_argument("--schemes", nargs="+", default=["fp32", "int8"])
    parser.add_argument(
        "--realtime", action="store_true",
        help="time with real-time priority (SCHED_RR), for a busy host; needs root",
    )  # fmt: skip
    args = parser.parse_args()
    net = network(args.pixels)
    size = (1, 3, args.pixels, args.pixels)
    calibration = [{"image": torch.randn(*size)} for _ in range(4)]
    generator, worst = random.Random(1), 0.0
    with tempfile.TemporaryDirectory() as folder:
        files = {
            (format, scheme): edgekd.export(
                net,
                format=format,
                scheme=scheme,
                calibration=calibration if scheme != "fp32" else None,
                out=folder,
            )
            for format in TOOLS
            for scheme in args.schemes
        }
        rounds: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in files}
        if args.realtime:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        for number in range(args.rounds):
            for key, artifact in files.items():
                name, tool = TOOLS[key[0]]
                times: dict[str, float] = {}
                for timer in generator.sample([name, "edgekd", "edgekd again"], 3):
                    times[timer] = (
                        tool(artifact.path, args.seconds)
                        if timer == name
                        else ours_ms(artifact, args.seconds, number)
                    )
                rounds[key].append(times)
                text = "  ".join(f"{timer} {times[timer]:.3f}" for timer in sorted(times))
                print(f"round {number + 1}  {' '.join(key):14}  p50, ms: {text}", flush=True)
    print(
        f"\n{args.rounds} rounds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    )
    for key, timings in rounds.items():
        name = TOOLS[key[0]][0]
        tools = interval([(times[name], times["edgekd"]) for times in timings])
        noise = interval([(times["edgekd again"], times["edgekd"]) for times in timings])
        worst = max(worst, abs(tools[0] - 1))
        print(
            f"{' '.join(key):14}  {name} / edgekd {tools[0]:.3f} ({tools[1]:.3f} to {tools[2]:.3f})"
            f"  edgekd / edgekd {noise[0]:.3f} ({noise[1]:.3f} to {noise[2]:.3f})"
            f"  {'within' if abs(tools[0] - 1) <= TOLERANCE else 'NOT WITHIN'} 5 %"
        )
    print(f"the largest difference: {worst:.1%}")


if __name__ == "__main__":
    main()
