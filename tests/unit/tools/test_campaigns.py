"""The campaigns: their tables, what they count as a failure, and how they find processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[3] / "tools"


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


@pytest.fixture
def kills() -> Any:
    return import_module("kill_campaign")


def cycle(kills: Any, **changed: Any) -> Any:
    usual = kills.Cycle("train", 0.5, True, 0, [], [], [], 1.0)
    return replace(usual, **changed)


def test_kills_take_turns_over_the_stages_and_follow_the_seed(kills: Any) -> None:
    moments = list(kills.moments(14, seed=3))
    assert [stage for stage, _ in moments] == 2 * list(kills.STAGES)
    assert all(0 <= frac < 1 for _, frac in moments)
    assert moments == list(kills.moments(14, seed=3))
    assert moments != list(kills.moments(14, seed=4))


def test_the_recipe_of_the_kills_is_valid(kills: Any, tmp_path: Path) -> None:
    from edgekd.pipeline.plan import check

    plan = check(kills.write_project(tmp_path, kills.recipe()), [])
    assert [row.scheme for row in plan.candidates] == ["fp32", "int8"]


@pytest.mark.parametrize(
    "changed",
    [
        {"exit_code": 1},
        {"differing": ["rows"]},
        {"processes_left": ["python agent.py"]},
        {"files_left": ["edgekd-1-abcdefgh"]},
    ],
    ids=["exit code", "digest", "process", "file"],
)
def test_a_cycle_fails_for_each_of_its_reasons(kills: Any, changed: dict[str, Any]) -> None:
    assert cycle(kills).passed
    assert cycle(kills, exit_code=9).passed
    assert not cycle(kills, **changed).passed


def test_the_table_counts_each_stage_and_only_kills(kills: Any) -> None:
    cycles = [
        cycle(kills),
        cycle(kills, differing=["rows"]),
        cycle(kills, stage="export", processes_left=["python"]),
        cycle(kills, stage="export", killed=False),
    ]
    lines = {line.split()[0]: line.split()[1:] for line in kills.table(cycles).splitlines()}
    assert lines["train"] == ["2", "2", "1", "0", "0"]
    assert lines["export"] == ["1", "1", "0", "1", "0"]
    assert lines["all"] == ["3", "3", "1", "1", "0"]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_processes_are_found_and_ended_by_their_marker(kills: Any) -> None:
    marker = "a-marker-of-this-test"
    code = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, kills.MARKER: marker}
    )
    try:
        for _ in range(200):
            if len(kills.alive(marker)) == 2:
                break
            time.sleep(0.05)
        assert len(kills.alive(marker)) == 2
    finally:
        kills.end(marker)
    assert process.wait(10) == -signal.SIGKILL
    assert kills.left_after_grace(marker) == []


def test_at_least_sixty_faults_have_names_codes_and_limits() -> None:
    faults = import_module("_faults").FAULTS
    assert len(faults) >= 60
    kinds = {name.split()[0] for name in faults}
    assert {"device", "converter", "store", "disk", "recipe", "archive", "url", "card"} <= kinds
    for name, fault in faults.items():
        assert fault.codes, name
        assert 1 not in fault.codes, name
        assert 0 < fault.limit_s <= 60, name


def test_each_mode_of_the_table_is_one_of_the_faulty_package(tmp_path: Path) -> None:
    package = import_module("_faulty_package")
    package.install(tmp_path)
    for name in import_module("_faults").FAULTS:
        kind, _, mode = name.partition(" ")
        if kind == "device":
            assert f'"{mode}"' in package.DEVICE, name
        if kind == "converter":
            assert f'"{mode}"' in package.FORMAT, name
    for file in ("faulty_device.py", "faulty_format.py", "faulty_runtime.py"):
        compile((tmp_path / file).read_text(), file, "exec")


def test_the_campaign_names_what_differs_from_the_table() -> None:
    campaign, faults = import_module("fault_campaign"), import_module("_faults")
    fault = faults.InjectedFault(lambda case: [], (5,), contains="board", limit_s=10.0)  # noqa: ARG005
    right = "the board\n  at:       x\n  got:      x\n  expected: x\n  fix:      x\n"
    assert campaign.problems_of(fault, 5, right, 1.0, 1.0) == []
    assert campaign.problems_of(fault, 5, right, 15.0, 2.0) == []
    found = campaign.problems_of(fault, 1, "\x1b[2J Traceback (most recent call last):", 15.0, 1.0)
    assert len(found) == 6
    assert found[0] == "exit code 1, not 5"


def test_an_unknown_fault_is_refused_with_the_known_names() -> None:
    done = subprocess.run(
        [sys.executable, TOOLS / "fault_campaign.py", "--only", "nothing"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "device not-json" in done.stderr
