"""A job done by `benchmark_model`, on a phone without Python: a report of summaries."""

from __future__ import annotations

import json
import tempfile
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

MIB = 2**20


def run_job(url: str, folder: Path, job: Mapping[str, Any], *, timeout_s: float) -> None:
    """Writes the report of `job`, as the agent would, but with what was `told` in place of samples.

    Raises:
        RefusedError: the job is more than to time TFLite files.
        UnreachableError: the phone cannot be used.
    """
    if job["action"] != "time" or job["runtime"] != "litert":
        raise RefusedError(
            Fault(
                what="benchmark_model times TFLite files, and does nothing else.",
                at=f"device {url}",
                got=f"{job['action']} {job['runtime']}",
                expected="a .tflite file to time: it gives no outputs to compare",
                fix="verify it on this host, or where the phone has Python: ?python=PATH",
            )
        )
    results: dict[str, Any] = {}
    facts: Mapping[str, Any] = {}
    peak: int | None = None
    for entry in job["artifacts"]:
        try:
            found, facts = timed(
                url,
                folder / entry["path"],
                threads=job["threads"],
                timeout_s=timeout_s,
                options_of_it=_how_long(job),
            )
        except ConversionError as error:
            detail = error.faults[0].got[:500]
            results[entry["name"]] = {"failure": {"outcome": "run-failed", "detail": detail}}
            continue
        results[entry["name"]] = _result(found)
        peak = round(found.peak_memory_mb * MIB) if found.peak_memory_mb is not None else None
    alone = len(job["artifacts"]) == 1
    report = {
        "version": VERSION,
        "results": results,
        "peak_memory_bytes": peak if alone else None,
        "device": {"machine": None, "processor": None, **facts},
    }
    (folder / "report.json").write_text(json.dumps(report))


def _how_long(job: Mapping[str, Any]) -> list[str]:
    """The protocol in benchmark_model's words; a job of no runs is to load and to run once."""
    if not job["runs"]:
        return ["--num_runs=1", "--min_secs=0", "--warmup_runs=1", "--warmup_min_secs=0"]
    words = [f"--num_runs={job['runs']}", f"--min_secs={job['seconds']}"]
    words += [f"--max_secs={job['limit_s']}", "--warmup_runs=10"]
    return [*words, f"--warmup_min_secs={job['warm_up_s']}"]


def _result(found: Benchmark) -> dict[str, Any]:
    told = found.fell_back
    return {
        "import_ns": None,
        "init_ns": round(found.init_us * 1e3),
        "first_ns": round(found.first_us * 1e3),
        "warm_up_count": found.warm_up_count,
        "settled": True,  # As far as it tells: it warms up for a time.
        "told": _told_times(found.steady),
        "facts": {
            "runtime": "benchmark_model",
            "version": "(yours)",
            "delegates": list(found.delegated),
        },
        "failure": {"outcome": "fell-back", "detail": told} if told else None,
    }


def _told_times(steady: BenchmarkModelSummary) -> dict[str, Any]:
    """A summary in ms, by the share of runs that took no longer."""
    shares = {0.0: steady.min_us, 0.05: steady.p5_us, 0.5: steady.median_us, 0.95: steady.p95_us,
              1.0: steady.max_us}  # fmt: skip
    figures = [(share, us / 1e3) for share, us in shares.items() if us is not None]
    return {"count": steady.count, "mean_ms": steady.mean_us / 1e3, "figures": figures}


def timed(
    url: str,
    model: Path,
    *,
    threads: int,
    timeout_s: float,
    options_of_it: Sequence[str] = (),
) -> tuple[Benchmark, dict[str, Any]]:
    """What the `benchmark_model` that `url` names tells of `model`, a TFLite file, on the phone,
    and what the phone is.

    Raises:
        UnreachableError: the phone cannot be used, or there is no such program on this host.
        ConversionError: the program failed, or its output is not known.
    """
    asked = parse_options(url, OPTIONS)
    program = Path(asked.get("benchmark_model", ""))
    if not program.is_file():
        expected = "a benchmark_model for Android on this host: adb://...?benchmark_model=PATH"
        raise UnreachableError(fault_of(url, f"no file {str(program)!r}", expected))
    places: list[str] = []
    found: list[tuple[Benchmark, dict[str, Any]]] = []

    def attempt() -> None:
        with opened_folder(url, places) as (shell, place):
            pinned = prepare(shell, asked, {"action": "time", "threads": threads})
            sent = {"benchmark_model": program, "model.tflite": model}
            _send(shell, place, sent, timeout_s)
            words = ["./benchmark_model", "--graph=model.tflite", f"--num_threads={threads}"]
            words += ["--report_peak_memory_footprint=true", "--result_file_path=result.pb"]
            words += options_of_it
            done = start(shell, place, [*pinned, *words], timeout_s)
            if done.code != 0:
                raise ConversionError(unfinished(url, "benchmark_model", done, timeout_s))
            found.append((_told(shell, place, done, timeout_s), _facts(shell, pinned)))

    retry(attempt)
    return found[-1]


def _facts(shell: Shell, pinned: Sequence[str]) -> dict[str, Any]:
    """What the phone says that it is."""
    names = {"model": "ro.product.model", "serial": "ro.serialno", "soc": "ro.soc.model",
             "platform": "ro.board.platform", "os": "ro.build.version.release"}  # fmt: skip
    asked = "; ".join(f"echo {key}=$(getprop {name})" for key, name in names.items())
    done = shell.run(f"echo machine=$(uname -m); echo kernel=$(uname -r); {asked}")
    lines = done.stdout.decode(errors="replace").splitlines()
    told = {key: value.strip() or None for key, _, value in (line.partition("=") for line in lines)}
    return {
        **told,
        "processor": told.get("soc") or told.get("platform"),
        "system": "Android",
        "pinned": " ".join(pinned) or None,
    }


def _told(shell: Shell, place: str, done: Completed, timeout_s: float) -> Benchmark:
    """What it printed; the figures of its result file, which are not rounded, where it has one."""
    try:
        printed = parse_benchmark_model(done.stderr)  # `Shell.run` puts both ways there.
        with tempfile.TemporaryDirectory(prefix="edgekd-job-") as scratch:
            file = Path(scratch) / "result.pb"
            shell.adb("pull", f"{place}/result.pb", str(file), timeout_s=timeout_s)
            return _joined(printed, parse_result_file(file.read_bytes())) if file.exists() else (
                printed
            )  # fmt: skip
    except ValueError as error:
        raise ConversionError(unfinished(shell.url, "benchmark_model", done, timeout_s)) from error


def _joined(printed: Benchmark, filed: Benchmark) -> Benchmark:
    steady = replace(filed.steady, first_us=printed.steady.first_us)
    return replace(filed, steady=steady, delegated=printed.delegated)


def _send(shell: Shell, place: str, sent: dict[str, Path], timeout_s: float) -> None:
    """Puts files onto a phone that has no Python, and makes sure that they are whole there."""
    for name, path in sent.items():
        pushed = shell.adb("push", str(path), f"{place}/{name}", timeout_s=timeout_s)
        shell.must("adb push", pushed)
    done = shell.must("sha256sum", shell.run(f"cd {place} && sha256sum {' '.join(sent)}"))
    lines = done.stdout.decode(errors="replace").splitlines()
    theirs = {name: sha for sha, _, name in (line.partition("  ") for line in lines)}
    for name, path in sent.items():
        if theirs.get(name) != sha256_of(path):
            raise UnreachableError(
                fault_of(shell.url, f"{name} differs on the phone", "the file as it was sent")
            )
    shell.must("chmod", shell.run(f"chmod 755 {place}/benchmark_model"))
