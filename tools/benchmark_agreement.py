"""Whether our p50 is that of the runtimes' own tools: OpenVINO's benchmark_app, litert-benchmark.

Exports one network to both formats, in float32 and int8, of a size at which an inference takes
milliseconds: both tools round to 0.01 ms. Each round times a file three times in random order: by
the tool, by edgekd, and by edgekd again, which is the noise; a process each, one thread, float32 as
the precision of what is not quantized, synchronous, inputs in place. Prints every round, then by
file the ratio of the tool's median to ours, and of ours to ours, with a bootstrap interval over
rounds.

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

WITHIN = 0.05
BOOTSTRAPS = 2000


def network(pixels: int) -> edgekd.Network:
    """A depthwise-separable CNN, as phones run them."""

    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False),
            nn.BatchNorm2d(before),
            nn.ReLU(),
            nn.Conv2d(before, after, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), *block(16, 32, 2), *block(32, 64, 2)]
    layers += [*block(64, 64, 1), *block(64, 128, 2), *block(128, 128, 1)]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return edgekd.load_network(module.eval(), example={"image": torch.zeros(1, 3, pixels, pixels)})


def ours_ms(artifact: edgekd.Artifact, seconds: float, seed: int) -> float:
    """Our p50."""
    protocol = Protocol(processes=1, runs=67, seconds=seconds, warm_up_s=0.5, cool_s=0.0)
    found: Measurement = benchmark(artifact, protocol=protocol, seed=seed)
    return found.percentile_ms(0.5).value


def program(name: str) -> str:
    """The script that a wheel brought, beside this Python or on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is not installed: pip install openvino ai-edge-litert ml_dtypes")
    return found


def said(words: Sequence[str]) -> None:
    """Starts a tool; what it says is shown where it fails."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, env=os.environ)
    if done.returncode:
        raise SystemExit(f"{words[0]} failed: {done.stdout[-1500:]} {done.stderr[-1500:]}")


def by_benchmark_app(path: Path, seconds: float) -> float:
    """OpenVINO's median."""
    with tempfile.TemporaryDirectory() as folder:
        # It lets threads be set without a hint alone; the plugin's own is then LATENCY, as ours is.
        words = ["-m", str(path), "-d", "CPU", "-api", "sync", "-hint", "none"]
        words += ["-nthreads", "1", "-infer_precision", "f32", "-t", str(max(1, round(seconds)))]
        words += ["-ip", "f32"]  # It would take what looks like an image as uint8, a quarter of it.
        words += ["-json_stats", "-report_type", "no_counters", "-report_folder", folder]
        said([program("benchmark_app"), *words])
        report = json.loads((Path(folder) / "benchmark_report.json").read_text())
    return float(report["execution_results"]["latency (ms)"])


def by_litert_benchmark(path: Path, seconds: float) -> float:
    """LiteRT's median; it counts runs, so first it is asked for a few."""

    def median_ms(runs: int, warm: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "result.json"
            words = [f"--model={path}", "--num_threads=1", f"--result_json={out}"]
            said(
                [program("litert-benchmark"), *words, f"--num_runs={runs}", f"--warmup_runs={warm}"]
            )
            return float(json.loads(out.read_text())["latency"]["median_ms"])

    if path not in PACE:
        PACE[path] = median_ms(50, 5)
    return median_ms(max(67, round(1000 * seconds / PACE[path])), round(500 / PACE[path]))


PACE: dict[Path, float] = {}
TOOLS: dict[str, tuple[str, Callable[[Path, float], float]]] = {
    "openvino": ("benchmark_app", by_benchmark_app),
    "litert": ("litert-benchmark", by_litert_benchmark),
}


def interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """The ratio of the medians of the first to the second, and its 95 % interval over rounds."""

    def ratio(drawn: Sequence[tuple[float, float]]) -> float:
        return statistics.median(a for a, _ in drawn) / statistics.median(b for _, b in drawn)

    generator = random.Random(0)
    found = sorted(ratio(generator.choices(pairs, k=len(pairs))) for _ in range(BOOTSTRAPS))
    return ratio(pairs), found[int(0.025 * BOOTSTRAPS)], found[int(0.975 * BOOTSTRAPS) - 1]


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
        help="of a busy host, as root: nothing else takes the cores while it times (SCHED_RR)",
    )  # fmt: skip
    words = parser.parse_args()
    net = network(words.pixels)
    size = (1, 3, words.pixels, words.pixels)
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
            for scheme in words.schemes
        }
        found: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in files}
        if words.realtime:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        for number in range(words.rounds):
            for key, artifact in files.items():
                name, tool = TOOLS[key[0]]
                times: dict[str, float] = {}
                for who in generator.sample([name, "edgekd", "edgekd again"], 3):
                    times[who] = (
                        tool(artifact.path, words.seconds)
                        if who == name
                        else ours_ms(artifact, words.seconds, number)
                    )
                found[key].append(times)
                told = "  ".join(f"{who} {times[who]:.3f}" for who in sorted(times))
                print(f"round {number + 1}  {' '.join(key):14}  p50, ms: {told}", flush=True)
    print(
        f"\n{words.rounds} rounds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    )
    for key, rounds in found.items():
        name = TOOLS[key[0]][0]
        tools = interval([(each[name], each["edgekd"]) for each in rounds])
        noise = interval([(each["edgekd again"], each["edgekd"]) for each in rounds])
        worst = max(worst, abs(tools[0] - 1))
        print(
            f"{' '.join(key):14}  {name} / edgekd {tools[0]:.3f} ({tools[1]:.3f} to {tools[2]:.3f})"
            f"  edgekd / edgekd {noise[0]:.3f} ({noise[1]:.3f} to {noise[2]:.3f})"
            f"  {'within' if abs(tools[0] - 1) <= WITHIN else 'NOT WITHIN'} 5 %"
        )
    print(f"the largest difference: {worst:.1%}")


if __name__ == "__main__":
    main()
