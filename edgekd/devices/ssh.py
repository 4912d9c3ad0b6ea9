"""A board by ssh: ssh://user@host[:port][?python=PATH&folder=PATH&providers=NAMES&trtexec=PATH].

Python is that of `edgekd devices setup ssh://...`, or python3; the job lies in a new folder below
/tmp. On a Jetson, ONNX Runtime may compute by providers of its GPU, or TensorRT's own `trtexec` do
the work in place of a Python runtime.

Whatever ends the connection ends the job there; a connection that broke is made again and its job,
which is one process of a measurement, is done again, three times at most.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from edgekd.devices.on_device import ON_DEVICE
from edgekd.devices.transport.openssh import FULL, Connection, connected, fault
from edgekd.devices.transport.reconnect import persistently
from edgekd.devices.transport.url import parse_options
from edgekd.devices.vendor_tools import trtexec
from edgekd.errors import ConversionError, Fault, RecipeError, UnreachableError
from edgekd.system.process import Completed

KEEPER = ON_DEVICE / "supervisor.py"
VENV = "$HOME/.cache/edgekd/venv"
"""Of the board, where setup puts a runtime."""
GRACE_S = 30.0
"""After which the host gives up, where the keeper there has not."""
OPTIONS = {
    "python": "PATH there",
    "folder": "PATH there, where jobs may lie",
    "providers": "tensorrt, cuda or both: tensorrt,cuda",
    "trtexec": "PATH there, such as /usr/src/tensorrt/bin/trtexec",
}
TIME_IS_UP, NOT_WHOLE, NO_PROGRAM = 124, 125, 127
"""What the keeper exits with; see there."""


def run_agent(url: str, folder: Path, *, timeout_s: float) -> None:
    """Does the job in `folder`; see `Device`."""
    asked = parse_options(url, OPTIONS)
    job = json.loads((folder / "job.json").read_text())
    if "providers" in asked:
        (folder / "job.json").write_text(json.dumps({**job, **_providers(url, asked["providers"])}))
    work = "trtexec" if "trtexec" in asked else "agent"
    if work == "trtexec":
        trtexec.prepare(url, folder, job, asked["trtexec"])
    program = {"agent": ["agent.py", "."], "trtexec": ["trtexec_driver.py", "."]}[work]
    wanted = {"agent": r"report\.json|outputs-[A-Za-z0-9_.-]+\.npz", "trtexec": trtexec.MADE}[work]

    def attempt() -> None:
        with connected(url) as board, board.folder(asked.get("folder", "/tmp")) as place:
            files = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
            board.send({**files, "keeper.py": KEEPER}, place, timeout_s=timeout_s)
            done = keep(board, place, asked.get("python"), program, timeout_s)
            wants = asked.get("trtexec") or asked.get("python", "python3")
            check(url, done, wants, timeout_s)
            for name, data in board.fetch(wanted, place, timeout_s=timeout_s).items():
                (folder / name).write_bytes(data)

    persistently(attempt)
    if work == "trtexec":
        trtexec.conclude(url, folder, job)


def _providers(url: str, names: str) -> dict[str, list[str]]:
    """What of the job says by what ONNX Runtime is to compute, the first of them first."""
    known = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider"}
    wanted = names.split(",")
    if set(wanted) - set(known):
        raise RecipeError(
            Fault(
                what="The device's URL names a provider that is not known.",
                at=f"device = {url!r}",
                got=f"providers={names}",
                expected=OPTIONS["providers"],
                fix="?providers=tensorrt,cuda",
            )
        )
    return {"providers": [known[name] for name in wanted]}


def keep(
    board: Connection, place: str, python: str | None, program: list[str], timeout_s: float
) -> Completed:
    """How `program` of Python ended in `place`, where it was put; see the keeper.

    Raises:
        Dropped: the connection broke.
    """
    words = shlex.join([f"{place}/keeper.py", place, f"{timeout_s:.3f}", "held"])
    command = f'{choice_of(python)}; "$python" {words} "$python" {shlex.join(program)}'
    return board.run(command, timeout_s=timeout_s + GRACE_S, hold_stdin=True)


def choice_of(python: str | None) -> str:
    """A line of shell that names the Python to run: `python`, that of setup, or the system's."""
    if python is not None:
        return f"python={shlex.quote(python)}"
    return f'python="{VENV}/bin/python"; [ -x "$python" ] || python=python3'


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def check(url: str, done: Completed, program: str, timeout_s: float) -> None:
    """Raises what it means that the job ended so, unless it ended well."""
    if done.code == 0:
        return
    if done.code == NO_PROGRAM:
        raise UnreachableError(fault(url, done.last_lines, f"a program {program!r} there"))
    if done.code == NOT_WHOLE or FULL in done.stderr:
        raise UnreachableError(fault(url, done.last_lines, "files as they were sent"))
    late = done.code in (None, TIME_IS_UP)
    ended = f"past {timeout_s:.0f} s" if late else f"exit status {done.code}"
    raise ConversionError(
        Fault(
            what="The agent did not finish on the device.",
            at=url,
            got=f"{ended}: {done.last_lines}",
            expected="a report from the agent",
            fix="run the artifact there by hand; another scheme may do",
        )
    )
