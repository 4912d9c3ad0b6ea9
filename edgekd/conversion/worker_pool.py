"""Conversions, each format's in a process of its own, several at once.

A converter that crashes, runs out of memory or hangs takes one file with it, not the run. A process
imports its converter once and is given the network as an exported program.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import torch

from edgekd.conversion.export import LOG, convert, failed
from edgekd.conversion.exportability import check_sound
from edgekd.data import Inputs
from edgekd.errors import ERRORS, ConversionError, EdgekdError, Fault
from edgekd.formats.capture import exported
from edgekd.network.network import Network
from edgekd.system.files import write_json
from edgekd.system.machine import available_bytes, core_count, resident_bytes
from edgekd.system.output import crash_place, last_lines, output_to
from edgekd.system.process import started

RESULT = "result.json"
PROCESS_BYTES = 2 * 2**30
"""Of torch and a converter: 0.8 to 1.7 GB each were seen, on networks of no size."""
COPIES = 10
"""Of the weights, while a converter works on them."""
RESERVE_BYTES = 2**29
"""Of the machine's memory, what is left to the system: a process that wants it is ended."""
PAUSE_S = 0.02


@dataclass(frozen=True)
class Conversion:
    """A file that is wanted: `network` in `format` and `scheme`, see `edgekd.export`."""

    network: Network
    format: str
    scheme: str
    calibration: Sequence[Inputs] = ()
    opset: int | None = None
    channels_last: bool | None = None
    method: str | None = None
    keep: tuple[str, ...] = ()
    weight_bits: int = 7
    io: str = "float32"

    @property
    def settings(self) -> dict[str, Any]:
        """What `convert` takes besides, as JSON can say it."""
        names = ("opset", "channels_last", "method", "keep", "weight_bits", "io")
        return {name: getattr(self, name) for name in names}


def convert_each(
    wanted: Mapping[str, Conversion], *, processes: int | None, timeout_s: float
) -> Iterator[tuple[str, Path | EdgekdError]]:
    """The names of `wanted` as they come to an end, each with its folder or why there is none.

    The folder is gone when the next one is asked for.

    Args:
        processes: at once; 0 converts here, None as many as cores and free memory allow.
        timeout_s: for each conversion, seconds; not kept by one that is done here.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-export-") as scratch:
        folder = Path(scratch)
        # A program has no way but the first, and free sizes may need the second.
        here = {name for name, each in wanted.items() if processes == 0 or each.network.dynamic}
        for name in here:
            yield name, _here(wanted[name], folder / name)
        wanted = {name: each for name, each in wanted.items() if name not in here}
        if not wanted:
            return
        written: dict[int, Path | EdgekdError] = {}
        jobs: dict[str, list[dict[str, object]]] = {}
        for name, conversion in wanted.items():
            network = conversion.network
            if id(network) not in written:
                written[id(network)] = _write(network, folder / f"network-{len(written)}.pt2")
            program = written[id(network)]
            if isinstance(program, EdgekdError):
                yield name, program
                continue
            job = _job(name, conversion, program, folder / name, timeout_s)
            jobs.setdefault(conversion.format, []).append(job)
        if processes is None:
            weights = max(_weight_bytes(each.network) for each in wanted.values())
            affordable = available_bytes() // (PROCESS_BYTES + COPIES * weights)
            processes = max(1, min(core_count(), affordable))
        yield from _work_off(jobs, folder, processes)


def _here(conversion: Conversion, folder: Path) -> Path | EdgekdError:
    try:
        convert(
            conversion.network,
            conversion.format,
            conversion.scheme,
            conversion.calibration,
            folder,
            **conversion.settings,
        )
    except EdgekdError as error:
        return error
    return folder


def _write(network: Network, path: Path) -> Path | EdgekdError:
    """The exported program of `network` in a file, or why it is none."""
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
        save_file({each: torch.cat([s[each] for s in samples]) for each in names}, calibration)
    return {
        "name": name,
        "folder": str(folder),
        "program": str(program),
        "format": conversion.format,
        "scheme": conversion.scheme,
        "settings": conversion.settings,
        "calibration": str(calibration) if calibration else None,
        "lineage": {**network.lineage, "network_sha256": network.weights_digest()},
        "signature": network.signature.to_json(),
        "timeout_s": timeout_s,
    }


def _work_off(
    jobs: dict[str, list[dict[str, object]]], folder: Path, processes: int
) -> Iterator[tuple[str, Path | EdgekdError]]:
    """What comes of `jobs`, those of one format in order in one process.

    Where memory runs out the largest process is ended: what it was at is tried again alone, and
    is an error if it was alone.
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
                env = {"OMP_NUM_THREADS": threads}
                running[format] = stack.enter_context(started(argv, log, env=env))
            starved |= _end_largest(running)
            for format, process in list(running.items()):
                code = process.poll()  # Before the results are looked at: none comes after it.
                while jobs[format] and (_folder(jobs[format][0]) / RESULT).exists():
                    yield _result(jobs[format].pop(0))
                if code is None:
                    continue
                del running[format]
                held = starved.pop(format, 0)
                if held and running:
                    processes = 1
                elif jobs[format]:
                    yield _died(jobs[format].pop(0), code, folder / f"{format}.log", held)
                if jobs[format]:
                    waiting.append(format)
            time.sleep(PAUSE_S)


def _end_largest(running: Mapping[str, Popen[bytes]]) -> dict[str, int]:
    """The format whose process was ended because memory runs out, and what it held, in bytes."""
    if available_bytes() > RESERVE_BYTES:
        return {}
    held = {format: resident_bytes(process.pid) for format, process in running.items()}
    largest = max(held, key=lambda format: held[format], default=None)
    if largest is None or not held[largest]:
        return {}
    running[largest].kill()
    running[largest].wait()
    return {largest: held[largest]}


def _folder(job: dict[str, object]) -> Path:
    return Path(str(job["folder"]))


def _result(job: dict[str, object]) -> tuple[str, Path | EdgekdError]:
    place = _folder(job) / RESULT
    result = json.loads(place.read_text(encoding="utf-8"))
    place.unlink()
    if result["faults"]:
        faults = (Fault(**fault) for fault in result["faults"])
        return str(job["name"]), ERRORS[result["exit_code"]](*faults)
    return str(job["name"]), _folder(job)


def _died(job: dict[str, object], code: int, log: Path, held_bytes: int) -> tuple[str, EdgekdError]:
    logs = [place for place in (_folder(job) / LOG, log) if place.exists()]
    printed = next(filter(None, map(last_lines, logs)), "")
    place = next(filter(None, map(crash_place, logs)), "")
    # faulthandler's word, before the places where the threads were.
    timed_out = any("Timeout (" in place.read_text(errors="replace") for place in logs)
    if timed_out:
        got = f"still running after {job['timeout_s']:g} s"
    elif code < 0:
        got = f"its process was killed by {signal.Signals(-code).name}"
    else:
        got = f"its process ended with code {code}"
    if held_bytes:
        got = f"it held {held_bytes / 2**30:.1f} GiB, and the machine's memory ran out"
    elif code == -9:
        got += ", as the system does where memory runs out"
    return str(job["name"]), ConversionError(
        Fault(
            what=f"The converter to {job['format']} died on {job['scheme']}.",
            at=f"{job['format']} {job['scheme']}",
            got=got
            + (f", in {place}" if place else "")
            + (f" (it printed: {printed})" if printed else ""),
            expected="a converter that ends",
            fix=f"raise [export] timeout_s, or leave {job['scheme']} out for this target"
            if timed_out
            else f"leave {job['scheme']} out for this target, or export a smaller network",
        )
    )


def _weight_bytes(network: Network) -> int:
    return sum(tensor.nbytes for tensor in network.module.state_dict().values())
