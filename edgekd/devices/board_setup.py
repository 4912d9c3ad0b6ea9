"""Puts a Python environment with a runtime onto a board: `edgekd devices setup ssh://user@host`.

It lies in the user's cache folder there, and jobs use it from then on. What goes into it comes from
the board's own package index, or where the board has no network from a folder of wheels here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shlex import quote

from edgekd.devices.on_device import ON_DEVICE
from edgekd.devices.ssh import OPTIONS, VENV, check, keep
from edgekd.devices.transport.openssh import FULL, Connection, connected, fault
from edgekd.devices.transport.reconnect import Dropped
from edgekd.devices.transport.url import parse_options
from edgekd.errors import Fault, MissingPackageError, RecipeError, UnreachableError
from edgekd.system.process import Completed

INSTALL_S = 1800
OLDEST = (3, 8)
"""Python that the agent takes."""

PACKAGES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "litert": "ai-edge-litert",
    "ncnn": "ncnn",
    "coreml": "coremltools",
}
"""What brings each runtime, by the agent's name of it."""
MODULES = {**{name: name for name in PACKAGES}, "litert": "ai_edge_litert", "coreml": "coremltools"}

ASK = (
    "import json, platform, sys; "
    "sys.stdout.write(json.dumps([sys.version_info[:2], platform.machine(), platform.system()]))"
)


@dataclass(frozen=True)
class Runtime:
    """What was set up: where on the board, with which versions."""

    python: str
    machine: str
    versions: dict[str, str]


def requirement(runtime: str) -> str:
    """The package of `runtime`, in this host's version where it has one, so that what is verified
    here is what runs there."""
    package = PACKAGES[runtime]
    try:
        return f"{package}=={version(package)}"
    except PackageNotFoundError:
        return package


def setup(
    url: str, runtime: str, log: Callable[[str], None], *, wheels: Path | None = None
) -> Runtime:
    """The environment with `runtime` on the board at `url`, made or completed.

    Args:
        runtime: the agent's name of it.
        say: is told each step, one line each.
        wheels: a folder of wheels here, for a board without a network; of the board's Python and
            machine, with all that they depend on.

    Raises:
        RecipeError: there are no wheels in that folder.
        UnreachableError: the board cannot be reached, or has no Python that will do.
        MissingPackageError: the board has no venv, or what is to be installed cannot be had.
    """
    asked = parse_options(url, OPTIONS)
    sent = _wheels(wheels) if wheels is not None else {}
    wanted = requirement(runtime)
    try:
        with connected(url) as board:
            python, machine = _python(board, asked.get("python", "python3"))
            log(f"{url}: Python {python} on {machine}")
            found = _installed(board, runtime)
            _, pinned, number = wanted.partition("==")
            if found is None or (pinned and found[PACKAGES[runtime]] != number):
                _make(board, asked.get("python", "python3"), log)
                _install(board, asked.get("folder", "/tmp"), wanted, sent, log)
                found = _installed(board, runtime)
            if found is None:
                raise MissingPackageError(
                    _not_installed(url, f"{MODULES[runtime]} cannot be imported there", wanted)
                )
    except Dropped as error:
        raise UnreachableError(error.fault) from error
    told = ", ".join(f"{name} {number}" for name, number in found.items())
    log(f"Ready: {told}; jobs on {url} use it from now on")
    return Runtime(f"{VENV}/bin/python", machine, found)


def _wheels(folder: Path) -> dict[str, bytes | Path]:
    found: dict[str, bytes | Path] = {
        f"wheels/{path.name}": path for path in sorted(folder.glob("*.whl"))
    }
    if not found:
        raise RecipeError(
            Fault(
                what="There are no wheels to set the board up with.",
                at=f"--wheels {folder}",
                got="no .whl file" if folder.is_dir() else "no such folder",
                expected="wheels of the runtime, numpy and what they depend on, for the board",
                fix="pip download --only-binary=:all: --platform manylinux_2_28_aarch64 "
                f"--python-version 3.11 -d {folder} ai-edge-litert",
            )
        )
    return found


def _python(board: Connection, python: str) -> tuple[str, str]:
    """The version of the board's Python, and its machine."""
    done = _said(board, f"{quote(python)} -c {quote(ASK)}")
    if done.code != 0:
        raise UnreachableError(
            fault(board.url, f"no {python}: {done.last_lines}", "Python 3.8 or later on the board")
        )
    numbers, machine, _ = json.loads(done.stdout)
    if tuple(numbers) < OLDEST:
        got = f"Python {numbers[0]}.{numbers[1]}"
        raise UnreachableError(fault(board.url, got, "Python 3.8 or later on the board"))
    return f"{numbers[0]}.{numbers[1]}", machine


def _installed(board: Connection, runtime: str) -> dict[str, str] | None:
    """The versions of numpy and the runtime in the environment there, or None where one is not."""
    ask = (
        f"import json, sys, numpy, {MODULES[runtime]}; from importlib.metadata import version; "
        "sys.stdout.write(json.dumps({n: version(n) for n in "
        f"['numpy', {PACKAGES[runtime]!r}]}}))"
    )
    done = _said(board, f'"{VENV}/bin/python" -c {quote(ask)}')
    versions: dict[str, str] | None = json.loads(done.stdout) if done.code == 0 else None
    return versions


def _make(board: Connection, python: str, log: Callable[[str], None]) -> None:
    """An empty environment, unless one is there that can install."""
    if _said(board, f'"{VENV}/bin/python" -m pip --version').code == 0:
        return
    log("Environment: python -m venv")
    command = f'{quote(python)} -m venv --clear "{VENV}" || {{ rm -rf "{VENV}"; exit 1; }}'
    done = _said(board, command)
    if done.code != 0:
        told = f"{done.stdout.decode(errors='replace')} {done.last_lines}"
        raise MissingPackageError(
            Fault(
                what=f"No environment can be made on {board.url}.",
                at=f"edgekd devices setup {board.url}",
                got=" ".join(told.split())[-300:],
                expected=f"`{python} -m venv` to succeed there",
                fix="on the board: sudo apt-get install python3-venv",
            )
        )


def _install(
    board: Connection,
    where: str,
    wanted: str,
    wheels: dict[str, bytes | Path],
    log: Callable[[str], None],
) -> None:
    words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    words += ["--no-input", "numpy", wanted]
    with board.folder(where) as place:
        if wheels:
            log(f"Runtime: {len(wheels)} wheels from here, {wanted}")
            words += ["--no-index", "--find-links", f"{place}/wheels"]
        else:
            log(f"Runtime: {wanted}, by the board's own network")
        keeper: dict[str, bytes | Path] = {"keeper.py": ON_DEVICE / "supervisor.py"}
        board.send({**keeper, **wheels}, place, timeout_s=INSTALL_S)
        done = keep(board, place, None, words, INSTALL_S)
    if done.code == 0:
        return
    if FULL not in done.stderr and done.code != 125:
        raise MissingPackageError(_not_installed(board.url, done.last_lines, wanted))
    check(board.url, done, "python3", INSTALL_S)


def _said(board: Connection, command: str) -> Completed:
    return board.run(command, timeout_s=600)


def _not_installed(url: str, got: str, wanted: str) -> Fault:
    return Fault(
        what=f"The board {url} has no {wanted} now.",
        at=f"edgekd devices setup {url}",
        got=got,
        expected="a wheel for the board's Python and machine, from its network or --wheels",
        fix=f"pip download --only-binary=:all: -d wheels {wanted}, for its --platform and "
        "--python-version; then --wheels wheels",
    )
