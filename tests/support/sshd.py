"""A fake board: a real OpenSSH server on loopback, with key authentication and this Python.

Root is needed only for a board with a full disk, which gets a small tmpfs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.skips import need_program

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile {folder}/pid
UsePAM no
PasswordAuthentication no
StrictModes no
LogLevel VERBOSE
{more}
"""


@dataclass(frozen=True)
class Board:
    """A server; `folder`/bin has a wrapper of ssh, which calls the system's `client`."""

    port: int
    folder: Path
    server: subprocess.Popen[bytes]
    client: str

    @property
    def url(self) -> str:
        return self.with_python(sys.executable)

    def with_python(self, python: str | Path) -> str:
        return f"{self.bare}&python={python}"

    @property
    def bare(self) -> str:
        """Its URL without a Python."""
        return f"ssh://127.0.0.1:{self.port}?folder={self.jobs}"

    @property
    def jobs(self) -> Path:
        """The parent folder of its jobs."""
        return self.folder / "jobs"

    @property
    def clean(self) -> bool:
        """Whether no job is left, within a few seconds."""
        deadline = time.monotonic() + 15
        while any(self.jobs.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return not any(self.jobs.iterdir())

    @property
    def connections(self) -> int:
        """The number of connections so far."""
        return (self.folder / "log").read_text().count("Accepted publickey")

    def cut(self) -> None:
        """End every connection, as pulling the cable does."""
        for number in children(self.server.pid):
            os.kill(number, signal.SIGKILL)

    def program(self, name: str, text: str) -> Path:
        """A shell script on the board."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path


def children(number: int) -> list[int]:
    """The child processes of the process `number`."""
    numbers = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text()
        except OSError:  # It has ended.
            continue
        if int(stat.rpartition(")")[2].split()[1]) == number:
            numbers.append(int(entry.name))
    return numbers


def gone(number: int) -> bool:
    """Whether the process has ended, within a few seconds."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            if "State:\tZ" in Path(f"/proc/{number}/status").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@contextmanager
def served(folder: Path, more: str = "") -> Iterator[Board]:
    """A board that listens until the end of the block, with `more` lines of sshd configuration.

    Put `folder`/bin before PATH: its wrapper of ssh stands for the user's own configuration.
    """
    sshd = need_program("sshd", "/usr/sbin")
    ssh = need_program("ssh")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("host", "key"):
        command = [need_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f"]
        subprocess.run([*command, str(folder / name)], check=True)
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder, more=more))
    host = (folder / "host.pub").read_text().split()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host[0]} {host[1]}\n")
    Path("/run/sshd").mkdir(parents=True, exist_ok=True)
    (folder / "jobs").mkdir()
    log = str(folder / "log")
    server = subprocess.Popen([sshd, "-D", "-f", str(folder / "config"), "-E", log])
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(
        "#!/bin/sh\n"
        f"exec {ssh} -F none -i {folder}/key -o IdentitiesOnly=yes "
        f'-o UserKnownHostsFile={folder}/known "$@"\n'
    )
    wrapper.chmod(0o755)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    try:
        yield Board(port, folder, server, ssh)
    finally:
        server.terminate()
        server.wait()
