"""Random damage to a device's reply: the reader returns typed results, whatever the reply holds."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.devices.job import failure_in
from edgekd.devices.report import read_report
from edgekd.devices.telemetry import condition
from edgekd.errors import UnreachableError

RESULT = {"failure": None, "inputs": [["x", [1, None, "n"], "float"]], "outputs": ["y"],
          "facts": {"runtime": "r", "nodes": {"cpu": 3}}, "import_ns": 1, "init_ns": 2,
          "first_ns": 3, "settled": True, "warm_up_count": 10, "blocks_ns": [[5, 6], [7]],
          "instructions": {"per_inference": 900}}  # fmt: skip
READING = {"at_s": 0.1, "load_average": 0.3, "cpu": 1, "texts": {"files": "", "vcgencmd": "x"}}
REPLY = {"version": 3, "results": {"a": RESULT, "b": RESULT}, "readings": [READING, READING],
         "device": {"machine": "arm64", "processor": "A76", "cpu_count": 4},
         "peak_memory_bytes": 1000, "start_ns": None}  # fmt: skip
VALUES: list[Any] = [
    None, True, -1, 0, 2.5, 10**30, float("nan"), float("-inf"), "", "x\x1b[2J", "9" * 3000, [],
    [[]], [None, 1], {}, {"a": {}}, {"outcome": "passed", "detail": ""},
    {"outcome": "run-failed", "detail": "why"},
]  # fmt: skip


def damaged(generator: random.Random) -> Any:
    """The reply with one to three values replaced, removed or added."""
    reply: Any = copy.deepcopy(REPLY)
    for _ in range(generator.randint(1, 3)):
        at = reply
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = generator.choice(keys)
            if isinstance(at[key], dict | list) and generator.random() < 0.8:
                at = at[key]
                continue
            if generator.random() < 0.2:
                del at[key]
            else:
                at[key] = copy.deepcopy(generator.choice(VALUES))
            break
    return reply


@pytest.mark.parametrize("action", ["run", "time", "count"])
def test_damage_of_a_reply_never_raises_and_never_passes(tmp_path: Path, action: str) -> None:
    generator = random.Random(0)
    for name in ("a", "b"):
        np.savez(tmp_path / f"outputs-{name}.npz", y=np.ones((2, 3), np.float32))
    failed = 0
    for _ in range(1500):
        reply = damaged(generator)
        (tmp_path / "report.json").write_text(json.dumps(reply))
        try:
            report = read_report("x://y", tmp_path, action, ["a", "b"])
        except UnreachableError:
            assert reply.get("version") != 3 or reply["version"] is True
            continue
        for name in ("a", "b"):
            result = report.results[name]
            verdict = failure_in(result)
            failed += verdict is not None
            if verdict is not None:
                assert verdict.outcome.value != "passed"
                assert "\x1b" not in verdict.detail
            elif action == "time":
                assert all(ns > 0 for block in result["blocks_ns"] for ns in block)
            elif action == "count":
                assert result["instructions"]["per_inference"] > 0
            else:
                assert list(report.outputs[name]) == ["y"]
        for reading in report.readings:
            json.dumps(condition.read(reading).to_json(), allow_nan=False)
        json.dumps(dict(report.device), allow_nan=False)
    assert failed > 100, "most of the damage is seen"


def test_a_good_reply_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(REPLY))
    report = read_report("x://y", tmp_path, "time", ["a", "b"])
    assert report.results["a"]["blocks_ns"] == [[5, 6], [7]]
    assert report.results["a"]["facts"] == RESULT["facts"]
    assert report.device == REPLY["device"]
    assert [reading["cpu"] for reading in report.readings] == [1, 1]
