"""A Jetson over ssh: a real server, the real supervisor and driver, and a fake trtexec.

There is no Jetson here. The tests show that files, arguments, latencies, outputs and power travel
correctly, not that TensorRT behaves as its sources say.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import edgekd
from edgekd.devices.job import Job, run_job
from edgekd.errors import RefusedError, UnreachableError
from edgekd.recipe.benchmark import THOROUGH
from tests.support.models import TRAPS
from tests.support.project import assert_five_parts
from tests.support.skips import need_modules
from tests.support.sshd import Board, served

pytestmark = pytest.mark.converter

STATS = (
    "RAM 2448/7620MB (lfb 6x4MB) SWAP 0/3810MB (cached 0MB) CPU [1%@729,off] GR3D_FREQ 55% "
    "cpu@48.2C VDD_IN 5000mW/4900mW VDD_CPU_GPU_CV 600mW/600mW VDD_SOC 1500mW/1500mW"
)


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    need_modules("onnx", "onnxscript", "onnxruntime")
    there = tmp_path / "there"
    there.mkdir()
    more = f"SetEnv PATH={there}:{os.environ['PATH']} HOME={tmp_path}"
    with served(tmp_path, more) as board:
        monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
        trtexec = Path(__file__).parents[1] / "support" / "trtexec.py"
        board.program("there/trtexec", f'exec {sys.executable} {trtexec} "$@"')
        board.program("there/tegrastats", f"while echo '{STATS}'; do sleep 0.1; done")
        board.program("there/nvpmodel", "echo 'NV Power Mode: 15W'; echo 0")
        yield board


def url_of(board: Board) -> str:
    return f"{board.url}&trtexec={board.folder}/there/trtexec"


@pytest.fixture
def network() -> edgekd.Network:
    trap = TRAPS["signal"]
    return edgekd.load_network(trap.build(), example=trap.draw(1, torch.Generator().manual_seed(0)))


def test_a_jetson_times_an_artifact_and_reports_its_energy(
    jetson: Board, network: edgekd.Network, tmp_path: Path
) -> None:
    artifact = edgekd.export(network, format="onnx", out=tmp_path / "build")
    short = replace(THOROUGH, seconds=0.5)
    inputs = TRAPS["signal"].draw(8, torch.Generator().manual_seed(1))
    measured = edgekd.benchmark(artifact, device=url_of(jetson), inputs=inputs, protocol=short)
    assert len(measured.samples_ns) == 3
    assert all(len(process) >= 200 for process in measured.samples_ns)
    assert (measured.init_ms, measured.peak_memory_bytes) == (25.0, None)
    runtime = measured.device["runtime"]
    assert (runtime["runtime"], runtime["version"]) == ("tensorrt", "10.3.0")
    assert (runtime["power_mw"], runtime["power_rails"]) == (5000, "VDD_IN")
    # 5 W for the duration of an inference; the fake trtexec also sleeps.
    mean_ms = np.mean(measured.samples_ms)
    assert runtime["energy_mj"] > 5 * 0.5 * mean_ms
    assert measured.device["nvpmodel"].startswith("NV Power Mode: 15W")
    assert jetson.clean


def test_the_agent_on_a_jetson_reports_the_energy_too(
    jetson: Board, network: edgekd.Network, tmp_path: Path
) -> None:
    artifact = edgekd.export(network, format="onnx", out=tmp_path / "build")
    short = replace(THOROUGH, processes=1, seconds=1.5)
    measured = edgekd.benchmark(artifact, device=jetson.url, protocol=short)
    assert (measured.device["module_power_mw"], measured.device["power_rails"]) == (5000, "VDD_IN")
    assert measured.device["energy_mj"] == pytest.approx(5 * np.mean(measured.samples_ms))


def test_a_jetson_runs_every_sample(jetson: Board, network: edgekd.Network, tmp_path: Path) -> None:
    artifact = edgekd.export(network, format="onnx", out=tmp_path / "build")
    generator = torch.Generator().manual_seed(1)
    samples = [TRAPS["signal"].draw(1, generator) for _ in range(3)]
    there = edgekd.verify(artifact, network, samples, device=url_of(jetson))
    assert there.outcome is edgekd.Outcome.PASSED
    assert there.sample_count == 3
    assert there.runtime["runtime"] == "tensorrt"


def test_a_failure_of_trtexec_is_an_outcome(
    jetson: Board, network: edgekd.Network, tmp_path: Path
) -> None:
    artifact = edgekd.export(network, format="onnx", out=tmp_path / "build")
    job = Job("run", "litert", {"it": artifact.path}, 1, {"it": 1})
    with pytest.raises(RefusedError, match="TensorRT cannot take") as stop:
        run_job(url_of(jetson), job)
    assert_five_parts(str(stop.value))
    job = replace(job, runtime="onnxruntime")
    with pytest.raises(UnreachableError, match="/no/trtexec") as none:
        run_job(f"{jetson.url}&trtexec=/no/trtexec", job)
    assert_five_parts(str(none.value))
    jetson.program("there/trtexec", "echo '[E] Error[2]: no kernel for this node'; exit 1")
    failure = run_job(url_of(jetson), job).results["it"]["failure"]
    assert failure["outcome"] == "load-failed"
    assert "no kernel for this node" in failure["detail"]
