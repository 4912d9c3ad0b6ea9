"""Runs conversions in worker processes, one per format, several at once.

A converter that crashes, runs out of memory or hangs costs one file, not the run. A worker imports
its converter once and gets the network as an exported program.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from subprocess import Popen

import torch

from edgekd.conversion.export import LOG, convert, failed
from edgekd.conversion.exportability import check_sound
from edgekd.data import Inputs
from edgekd.errors import ERRORS, ConversionError, EdgekdError, Fault
from edgekd.formats.capture import exported
from edgekd.formats.options import ExportOptions
from edgekd.network.network import Network
from edgekd.system.files import write_json
from edgekd.system.lifetime import end, sweep
from edgekd.system.machine import available_bytes, core_count, resident_bytes
from edgekd.system.output import crash_place, last_lines, log_text, output_to
from edgekd.system.process import started
from edgekd.system.scratch import scratch_folder

RESULT = "result.json"
PROCESS_BYTES = 2 * 2**30
"""Memory of torch and a converter: 0.8 to 1.7 GB were measured on tiny networks."""
COPIES = 10
"""Copies of the weights that a converter holds at once."""
RESERVE_BYTES = 2**29
"""Memory that is left to the system: the largest worker is ended before it is used up."""
LOG_BYTES = 2**28
"""A worker that prints more is ended, so that it does not fill the disk."""
PAUSE_S = 0.02


@dataclass(frozen=True)
class Conversion:
    """A file to write: `network` in `format`, as `options` say; see `edgekd.export`."""

    network: Network
    format: str
    options: ExportOptions = field(default_factory=ExportOptions)
    calibration: Sequence[Inputs] = ()


def convert_each(
    wanted: Mapping[str, Conversion], *, processes: int | None, timeout_s: float
) -> Iterator[tuple[str, Path | EdgekdError]]:
    """The names of `wanted` as their conversions end, each with its folder or its error.

    The folder is deleted when the next result is asked for.

    Args:
        processes: the number of workers; 0 converts in this process, None takes as many as cores
            and free memory allow.
        timeout_s: time limit of each conversion in a worker, seconds.
    """
    with scratch_folder("export") as folder:
        # A worker gets an exported program, and dynamic shapes may need another export path.
        here = {name for name, job in wanted.items() if processes == 0 or job.network.dynamic}
        for name in here:
            yield name, _here(wanted[name], folder / name)
        wanted = {name: job for name, job in wanted.items() if name not in here}
        if not wanted:
            return
        programs: dict[int, Path | EdgekdError] = {}
        jobs: dict[str, list[dict[str, object]]] = {}
        for name, conversion in wanted.items():
            network = conversion.network
            if id(network) not in programs:
                programs[id(network)] = _write(network, folder / f"network-{len(programs)}.pt2")
            program = programs[id(network)]
            if isinstance(program, EdgekdError):
                yield name, program
                continue
            job = _job(name, conversion, program, folder / name, timeout_s)
            jobs.setdefault(conversion.format, []).append(job)
        if processes is None:
            weights = max(_weight_bytes(conversion.network) for conversion in wanted.values())
            affordable = available_bytes() // (PROCESS_BYTES + COPIES * weights)
            processes = max(1, min(core_count(), affordable))
        yield from _work_off(jobs, folder, processes)


def _here(conversion: Conversion, folder: Path) -> Path | EdgekdError:
    try:
        convert(
            conversion.network,
            conversion.format,
            conversion.calibration,
            folder,
            conversion.options,
        )
    except EdgekdError as error:
        return error
    return folder


def _write(network: Network, path: Path) -> Path | EdgekdError:
    """The file at `path` with the exported program of `network`, or why it cannot be exported."""
    log = path.with_suffix(".log")
    try:
        check_sound(network)
        with output_to(log):
            torch.export.save(exported(network), path)
    except EdgekdError as error:
        return error
    except Exception as error:  # noqa: BLE001  whatever torch.export raises is the network's
        return failed("torch.export", error, "the network", log)
    return path


def _job(
    name: str, conversion: Conversion, program: Path, folder: Path, timeout_s: float
) -> dict[str, object]:
    from safetensors.torch import save_file

    network = conversion.network
    folder.mkdir()
    calibration = None
    if conversion.calibration:
        calibration = folder.with_suffix(".safetensors")
        names = network.signature.input_names
        samples = conversion.calibration
        save_file({key: torch.cat([s[key] for s in samples]) for key in names}, calibration)
    return {
        "name": name,
        "folder": str(folder),
        "program": str(program),
        "format": conversion.format,
        "options": asdict(conversion.options),
        "calibration": str(calibration) if calibration else None,
        "lineage": {**network.lineage, "network_sha256": network.weights_digest()},
        "signature": network.signature.to_json(),
        "timeout_s": timeout_s,
    }


def _work_off(
    jobs: dict[str, list[dict[str, object]]], folder: Path, processes: int
) -> Iterator[tuple[str, Path | EdgekdError]]:
    """The results of `jobs`; those of one format run in order in one worker.

    If memory runs out, the largest worker is ended: its conversion is tried again alone, and is an
    error if it was alone.
    """
    waiting = list(jobs)
    running: dict[str, Popen[bytes]] = {}
    starved: dict[str, int] = {}
    threads = str(max(1, core_count() // processes))
    number = 0
    with ExitStack() as stack:
        while waiting or running:
            while waiting and len(running) < processes:
                format = waiting.pop(0)
                number += 1
                todo = folder / f"jobs-{number}.json"
                write_json(todo, jobs[format])
                argv = [sys.executable, "-m", "edgekd.conversion.worker", str(todo)]
                log = folder / f"{format}.log"
                # What a library of a converter leaves behind is removed with the folder.
                env = {"OMP_NUM_THREADS": threads, "TMPDIR": str(folder)}
                running[format] = stack.enter_context(started(argv, log, env=env))
            starved |= _end_largest(running)
            talkative = _end_talkative(running, jobs, folder)
            for format, process in list(running.items()):
                code = process.poll()  # Polled before the results are read: none comes after it.
                if code is not None:
                    sweep(process)
                while jobs[format] and (_folder(jobs[format][0]) / RESULT).exists():
                    yield _result(jobs[format].pop(0))
                if code is None:
                    continue
                del running[format]
                held = starved.pop(format, 0)
                if held and running:
                    processes = 1
                elif jobs[format]:
                    reason = _reason(held, format in talkative)
                    yield _died(jobs[format].pop(0), code, folder / f"{format}.log", reason)
                if jobs[format]:
                    waiting.append(format)
            time.sleep(PAUSE_S)


def _end_largest(running: Mapping[str, Popen[bytes]]) -> dict[str, int]:
    """The format whose worker was ended because memory runs out, and the bytes it held."""
    if available_bytes() > RESERVE_BYTES:
        return {}
    held = {format: resident_bytes(process.pid) for format, process in running.items()}
    largest = max(held, key=lambda format: held[format], default=None)
    if largest is None or not held[largest]:
        return {}
    end(running[largest])
    return {largest: held[largest]}


def _end_talkative(
    running: Mapping[str, Popen[bytes]], jobs: dict[str, list[dict[str, object]]], folder: Path
) -> set[str]:
    """The formats whose workers were ended because they print without end."""
    talkative = set()
    for format, process in running.items():
        logs = [folder / f"{format}.log", *(_folder(job) / LOG for job in jobs[format][:1])]
        if sum(log.stat().st_size for log in logs if log.exists()) > LOG_BYTES:
            end(process)
            talkative.add(format)
    return talkative


def _reason(held_bytes: int, talkative: bool) -> str:
    """Why this process ended a worker; empty if it did not."""
    if held_bytes:
        return f"it held {held_bytes / 2**30:.1f} GiB, and the machine's memory ran out"
    return f"it printed more than {LOG_BYTES / 2**20:.0f} MiB" if talkative else ""


def _folder(job: dict[str, object]) -> Path:
    return Path(str(job["folder"]))


def _result(job: dict[str, object]) -> tuple[str, Path | EdgekdError]:
    path = _folder(job) / RESULT
    result = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    if result["faults"]:
        faults = (Fault(**fault) for fault in result["faults"])
        return str(job["name"]), ERRORS[result["exit_code"]](*faults)
    return str(job["name"]), _folder(job)


def _died(job: dict[str, object], code: int, log: Path, reason: str) -> tuple[str, EdgekdError]:
    """The name of `job` and the error of a worker that ended before it wrote the result.

    Args:
        reason: why this process ended it; empty if it did not.
    """
    logs = [path for path in (_folder(job) / LOG, log) if path.exists()]
    printed = next(filter(None, map(last_lines, logs)), "")
    location = next(filter(None, map(crash_place, logs)), "")
    # faulthandler prints it before the stacks of the threads.
    timed_out = any("Timeout (" in log_text(path) for path in logs)
    if timed_out:
        got = f"still running after {job['timeout_s']:g} s"
    elif code < 0:
        got = f"its process was killed by {signal.Signals(-code).name}"
    else:
        got = f"its process ended with code {code}"
    if reason:
        got = reason
    elif code == -9:
        got += ", as the system does if memory runs out"
    return str(job["name"]), ConversionError(
        Fault(
            what=f"The converter to {job['format']} died on {_scheme(job)}.",
            at=f"{job['format']} {_scheme(job)}",
            got=got
            + (f", in {location}" if location else "")
            + (f" (it printed: {printed})" if printed else ""),
            expected="a converter that ends",
            fix=f"raise [export] timeout_s, or leave {_scheme(job)} out for this target"
            if timed_out
            else f"leave {_scheme(job)} out for this target, or export a smaller network",
        )
    )


def _scheme(job: dict[str, object]) -> str:
    options = job["options"]
    assert isinstance(options, dict)
    return str(options["scheme"])


def _weight_bytes(network: Network) -> int:
    return sum(tensor.nbytes for tensor in network.module.state_dict().values())
