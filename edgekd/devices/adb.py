"""A phone over the user's own adb: adb://SERIAL, or adb:// for the only one.

adb's environment applies: ANDROID_SERIAL, ANDROID_ADB_SERVER_PORT, ADB_SERVER_SOCKET and others.
The agent runs if the phone has a Python that the shell's user may start (?python=PATH). Without
Python, a `benchmark_model` on this host can be sent instead (?benchmark_model=PATH); it reports a
summary, not samples. Both can be pinned by taskset to the cores of a mask (?cores=f0), or to the
fastest cores (?cores=big).

Nothing is measured on a phone that is hot or whose battery is low; a hot phone is given time to
cool (?cool_s=).
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from edgekd.devices.on_device import ON_DEVICE
from edgekd.devices.reply_values import MisfitError, as_object, read_json
from edgekd.devices.transport.adb_shell import (
    NO_PROGRAM,
    NOT_INTACT,
    OPTIONS,
    Shell,
    error_text,
    fault_of,
    opened_folder,
    prepare,
    serial_of,
    sha256_of,
    start,
    unfinished,
)
from edgekd.devices.transport.reconnect import retry
from edgekd.devices.transport.url import parse_options
from edgekd.devices.vendor_tools import benchmark_model_job
from edgekd.errors import ConversionError, UnreachableError
from edgekd.system.process import Completed

SUPERVISOR = ON_DEVICE / "supervisor.py"
SUPERVISOR_NAME = "keeper.py"
"""Its name on the phone, until the agent's version changes."""
GRACE_S = 30.0
"""Time that the host waits beyond the supervisor's limit."""


def run_agent(url: str, folder: Path, *, timeout_s: float) -> None:
    """Run the job in `folder`; see `Device`."""
    options = parse_options(url, OPTIONS)
    job = json.loads((folder / "job.json").read_text())
    if "benchmark_model" in options:
        benchmark_model_job.run_job(url, folder, job, timeout_s=timeout_s)
        return
    sent = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    top_level = sorted({name.partition("/")[0] for name in sent} | {"files.json"})
    digests = {name: sha256_of(path) for name, path in sent.items()}
    (folder / "files.json").write_text(json.dumps(digests))
    shutil.copyfile(SUPERVISOR, folder / SUPERVISOR_NAME)
    pushed = [str(folder / name) for name in [*top_level, SUPERVISOR_NAME]]
    leftovers: list[str] = []

    def attempt() -> None:
        with opened_folder(url, leftovers) as (shell, remote):
            pinning = prepare(shell, options, job)
            shell.must("adb push", shell.adb("push", *pushed, remote, timeout_s=timeout_s))
            python = options.get("python", "python3")
            argv = [python, SUPERVISOR_NAME, ".", f"{timeout_s:.3f}", "alone", *pinning]
            done = start(shell, remote, [*argv, python, "agent.py", "."], timeout_s + GRACE_S)
            _check(url, done, python, timeout_s)
            _pull(shell, remote, folder, timeout_s)

    retry(attempt)


def check_url(url: str) -> None:
    """Refuse a URL whose serial adb cannot know; see `Device`."""
    serial_of(url)


def _check(url: str, done: Completed, program: str, timeout_s: float) -> None:
    """Raise the error that the exit status of the job stands for, if it failed."""
    if done.code == 0:
        return
    text = error_text(done)
    if done.code == NO_PROGRAM:
        raise UnreachableError(fault_of(url, text, f"a program {program!r} there"))
    if done.code == NOT_INTACT or "No space left on device" in text:
        raise UnreachableError(fault_of(url, text, "files as they were sent, and free space"))
    raise ConversionError(unfinished(url, "The agent", done, timeout_s))


def _pull(shell: Shell, remote: str, folder: Path, timeout_s: float) -> None:
    """Copy the report and the outputs from the phone, and no other file."""
    names = shell.must("ls", shell.run(f"ls {remote}")).stdout.decode(errors="replace").split()
    wanted = [name for name in names if re.fullmatch(r"report\.json|outputs-[\w.-]+\.npz", name)]
    for name in ["made.json", *wanted]:
        pulled = shell.adb("pull", f"{remote}/{name}", str(folder / name), timeout_s=timeout_s)
        shell.must("adb pull", pulled)
    expected = "the file as it was on the phone"
    try:
        digests = as_object(read_json(folder / "made.json"), "made.json")
        changed = [name for name in wanted if digests.get(name) != sha256_of(folder / name)]
    except (MisfitError, OSError) as error:
        raise UnreachableError(fault_of(shell.url, str(error), expected)) from error
    if changed:
        raise UnreachableError(fault_of(shell.url, f"{changed[0]} differs here", expected))
