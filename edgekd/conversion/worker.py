"""The process that converts networks to one format, started by `edgekd.conversion.worker_pool`."""

from __future__ import annotations

import faulthandler
import json
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekd.artifacts.signature import Signature
from edgekd.conversion.export import convert
from edgekd.conversion.worker_pool import RESULT
from edgekd.errors import EdgekdError
from edgekd.formats.options import ExportOptions
from edgekd.network.load import load_module
from edgekd.network.network import Network
from edgekd.network.sample_files import read_samples
from edgekd.system.files import write_json
from edgekd.system.lifetime import end_with_parent


def main(path: Path) -> None:
    """Runs the conversions listed in `path`, in order, and writes each result beside its file."""
    networks: dict[str, Any] = {}
    with suppress(OSError):  # If memory runs out, the system kills this process and not the run.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    end_with_parent()
    faulthandler.enable()
    for job in json.loads(path.read_text(encoding="utf-8")):
        # A thread of its own ends this process, also while a converter's C++ code hangs.
        faulthandler.dump_traceback_later(job["timeout_s"], exit=True)
        result: dict[str, Any] = {"exit_code": 0, "faults": []}
        try:
            if job["program"] not in networks:
                networks[job["program"]] = load_module(job["program"])[0]
            _convert(networks[job["program"]], job)
        except EdgekdError as error:
            faults = [asdict(fault) for fault in error.faults]
            result = {"exit_code": error.exit_code, "faults": faults}
        faulthandler.cancel_dump_traceback_later()
        write_json(Path(job["folder"]) / RESULT, result)


def _convert(module: Any, job: dict[str, Any]) -> None:
    signature = Signature.from_json(job["signature"])
    network = Network(
        module=module.eval(),
        signature=signature,
        example={name: module.example[name] for name in signature.input_names},
        lineage=job["lineage"],
    )
    samples: list[Any] = []
    if job["calibration"]:
        samples = [
            {name: sample[name] for name in signature.input_names}
            for sample in read_samples(Path(job["calibration"]))
        ]
    options = ExportOptions(**job["options"])
    convert(network, job["format"], samples, Path(job["folder"]), options)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
