"""Run a job with `benchmark_model` on a phone without Python; its report has summaries only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.devices.on_device.agent import VERSION
from edgekd.devices.transport.adb_shell import (
    OPTIONS,
    Shell,
    fault_of,
    opened_folder,
    prepare,
    sha256_of,
    start,
    unfinished,
)
from edgekd.devices.transport.reconnect import retry
from edgekd.devices.transport.url import parse_options
from edgekd.devices.vendor_tools.benchmark_model import (
    Benchmark,
    BenchmarkModelSummary,
    parse_benchmark_model,
    parse_result_file,
)
from edgekd.errors import ConversionError, Fault, RefusedError, UnreachableError
from edgekd.system.process import Completed
from edgekd.system.scratch import scratch_folder

MIB = 2**20


def run_job(url: str, folder: Path, job: Mapping[str, Any], *, timeout_s: float) -> None:
    """Write the report of `job` as the agent does, with summaries (`told`) in place of samples.

    Raises:
        RefusedError: the job is not to time TFLite files.
        UnreachableError: the phone cannot be used.
    """
    if job["action"] != "time" or job["runtime"] != "litert":
        raise RefusedError(
            Fault(
                what="benchmark_model can only time TFLite files.",
                at=f"device {url}",
                got=f"{job['action']} {job['runtime']}",
                expected="a .tflite file to time: it returns no outputs to compare",
                fix="verify on this host, or, if the phone has Python, use ?python=PATH",
            )
        )
    results: dict[str, Any] = {}
    facts: Mapping[str, Any] = {}
    peak: int | None = None
    for entry in job["artifacts"]:
        try:
            run, facts = run_benchmark_model(
                url,
                folder / entry["path"],
                threads=job["threads"],
                timeout_s=timeout_s,
                flags=_protocol_flags(job),
            )
        except ConversionError as error:
            detail = error.faults[0].got[:500]
            results[entry["name"]] = {"failure": {"outcome": "run-failed", "detail": detail}}
            continue
        results[entry["name"]] = _result(run)
        peak = round(run.peak_memory_mb * MIB) if run.peak_memory_mb is not None else None
    alone = len(job["artifacts"]) == 1
    report = {
        "version": VERSION,
        "results": results,
        "peak_memory_bytes": peak if alone else None,
        "device": {"machine": None, "processor": None, **facts},
    }
    (folder / "report.json").write_text(json.dumps(report))


def _protocol_flags(job: Mapping[str, Any]) -> list[str]:
    """The flags of the measurement protocol; a job with no runs loads the file and runs it once."""
    if not job["runs"]:
        return ["--num_runs=1", "--min_secs=0", "--warmup_runs=1", "--warmup_min_secs=0"]
    flags = [f"--num_runs={job['runs']}", f"--min_secs={job['seconds']}"]
    flags += [f"--max_secs={job['limit_s']}", "--warmup_runs=10"]
    return [*flags, f"--warmup_min_secs={job['warm_up_s']}"]


def _result(run: Benchmark) -> dict[str, Any]:
    fallback = run.fell_back
    return {
        "import_ns": None,
        "init_ns": round(run.init_us * 1e3),
        "first_ns": round(run.first_us * 1e3),
        "warm_up_count": run.warm_up_count,
        "settled": True,  # It warms up for a fixed time and does not report more.
        "told": _latencies(run.steady),
        "facts": {
            "runtime": "benchmark_model",
            "version": "(yours)",
            "delegates": list(run.delegated),
        },
        "failure": {"outcome": "fell-back", "detail": fallback} if fallback else None,
    }


def _latencies(steady: BenchmarkModelSummary) -> dict[str, Any]:
    """The quantiles of the latency in ms."""
    shares = {0.0: steady.min_us, 0.05: steady.p5_us, 0.5: steady.median_us, 0.95: steady.p95_us,
              1.0: steady.max_us}  # fmt: skip
    figures = [(share, us / 1e3) for share, us in shares.items() if us is not None]
    return {"count": steady.count, "mean_ms": steady.mean_us / 1e3, "figures": figures}


def run_benchmark_model(
    url: str,
    model: Path,
    *,
    threads: int,
    timeout_s: float,
    flags: Sequence[str] = (),
) -> tuple[Benchmark, dict[str, Any]]:
    """Run `model`, a TFLite file, in the `benchmark_model` that `url` names, on the phone.

    Returns its summary and the facts of the phone.

    Raises:
        UnreachableError: the phone cannot be used, or this host has no such program.
        ConversionError: the program failed, or its output is not understood.
    """
    options = parse_options(url, OPTIONS)
    program = Path(options.get("benchmark_model", ""))
    if not program.is_file():
        expected = "a benchmark_model for Android on this host: adb://...?benchmark_model=PATH"
        raise UnreachableError(fault_of(url, f"no file {str(program)!r}", expected))
    leftovers: list[str] = []
    runs: list[tuple[Benchmark, dict[str, Any]]] = []

    def attempt() -> None:
        with opened_folder(url, leftovers) as (shell, remote):
            pinning = prepare(shell, options, {"action": "time", "threads": threads})
            sent = {"benchmark_model": program, "model.tflite": model}
            _send(shell, remote, sent, timeout_s)
            args = ["./benchmark_model", "--graph=model.tflite", f"--num_threads={threads}"]
            args += ["--report_peak_memory_footprint=true", "--result_file_path=result.pb"]
            args += flags
            done = start(shell, remote, [*pinning, *args], timeout_s)
            if done.code != 0:
                raise ConversionError(unfinished(url, "benchmark_model", done, timeout_s))
            runs.append((_summary(shell, remote, done, timeout_s), _facts(shell, pinning)))

    retry(attempt)
    return runs[-1]


def _facts(shell: Shell, pinning: Sequence[str]) -> dict[str, Any]:
    """The phone's model, system and processor, and how the program was pinned."""
    names = {"model": "ro.product.model", "serial": "ro.serialno", "soc": "ro.soc.model",
             "platform": "ro.board.platform", "os": "ro.build.version.release"}  # fmt: skip
    queries = "; ".join(f"echo {key}=$(getprop {name})" for key, name in names.items())
    done = shell.run(f"echo machine=$(uname -m); echo kernel=$(uname -r); {queries}")
    lines = done.stdout.decode(errors="replace").splitlines()
    facts = {
        key: value.strip() or None for key, _, value in (line.partition("=") for line in lines)
    }
    return {
        **facts,
        "processor": facts.get("soc") or facts.get("platform"),
        "system": "Android",
        "pinned": " ".join(pinning) or None,
    }


def _summary(shell: Shell, remote: str, done: Completed, timeout_s: float) -> Benchmark:
    """The summary that it printed, or the unrounded one of its result file if it wrote one."""
    try:
        printed = _plausible(parse_benchmark_model(done.stderr))  # Both streams are there.
        with scratch_folder("job") as scratch:
            file = scratch / "result.pb"
            shell.adb("pull", f"{remote}/result.pb", str(file), timeout_s=timeout_s)
            if not file.is_file():
                return printed
            return _plausible(_merged(printed, parse_result_file(file.read_bytes())))
    except (ValueError, ArithmeticError, OSError) as error:
        raise ConversionError(unfinished(shell.url, "benchmark_model", done, timeout_s)) from error


def _plausible(run: Benchmark) -> Benchmark:
    """`run`, if its latencies are finite.

    Raises:
        ValueError: a number is not finite or beyond 64 bits.
    """
    numbers = [run.init_us, run.first_us, run.peak_memory_mb, *vars(run.steady).values()]
    for number in numbers:
        if number is not None and not abs(number) < 2**40:
            raise ValueError(f"benchmark_model reported {number}")
    return run


def _merged(printed: Benchmark, filed: Benchmark) -> Benchmark:
    steady = replace(filed.steady, first_us=printed.steady.first_us)
    return replace(filed, steady=steady, delegated=printed.delegated)


def _send(shell: Shell, remote: str, sent: dict[str, Path], timeout_s: float) -> None:
    """Copy files to a phone without Python, and compare their digests there."""
    for name, path in sent.items():
        pushed = shell.adb("push", str(path), f"{remote}/{name}", timeout_s=timeout_s)
        shell.must("adb push", pushed)
    done = shell.must("sha256sum", shell.run(f"cd {remote} && sha256sum {' '.join(sent)}"))
    lines = done.stdout.decode(errors="replace").splitlines()
    theirs = {name: sha for sha, _, name in (line.partition("  ") for line in lines)}
    for name, path in sent.items():
        if theirs.get(name) != sha256_of(path):
            raise UnreachableError(
                fault_of(shell.url, f"{name} differs on the phone", "the file as it was sent")
            )
    shell.must("chmod", shell.run(f"chmod 755 {remote}/benchmark_model"))
