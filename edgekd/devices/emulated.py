"""An emulated ARM64 core: emulated://cortex-a76, without a board, root or binfmt.

QEMU's user mode runs the agent with real ARM kernels of the runtimes, so outputs can be judged.
Times of an emulator say nothing of a board, so there are none; what it can count is instructions.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from edgekd.devices.emulation import EMULATION, userland
from edgekd.devices.emulation import setup as userland_setup
from edgekd.errors import (
    ConversionError,
    Fault,
    RecipeError,
    RefusedError,
    UnreachableError,
    listed,
    nearest,
)
from edgekd.system.files import written_atomically
from edgekd.system.process import Completed, run_process

PLUGIN_SOURCE = EMULATION / "insn_count.c"
DRIVER = EMULATION / "instruction_counter.py"
COUNTS = "counts.txt"

setup = userland_setup.setup


def run_agent(url: str, folder: Path, *, timeout_s: float) -> None:
    """Does the job in `folder`; see `Device`.

    Of the actions "run" is the agent's own; "count" gives each result `instructions`: what one
    inference on one thread executes. Nothing that it reports is a time or the memory of a board.

    Raises:
        RecipeError: no such core is emulated.
        RefusedError: the job is to time something.
        UnreachableError: the emulation is not set up.
        ConversionError: the agent did not live to write its report.
    """
    core = core_of(url)
    action = json.loads((folder / "job.json").read_text())["action"]
    if action not in ("run", "count"):
        raise RefusedError(
            Fault(
                what=f"An emulated {core} cannot {action} an artifact.",
                at=f"device {url}",
                got=f"action = {action!r}",
                expected="outputs to compare, or instructions to count: an emulator's clock says "
                "nothing of a board's",
                fix="time it on a board (--device ssh://user@host), or set a budget `instructions`",
            )
        )
    found = userland.find()
    options: list[str] = []
    program = "agent.py"
    if action == "count":
        shutil.copyfile(DRIVER, folder / DRIVER.name)
        program = DRIVER.name
        options = ["-plugin", f"file={_escaped(plugin(found.qemu))},out={COUNTS}"]
    done = run_process(
        found.command(core, [program, "."], options),
        timeout_s=timeout_s,
        cwd=folder,
        env=found.env,
    )
    if done.code != 0 or not (folder / "report.json").exists():
        raise ConversionError(_died(url, done, timeout_s))
    _label(folder, core, found)


def plugin(qemu: userland.Qemu) -> Path:
    """The plugin that counts instructions, compiled for `qemu` if it was not before.

    Raises:
        UnreachableError: that QEMU takes none, or there is no C compiler, or it refused.
    """
    if not qemu.plugins:
        raise UnreachableError(
            _uncounted(
                f"{qemu.program}, version {qemu.version}, was built without plugins",
                "set up with the packages of Debian 12: edgekd devices setup emulated --sources F",
            )
        )
    source = PLUGIN_SOURCE.read_bytes()
    place = userland.cache_folder() / f"insn-count-{userland.key_of(source, qemu.api)}.so"
    if place.exists():
        return place
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        raise UnreachableError(
            _uncounted("no cc, gcc or clang on PATH", "install one: apt-get install gcc libc6-dev")
        )
    with written_atomically(place) as draft:
        argv = [compiler, "-shared", "-fPIC", "-O2", f"-DAPI={qemu.api}", "-o", str(draft)]
        done = run_process([*argv, str(PLUGIN_SOURCE)], timeout_s=120)
        if done.code != 0:
            raise UnreachableError(
                _uncounted(
                    done.last_lines, f"mend the compiler: {compiler} must compile {PLUGIN_SOURCE}"
                )
            )
    return place


def _uncounted(got: str, fix: str) -> Fault:
    return Fault(
        what="Instructions cannot be counted: QEMU's plugin for it cannot be had.",
        at=str(PLUGIN_SOURCE),
        got=got,
        expected="a QEMU that takes plugins, and a C compiler with its library's headers",
        fix=fix,
    )


def check_url(url: str) -> None:
    """Refuse a URL that names no emulated core; see `Device`."""
    core_of(url)


def core_of(url: str) -> str:
    """The core that `url` names.

    Raises:
        RecipeError: it is none that is emulated.
    """
    core = urlsplit(url).netloc
    if core in userland.CORES:
        return core
    close = nearest(core, list(userland.CORES))
    raise RecipeError(
        Fault(
            what=f"No core {core!r} is emulated.",
            at=f"device = {url!r}",
            got=repr(core),
            expected=listed([f"emulated://{name}" for name in userland.CORES]),
            fix=f"use emulated://{close or 'cortex-a76'}",
        )
    )


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")  # QEMU's way to write a comma in the value of an option.


def _label(folder: Path, core: str, found: userland.Userland) -> None:
    """Makes the report say that it was emulated; takes out what is the emulator's own."""
    place = folder / "report.json"
    report = json.loads(place.read_text())
    for result in report["results"].values():
        for name in [name for name in result if name.endswith("_ns")]:
            del result[name]
    report["peak_memory_bytes"] = report["start_ns"] = None
    report["readings"] = []
    report["device"] = {
        name: value
        for name, value in report["device"].items()
        if name not in ("before", "after", "governor", "cpu_count", "kernel")
    }
    report["device"]["emulated"] = core
    report["device"]["processor"] = f"{core}, emulated by QEMU {found.qemu.version}"
    place.write_text(json.dumps(report))


def _died(url: str, done: Completed, timeout_s: float) -> Fault:
    ended = f"past {timeout_s:.0f} s" if done.code is None else f"exit status {done.code}"
    return Fault(
        what="The runtime did not survive the artifact on the emulated device.",
        at=f"device {url}",
        got=f"{ended}: {done.last_lines}",
        expected="a report from the agent",
        fix="set it up anew (edgekd devices setup emulated), or try the artifact on this host",
    )
