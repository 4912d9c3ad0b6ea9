"""A board by ssh: a real OpenSSH server on loopback, key authentication, this Python on it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from models import TRAPS
from needs import need_modules, need_program

import edgekd
from edgekd.errors import UnreachableError

pytestmark = pytest.mark.converter

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile {folder}/pid
UsePAM no
PasswordAuthentication no
StrictModes no
"""


@dataclass(frozen=True)
class Board:
    """A server and the options its user would have in ~/.ssh/config."""

    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"ssh://127.0.0.1:{self.port}?python={sys.executable}"


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    sshd = need_program("sshd", "/usr/sbin")
    need_program("ssh")
    need_program("ssh-keygen")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("host", "key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    (tmp_path / "config").write_text(CONFIG.format(port=port, folder=tmp_path))
    host = (tmp_path / "host.pub").read_text().split()
    (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {host[0]} {host[1]}\n")
    Path("/run/sshd").mkdir(parents=True, exist_ok=True)
    log = str(tmp_path / "log")
    server = subprocess.Popen([sshd, "-D", "-f", str(tmp_path / "config"), "-E", log])
    # The device takes the system's ssh with the user's own configuration: a wrapper stands for it.
    wrapper = tmp_path / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(
        "#!/bin/sh\n"
        f"exec /usr/bin/ssh -F none -i {tmp_path}/key -o IdentitiesOnly=yes "
        f'-o UserKnownHostsFile={tmp_path}/known "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield Board(port, tmp_path)
    server.terminate()
    server.wait()


def exported(tmp_path: Path) -> tuple[edgekd.Network, edgekd.Artifact]:
    need_modules("onnx", "onnxscript", "onnxruntime")
    trap = TRAPS["signal"]
    example = trap.draw(1, torch.Generator().manual_seed(0))
    network = edgekd.load_network(trap.build(), example=example)
    return network, edgekd.export(network, format="onnx", out=tmp_path / "build")


def leftovers() -> set[Path]:
    return set(Path("/tmp").glob("edgekd.*"))


def test_a_board_runs_and_times_an_artifact_and_is_left_clean(board: Board, tmp_path: Path) -> None:
    network, artifact = exported(tmp_path)
    dice = torch.Generator().manual_seed(1)
    samples = [TRAPS["signal"].draw(1, dice) for _ in range(16)]
    before = leftovers()
    there = edgekd.verify(artifact, network, samples, device=board.url)
    here = edgekd.verify(artifact, network, samples)
    assert there.outcome is edgekd.Outcome.PASSED
    assert there.evidence == "device"
    assert there.max_abs_error == here.max_abs_error, (
        "the very same runtime gave the very same bits"
    )
    measured = edgekd.benchmark(artifact, device=board.url)
    assert len(measured.samples_ms) >= 600
    assert measured.device["processor"]
    assert leftovers() == before


def test_a_missing_python_and_a_missing_runtime_are_told(board: Board, tmp_path: Path) -> None:
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
        with pytest.raises(UnreachableError, match="no host"):
            edgekd.verify(artifact, network, samples, device=url)
    evil = f"ssh://127.0.0.1:{board.port}?python=touch%20{tmp_path}/evil;"
    with pytest.raises(edgekd.EdgekdError):
        edgekd.verify(artifact, network, samples, device=evil)
    assert not (tmp_path / "evil").exists()
