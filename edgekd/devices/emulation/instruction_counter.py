"""The program that counts instructions per inference on an emulated core.

It lies beside the agent there, and uses its runtimes:

    qemu-aarch64 -plugin file=insn_count.so,out=FOLDER/counts.txt ... python counting.py FOLDER

The plugin writes how many instructions the core has executed whenever this program calls lseek
with a magic offset. Each inference lies between two such marks, and so does a call of nothing,
whose instructions are taken off. The least of them is reported: what is over it by a few hundred is
where the heap happened to lie. One thread computes: several wait for one another in loops whose
length is chance.
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
"""Inferences before the first that is counted: weights are packed and memory is taken there."""


class Counter:
    """Calls between two marks, and what the plugin counted of each."""

    def __init__(self, folder: Path) -> None:
        self.counts = folder / "counts.txt"
        self.file = os.open(str(folder / "job.json"), os.O_RDONLY)

    def instructions(self, call: Callable[[], Any]) -> int:
        """How many instructions from one mark to the next, with `call` between."""
        file, lseek = self.file, os.lseek
        lseek(file, MAGIC, 0)
        call()
        lseek(file, MAGIC, 0)
        before, after = self.counts.read_text().split()[-2:]
        return int(after) - int(before)


def nothing() -> None:
    """What is taken off: a call, and the marks."""


def count(agent: Any, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The instructions per inference of every artifact."""
    results = {}
    counter = Counter(folder)
    gc.disable()
    empty = min(counter.instructions(nothing) for _ in range(5))
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
        found = [found - empty for found in counts]
        result["instructions"] = {
            "per_inference": min(found),
            "counts": found,
            "threads": 1,
        }
    return results


def _counts(counter: Counter, model: Any, feeds: list[Any], job: dict[str, Any]) -> list[int]:
    counts = []
    for number in range(WARM_UP + job.get("runs", 5)):
        model.put(feeds[number % len(feeds)])
        found = counter.instructions(model.invoke)
        if number >= WARM_UP:
            counts.append(found)
        model.take()
    return counts


def main(folder: Path) -> None:
    """Does the job in `folder`, and writes the report as the agent would."""
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
