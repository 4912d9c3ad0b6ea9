"""A phone reached by the user's own adb: adb://SERIAL, or adb:// for the only one.

The environment of adb holds: ANDROID_SERIAL, ANDROID_ADB_SERVER_PORT, ADB_SERVER_SOCKET and the
like. The agent runs where the phone has a Python that the shell's user may start (?python=PATH);
without one, a `benchmark_model` for it can be named (?benchmark_model=PATH, on this host), which
tells a summary of its own. Both are pinned by taskset to the cores of a mask (?cores=f0), or to
the fastest ones (?cores=big).

Nothing is timed on a phone whose battery is low or that is hot; a hot one is waited for (?cool_s=).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from edgekd.devices.on_device import ON_DEVICE
from edgekd.devices.transport.adb_shell import (
    NO_PROGRAM,
    NOT_WHOLE,
    OPTIONS,
    Shell,
    at_place,
    died,
    fault_of,
    prepare,
    said,
    sha_of,
    start,
)
from edgekd.devices.transport.reconnect import persistently
from edgekd.devices.transport.url import parse_options
from edgekd.devices.vendor_tools import benchmark_model_job as phone_tool
from edgekd.errors import ConversionError, UnreachableError
from edgekd.system.process import Completed

KEEPER = ON_DEVICE / "supervisor.py"
GRACE_S = 30.0
"""After which the host gives up, where the keeper there has not."""


def run_agent(url: str, folder: Path, *, timeout_s: float) -> None:
    """Does the job in `folder`; see `Device`."""
    asked = parse_options(url, OPTIONS)
    job = json.loads((folder / "job.json").read_text())
    if "benchmark_model" in asked:
        phone_tool.do_job(url, folder, job, timeout_s=timeout_s)
        return
    sent = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    tops = sorted({name.partition("/")[0] for name in sent} | {"files.json"})
    digests = {name: sha_of(path) for name, path in sent.items()}
    (folder / "files.json").write_text(json.dumps(digests))
    files = [*(str(folder / name) for name in tops), str(KEEPER)]
    places: list[str] = []

    def attempt() -> None:
        with at_place(url, places) as (shell, place):
            pinned = prepare(shell, asked, job)
            shell.must("adb push", shell.adb("push", *files, place, timeout_s=timeout_s))
            python = asked.get("python", "python3")
            keeper = ["keeper.py", ".", f"{timeout_s:.3f}", "alone", *pinned]
            done = start(
                shell, place, [python, *keeper, python, "agent.py", "."], timeout_s + GRACE_S
            )
            _check(url, done, python, timeout_s)
            _pull(shell, place, folder, timeout_s)

    persistently(attempt)


def _check(url: str, done: Completed, program: str, timeout_s: float) -> None:
    """Raises what it means that the job ended so, unless it ended well."""
    if done.code == 0:
        return
    told = said(done)
    if done.code == NO_PROGRAM:
        raise UnreachableError(fault_of(url, told, f"a program {program!r} there"))
    if done.code == NOT_WHOLE or "No space left on device" in told:
        raise UnreachableError(fault_of(url, told, "files as they were sent, and room for more"))
    raise ConversionError(died(url, "The agent", done, timeout_s))


def _pull(shell: Shell, place: str, folder: Path, timeout_s: float) -> None:
    """Takes the report and the outputs, and nothing else, whatever the phone has."""
    names = shell.must("ls", shell.run(f"ls {place}")).stdout.decode(errors="replace").split()
    wanted = [name for name in names if re.fullmatch(r"report\.json|outputs-[\w.-]+\.npz", name)]
    for name in ["made.json", *wanted]:
        pulled = shell.adb("pull", f"{place}/{name}", str(folder / name), timeout_s=timeout_s)
        shell.must("adb pull", pulled)
    made = json.loads((folder / "made.json").read_text())
    for name in wanted:
        if made.get(name) != sha_of(folder / name):
            raise UnreachableError(
                fault_of(shell.url, f"{name} differs here", "the file as it was on the phone")
            )
