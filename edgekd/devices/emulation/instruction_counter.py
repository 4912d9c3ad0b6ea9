"""Count instructions per inference on an emulated core.

This file runs beside the agent there, and uses the agent's runtimes:

    qemu-aarch64 -plugin file=insn_count.so,out=FOLDER/counts.txt ... \\
        python instruction_counter.py FOLDER

Whenever this program calls lseek with a magic offset, the plugin writes the number of instructions
that the core has executed. Each inference is between two such marks, and so is an empty call, whose
count is subtracted. The minimum is reported: counts vary by a few hundred with the position of the
heap. One thread computes, since threads wait for one another in loops of random length.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAGIC = 0x45444B44
WARM_UP = 2
"""Inferences before the first counted one, which pack weights and allocate memory."""


class Counter:
    """Calls between two marks, and the plugin's counts."""

    def __init__(self, folder: Path) -> None:
        self.counts = folder / "counts.txt"
        self.file = os.open(str(folder / "job.json"), os.O_RDONLY)

    def instructions(self, call: Callable[[], Any]) -> int:
        """The instructions between two marks around `call`."""
        file, lseek = self.file, os.lseek
        lseek(file, MAGIC, 0)
        call()
        lseek(file, MAGIC, 0)
        before, after = self.counts.read_text().split()[-2:]
        return int(after) - int(before)


def no_call() -> None:
    """An empty call, to subtract the cost of a call and of the marks."""


def count(agent: Any, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The instructions per inference of every artifact."""
    results = {}
    counter = Counter(folder)
    gc.disable()
    empty = min(counter.instructions(no_call) for _ in range(5))
    for entry in job["artifacts"]:
        samples = agent.read_samples(job, folder, entry)
        model, result = agent.load(dict(job, threads=1), folder, entry)
        results[entry["name"]] = result
        if model is None:
            continue
        try:
            counts = _counts(counter, model, agent.feeds(model, samples, entry), job)
        except Exception:  # noqa: BLE001  Whatever the runtime raises is the result.
            result["failure"] = agent.failure("run-failed")
            continue
        counts = [count - empty for count in counts]
        result["instructions"] = {
            "per_inference": min(counts),
            "counts": counts,
            "threads": 1,
        }
    return results


def _counts(counter: Counter, model: Any, feeds: list[Any], job: dict[str, Any]) -> list[int]:
    counts = []
    for number in range(WARM_UP + job.get("runs", 5)):
        model.put(feeds[number % len(feeds)])
        instructions = counter.instructions(model.invoke)
        if number >= WARM_UP:
            counts.append(instructions)
        model.take()
    return counts


def main(folder: Path) -> None:
    """Run the job in `folder`, and write the report as the agent does."""
    agent = importlib.import_module("agent")
    job = json.loads((folder / "job.json").read_text())
    report = {
        "version": agent.VERSION,
        "results": count(agent, job, folder),
        "peak_memory_bytes": None,
        "device": agent.device_facts(),
    }
    draft = folder / "report.json.part"
    draft.write_text(json.dumps(report))
    draft.replace(folder / "report.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
