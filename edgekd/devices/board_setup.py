"""Install a Python environment with a runtime on a board: `edgekd devices setup ssh://user@host`.

The environment is in the user's cache folder there, and later jobs use it. Its packages come from
the board's own package index, or, for a board without a network, from a folder of wheels here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shlex import quote

from edgekd.devices.ssh import (
    NOT_INTACT,
    OPTIONS,
    SUPERVISOR,
    SUPERVISOR_NAME,
    VENV,
    check,
    supervise,
)
from edgekd.devices.transport.openssh import FULL, Connection, connected, fault
from edgekd.devices.transport.reconnect import ConnectionLostError
from edgekd.devices.transport.url import parse_options
from edgekd.errors import Fault, MissingPackageError, RecipeError, UnreachableError, listed
from edgekd.system.process import Completed

INSTALL_S = 1800
OLDEST = (3, 8)
"""The oldest Python that runs the agent."""

PACKAGES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "litert": "ai-edge-litert",
    "ncnn": "ncnn",
    "coreml": "coremltools",
}
"""The package of each runtime, by the agent's name for it."""
MODULES = {**{name: name for name in PACKAGES}, "litert": "ai_edge_litert", "coreml": "coremltools"}

ASK = (
    "import json, platform, sys; "
    "sys.stdout.write(json.dumps([sys.version_info[:2], platform.machine(), platform.system()]))"
)


@dataclass(frozen=True)
class Runtime:
    """An installed runtime: its Python on the board, the machine, and package versions."""

    python: str
    machine: str
    versions: dict[str, str]


def requirement(runtime: str) -> str:
    """The package of `runtime`, pinned to this host's version if it is installed here.

    The version that verified an artifact here is then the one that runs it there.

    Raises:
        RecipeError: no package is known for the runtime.
    """
    if runtime not in PACKAGES:
        raise RecipeError(
            Fault(
                what=f"The runtime {runtime!r} cannot be installed on a board.",
                at="edgekd devices setup",
                got=repr(runtime),
                expected=listed(PACKAGES),
                fix="install its package on the board by hand, and name its Python: ?python=PATH",
            )
        )
    package = PACKAGES[runtime]
    try:
        return f"{package}=={version(package)}"
    except PackageNotFoundError:
        return package


def setup(
    url: str, runtime: str, log: Callable[[str], None], *, wheels: Path | None = None
) -> Runtime:
    """Create or complete the environment with `runtime` on the board at `url`.

    Args:
        runtime: the agent's name for it.
        log: called with one line per step.
        wheels: a folder of wheels here, for a board without a network. The wheels, and all their
            dependencies, must be for the board's Python and machine.

    Raises:
        RecipeError: there are no wheels in that folder.
        UnreachableError: the board cannot be reached, or its Python is missing or too old.
        MissingPackageError: the board has no venv, or a package cannot be installed.
    """
    options = parse_options(url, OPTIONS)
    python_name = options.get("python", "python3")
    sent = _wheels(wheels) if wheels is not None else {}
    wanted = requirement(runtime)
    try:
        with connected(url) as board:
            python, machine = _python(board, python_name)
            log(f"{url}: Python {python} on {machine}")
            versions = _installed(board, runtime)
            _, pinned, number = wanted.partition("==")
            if versions is None or (pinned and versions[PACKAGES[runtime]] != number):
                _create_environment(board, python_name, log)
                _install(board, options.get("folder", "/tmp"), wanted, sent, log)
                versions = _installed(board, runtime)
            if versions is None:
                raise MissingPackageError(
                    _not_installed(url, f"{MODULES[runtime]} cannot be imported there", wanted)
                )
    except ConnectionLostError as error:
        raise UnreachableError(error.fault) from error
    installed = ", ".join(f"{name} {number}" for name, number in versions.items())
    log(f"Ready: {installed}; jobs on {url} use it from now on")
    return Runtime(f"{VENV}/bin/python", machine, versions)


def _wheels(folder: Path) -> dict[str, bytes | Path]:
    wheels: dict[str, bytes | Path] = {
        f"wheels/{path.name}": path for path in sorted(folder.glob("*.whl"))
    }
    if not wheels:
        raise RecipeError(
            Fault(
                what="There are no wheels to install on the board.",
                at=f"--wheels {folder}",
                got="no .whl file" if folder.is_dir() else "no such folder",
                expected="wheels of the runtime, numpy and what they depend on, for the board",
                fix="pip download --only-binary=:all: --platform manylinux_2_28_aarch64 "
                f"--python-version 3.11 -d {folder} ai-edge-litert",
            )
        )
    return wheels


def _python(board: Connection, python: str) -> tuple[str, str]:
    """The version of the board's Python, and its machine."""
    done = _run(board, f"{quote(python)} -c {quote(ASK)}")
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
    """The versions of numpy and the runtime in the environment there, or None if one is missing."""
    ask = (
        f"import json, sys, numpy, {MODULES[runtime]}; from importlib.metadata import version; "
        "sys.stdout.write(json.dumps({n: version(n) for n in "
        f"['numpy', {PACKAGES[runtime]!r}]}}))"
    )
    done = _run(board, f'"{VENV}/bin/python" -c {quote(ask)}')
    versions: dict[str, str] | None = json.loads(done.stdout) if done.code == 0 else None
    return versions


def _create_environment(board: Connection, python: str, log: Callable[[str], None]) -> None:
    """Create an empty environment, unless there is one with a working pip."""
    if _run(board, f'"{VENV}/bin/python" -m pip --version').code == 0:
        return
    log("Environment: python -m venv")
    command = f'{quote(python)} -m venv --clear "{VENV}" || {{ rm -rf "{VENV}"; exit 1; }}'
    done = _run(board, command)
    if done.code != 0:
        output = f"{done.stdout.decode(errors='replace')} {done.last_lines}"
        raise MissingPackageError(
            Fault(
                what=f"No Python environment can be created on {board.url}.",
                at=f"edgekd devices setup {board.url}",
                got=" ".join(output.split())[-300:],
                expected=f"`{python} -m venv` to succeed there",
                fix="on the board: sudo apt-get install python3-venv",
            )
        )


def _install(
    board: Connection,
    parent: str,
    wanted: str,
    wheels: dict[str, bytes | Path],
    log: Callable[[str], None],
) -> None:
    args = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    args += ["--no-input", "numpy", wanted]
    with board.folder(parent) as folder:
        if wheels:
            log(f"Runtime: {len(wheels)} wheels from this host, {wanted}")
            args += ["--no-index", "--find-links", f"{folder}/wheels"]
        else:
            log(f"Runtime: {wanted}, over the board's own network")
        board.send({**wheels, SUPERVISOR_NAME: SUPERVISOR}, folder, timeout_s=INSTALL_S)
        done = supervise(board, folder, None, args, INSTALL_S)
    if done.code == 0:
        return
    if FULL not in done.stderr and done.code != NOT_INTACT:
        raise MissingPackageError(_not_installed(board.url, done.last_lines, wanted))
    check(board.url, done, "python3", INSTALL_S)


def _run(board: Connection, command: str) -> Completed:
    return board.run(command, timeout_s=600)


def _not_installed(url: str, got: str, wanted: str) -> Fault:
    return Fault(
        what=f"{wanted} could not be installed on the board {url}.",
        at=f"edgekd devices setup {url}",
        got=got,
        expected="a wheel for the board's Python and machine, from its network or --wheels",
        fix=f"pip download --only-binary=:all: -d wheels {wanted}, for its --platform and "
        "--python-version; then --wheels wheels",
    )
