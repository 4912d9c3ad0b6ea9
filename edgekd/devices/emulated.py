"""An emulated ARM64 core: emulated://cortex-a76, without a board, root or binfmt.

QEMU's user mode runs the agent with the runtimes' real ARM kernels, so outputs can be verified. An
emulator's time is not device latency, so nothing is timed; instructions are counted instead.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edgekd.devices.emulation import EMULATION, userland
from edgekd.devices.emulation import setup as userland_setup
from edgekd.devices.reply_values import MisfitError, as_object, read_json
from edgekd.devices.transport.url import split_url
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
    """Run the job in `folder`; see `Device`.

    The action "run" is the agent's own. The action "count" adds `instructions` to each result:
    those of one inference on one thread. The report has no times and no memory.

    Raises:
        RecipeError: there is no such emulated core.
        RefusedError: the job is to time artifacts.
        UnreachableError: the emulation is not set up.
        ConversionError: the agent ended without a report.
    """
    core = core_of(url)
    action = json.loads((folder / "job.json").read_text())["action"]
    if action not in ("run", "count"):
        raise RefusedError(
            Fault(
                what=f"An emulated {core} cannot {action} an artifact.",
                at=f"device {url}",
                got=f"action = {action!r}",
                expected="outputs to compare, or instructions to count: emulated time is not "
                "device latency",
                fix="time it on a board (--device ssh://user@host), or set a budget `instructions`",
            )
        )
    device = userland.find()
    options: list[str] = []
    program = "agent.py"
    if action == "count":
        shutil.copyfile(DRIVER, folder / DRIVER.name)
        program = DRIVER.name
        options = ["-plugin", f"file={_escaped(plugin(device.qemu))},out={COUNTS}"]
    done = run_process(
        device.command(core, [program, "."], options),
        timeout_s=timeout_s,
        cwd=folder,
        env=device.env,
    )
    if done.code != 0 or not (folder / "report.json").exists():
        raise ConversionError(_unfinished(url, done, timeout_s))
    _label(folder, core, device)


def plugin(qemu: userland.Qemu) -> Path:
    """The plugin that counts instructions, compiled for `qemu` on first use.

    Raises:
        UnreachableError: this QEMU takes no plugins, or there is no working C compiler.
    """
    if not qemu.plugins:
        raise UnreachableError(
            _uncounted(
                f"{qemu.program}, version {qemu.version}, was built without plugins",
                "set up with the packages of Debian 12: edgekd devices setup emulated --sources F",
            )
        )
    source = PLUGIN_SOURCE.read_bytes()
    path = userland.cache_folder() / f"insn-count-{userland.key_of(source, qemu.api)}.so"
    if path.exists():
        return path
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        raise UnreachableError(
            _uncounted("no cc, gcc or clang on PATH", "install one: apt-get install gcc libc6-dev")
        )
    with written_atomically(path) as draft:
        argv = [compiler, "-shared", "-fPIC", "-O2", f"-DAPI={qemu.api}", "-o", str(draft)]
        done = run_process([*argv, str(PLUGIN_SOURCE)], timeout_s=120)
        if done.code != 0:
            raise UnreachableError(
                _uncounted(
                    done.last_lines, f"fix the compiler: {compiler} must compile {PLUGIN_SOURCE}"
                )
            )
    return path


def _uncounted(got: str, fix: str) -> Fault:
    return Fault(
        what="Instructions cannot be counted: there is no QEMU plugin for it.",
        at=str(PLUGIN_SOURCE),
        got=got,
        expected="a QEMU that takes plugins, and a C compiler with the headers of its library",
        fix=fix,
    )


def check_url(url: str) -> None:
    """Refuse a URL that names no emulated core; see `Device`."""
    core_of(url)


def core_of(url: str) -> str:
    """The core that `url` names.

    Raises:
        RecipeError: there is no such emulated core.
    """
    core = split_url(url).netloc
    if core in userland.CORES:
        return core
    close = nearest(core, list(userland.CORES))
    raise RecipeError(
        Fault(
            what=f"There is no emulated core {core!r}.",
            at=f"device = {url!r}",
            got=repr(core),
            expected=listed([f"emulated://{name}" for name in userland.CORES]),
            fix=f"use emulated://{close or 'cortex-a76'}",
        )
    )


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")  # QEMU escapes a comma in an option's value by doubling it.


def _label(folder: Path, core: str, device: userland.Userland) -> None:
    """Mark the report as emulated, and remove figures of the emulator itself."""
    path = folder / "report.json"
    try:
        report = as_object(read_json(path), "report.json")
        results = as_object(report.get("results"), "results")
        facts = as_object(report.get("device"), "device")
    except MisfitError:  # `read_report` refuses it.
        return
    report["results"] = {
        artifact: {name: value for name, value in result.items() if not name.endswith("_ns")}
        if isinstance(result, dict)
        else result
        for artifact, result in results.items()
    }
    report["peak_memory_bytes"] = report["start_ns"] = None
    report["readings"] = []
    report["device"] = {
        name: value
        for name, value in facts.items()
        if name not in ("before", "after", "governor", "cpu_count", "kernel")
    }
    report["device"]["emulated"] = core
    report["device"]["processor"] = f"{core}, emulated by QEMU {device.qemu.version}"
    path.write_text(json.dumps(report))


def _unfinished(url: str, done: Completed, timeout_s: float) -> Fault:
    ended = (
        f"timed out after {timeout_s:.0f} s" if done.code is None else f"exit status {done.code}"
    )
    return Fault(
        what="The runtime ended without a report on the emulated device.",
        at=f"device {url}",
        got=f"{ended}: {done.last_lines}",
        expected="a report from the agent",
        fix="set it up again (edgekd devices setup emulated), or try the artifact on this host",
    )
