"""A board over ssh: ssh://user@host[:port][?python=PATH&folder=PATH&providers=NAMES&trtexec=PATH].

The job runs in a new folder below /tmp, in the Python of `edgekd devices setup ssh://...` or else
in python3. On a Jetson, ONNX Runtime can use the GPU's execution providers, or TensorRT's `trtexec`
can replace a Python runtime.

The job ends with the connection, however that ends. After a broken connection, the job, which is
one process of a measurement, is retried, three times at most.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from edgekd.devices.on_device import ON_DEVICE
from edgekd.devices.transport.openssh import FULL, Connection, connected, fault, host_args
from edgekd.devices.transport.reconnect import retry
from edgekd.devices.transport.url import parse_options
from edgekd.devices.vendor_tools import trtexec
from edgekd.errors import ConversionError, Fault, RecipeError, UnreachableError
from edgekd.system.process import Completed

SUPERVISOR = ON_DEVICE / "supervisor.py"
SUPERVISOR_NAME = "keeper.py"
"""Its name on the board, until the agent's version changes."""
VENV = "$HOME/.cache/edgekd/venv"
"""The environment on the board that setup installs a runtime into."""
GRACE_S = 30.0
"""Time that the host waits beyond the supervisor's limit."""
OPTIONS = {
    "python": "PATH there",
    "folder": "PATH there, for the folders of jobs",
    "providers": "tensorrt, cuda or both: tensorrt,cuda",
    "trtexec": "PATH there, such as /usr/src/tensorrt/bin/trtexec",
}
TIMED_OUT, NOT_INTACT, NO_PROGRAM = 124, 125, 127
"""Exit statuses of the supervisor."""


def run_agent(url: str, folder: Path, *, timeout_s: float) -> None:
    """Run the job in `folder`; see `Device`."""
    options = parse_options(url, OPTIONS)
    job = json.loads((folder / "job.json").read_text())
    if "providers" in options:
        providers = _providers(url, options["providers"])
        (folder / "job.json").write_text(json.dumps({**job, "providers": providers}))
    if "trtexec" in options:
        trtexec.prepare(url, folder, job, options["trtexec"])
        program, results = "trtexec_driver.py", trtexec.RESULTS
    else:
        program, results = "agent.py", r"report\.json|outputs-[A-Za-z0-9_.-]+\.npz"
    required = options.get("trtexec") or options.get("python", "python3")

    def attempt() -> None:
        with connected(url) as board, board.folder(options.get("folder", "/tmp")) as remote:
            files = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
            board.send({**files, SUPERVISOR_NAME: SUPERVISOR}, remote, timeout_s=timeout_s)
            done = supervise(board, remote, options.get("python"), [program, "."], timeout_s)
            check(url, done, required, timeout_s)
            for name, data in board.fetch(results, remote, timeout_s=timeout_s).items():
                (folder / name).write_bytes(data)

    retry(attempt)
    if "trtexec" in options:
        trtexec.conclude(url, folder, job)


def check_url(url: str) -> None:
    """Refuse a URL that names no host; see `Device`."""
    host_args(url)


def _providers(url: str, names: str) -> list[str]:
    """ONNX Runtime's names of the execution providers in the URL, the preferred one first."""
    known = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider"}
    wanted = names.split(",")
    if set(wanted) - set(known):
        raise RecipeError(
            Fault(
                what="The device's URL names an unknown execution provider.",
                at=f"device = {url!r}",
                got=f"providers={names}",
                expected=OPTIONS["providers"],
                fix="?providers=tensorrt,cuda",
            )
        )
    return [known[name] for name in wanted]


def supervise(
    board: Connection, remote: str, python: str | None, args: list[str], timeout_s: float
) -> Completed:
    """The finished Python process of `args`, run by the supervisor in the folder `remote`.

    Raises:
        ConnectionLostError: the connection broke.
    """
    supervisor = shlex.join([f"{remote}/{SUPERVISOR_NAME}", remote, f"{timeout_s:.3f}", "held"])
    command = f'{choose_python(python)}; "$python" {supervisor} "$python" {shlex.join(args)}'
    return board.run(command, timeout_s=timeout_s + GRACE_S, hold_stdin=True)


def choose_python(python: str | None) -> str:
    """A shell line that sets $python: to `python`, or else to that of setup or of the system."""
    if python is not None:
        return f"python={shlex.quote(python)}"
    return f'python="{VENV}/bin/python"; [ -x "$python" ] || python=python3'


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def check(url: str, done: Completed, program: str, timeout_s: float) -> None:
    """Raise the error that the exit status of the job stands for, if it failed."""
    if done.code == 0:
        return
    if done.code == NO_PROGRAM:
        raise UnreachableError(fault(url, done.last_lines, f"a program {program!r} there"))
    if done.code == NOT_INTACT or FULL in done.stderr:
        raise UnreachableError(fault(url, done.last_lines, "files as they were sent"))
    late = done.code in (None, TIMED_OUT)
    ended = f"timed out after {timeout_s:.0f} s" if late else f"exit status {done.code}"
    raise ConversionError(
        Fault(
            what="The agent did not finish on the device.",
            at=url,
            got=f"{ended}: {done.last_lines}",
            expected="a report from the agent",
            fix="run the artifact there by hand, or try another scheme",
        )
    )
