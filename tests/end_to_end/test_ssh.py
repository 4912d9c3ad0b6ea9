"""A board over ssh: a real OpenSSH server on loopback, with this Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import edgekd
from edgekd.devices.job import Job, run_job
from edgekd.errors import UnreachableError
from edgekd.recipe.benchmark import THOROUGH
from tests.support.models import TRAPS
from tests.support.skips import need_modules
from tests.support.sshd import Board, served

pytestmark = pytest.mark.converter


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    with served(tmp_path) as found:
        monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
        yield found


def exported(tmp_path: Path) -> tuple[edgekd.Network, edgekd.Artifact]:
    need_modules("onnx", "onnxscript", "onnxruntime")
    trap = TRAPS["signal"]
    example = trap.draw(1, torch.Generator().manual_seed(0))
    network = edgekd.load_network(trap.build(), example=example)
    return network, edgekd.export(network, format="onnx", out=tmp_path / "build")


def test_a_board_runs_and_times_an_artifact_and_is_left_clean(board: Board, tmp_path: Path) -> None:
    network, artifact = exported(tmp_path)
    generator = torch.Generator().manual_seed(1)
    samples = [TRAPS["signal"].draw(1, generator) for _ in range(16)]
    there = edgekd.verify(artifact, network, samples, device=board.url)
    here = edgekd.verify(artifact, network, samples)
    assert there.outcome is edgekd.Outcome.PASSED
    assert there.evidence == "device"
    assert there.max_abs_error == here.max_abs_error, (
        "the very same runtime gave the very same bits"
    )
    short = replace(THOROUGH, seconds=0.2, warm_up_s=0.1)
    measured = edgekd.benchmark(artifact, device=board.url, protocol=short)
    assert measured.process_count == 3
    assert measured.sample_count >= 3 * short.runs
    assert measured.device["processor"]
    assert board.clean


def test_the_users_own_configuration_applies_with_a_jump_host_too(
    board: Board, tmp_path: Path
) -> None:
    ours = f"""
        Host Board jump
            HostName 127.0.0.1
            Port {board.port}
            IdentityFile {tmp_path}/key
            UserKnownHostsFile {tmp_path}/known
        Host Board
            ProxyJump jump
    """
    (tmp_path / "ours").write_text(ours)
    (tmp_path / "bin" / "ssh").write_text(
        f'#!/bin/sh\nexec {board.client} -F {tmp_path}/ours "$@"\n'
    )
    _, artifact = exported(tmp_path)
    job = Job("run", "onnxruntime", {"it": artifact.path}, 1, {"it": 1})
    report = run_job(f"ssh://Board?python={sys.executable}", job)
    assert report.results["it"]["failure"] is None
    assert board.connections == 2, "one to the jump host, and one through it"


def test_a_missing_python_and_a_missing_runtime_are_reported(board: Board, tmp_path: Path) -> None:
    network, artifact = exported(tmp_path)
    samples = [TRAPS["signal"].draw(1, torch.Generator().manual_seed(1))]
    with pytest.raises(UnreachableError, match="a program '/no/python' there"):
        edgekd.verify(
            artifact, network, samples, device=f"ssh://127.0.0.1:{board.port}?python=/no/python"
        )
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises((UnreachableError, edgekd.EdgekdError), match="No module named"):
        edgekd.verify(
            artifact, network, samples, device=f"ssh://127.0.0.1:{board.port}?python={bare}"
        )


def test_an_unknown_host_key_is_never_accepted(board: Board, tmp_path: Path) -> None:
    network, artifact = exported(tmp_path)
    (board.folder / "known").write_text("")
    samples = [TRAPS["signal"].draw(1, torch.Generator().manual_seed(1))]
    with pytest.raises(UnreachableError, match="Host key verification failed"):
        edgekd.verify(artifact, network, samples, device=board.url)


def test_a_url_cannot_smuggle_options_into_ssh(board: Board, tmp_path: Path) -> None:
    network, artifact = exported(tmp_path)
    samples = [TRAPS["signal"].draw(1, torch.Generator().manual_seed(1))]
    for url in ("ssh://-oProxyCommand=touch", "ssh://", "ssh://-x@host"):
        with pytest.raises(edgekd.errors.RecipeError, match="no host"):
            edgekd.verify(artifact, network, samples, device=url)
    evil = f"ssh://127.0.0.1:{board.port}?python=touch%20{tmp_path}/evil;"
    with pytest.raises(edgekd.EdgekdError):
        edgekd.verify(artifact, network, samples, device=evil)
    assert not (tmp_path / "evil").exists()
