"""The parts of the emulated device: QEMU, an ARM64 userland, and runtimes for it.

`setup` puts them into the user's cache folder; this file finds them there.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgekd.errors import Fault, UnreachableError
from edgekd.system.process import run_process

LAYOUT = "1"
"""Version of the cache folder; a setup with another version starts afresh."""

RUNTIMES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "ai-edge-litert": "ai_edge_litert",
    "ncnn": "ncnn",
}
"""The module of each package; they are installed in the versions that this host has."""

_A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop"
CORES = {
    # From /proc/cpuinfo of boards with these cores: Raspberry Pi 3, 4 and 5, and a Graviton2.
    # Part numbers: Arm's Technical Reference Manuals, MIDR_EL1.
    "cortex-a53": ("0xd03", "0x0", "4", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a72": ("0xd08", "0x0", "3", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": ("0xd0b", "0x4", "1", f"{_A76} asimddp"),
    "neoverse-n1": ("0xd0c", "0x3", "1", f"{_A76} asimddp ssbs"),
}
"""Part, variant, revision and features of each core; the names are also QEMU's.

QEMU's own "max" is left out: int8 kernels returned wrong outputs on it in QEMU 7.2.
"""
CORE_COUNT = 4


@dataclass(frozen=True)
class Qemu:
    """A QEMU in user mode.

    Attributes:
        plugins: whether it takes plugins; a statically linked one, as in Debian 13, does not.
        api: of its plugins: 1 up to 8.2, 2 from 9.0.
        libraries: the folder of its own shared libraries, if it does not use the system's.
    """

    program: Path
    version: str
    plugins: bool
    libraries: Path | None = None

    @property
    def api(self) -> int:
        return 1 if int(self.version.partition(".")[0]) < 9 else 2


@dataclass(frozen=True)
class Userland:
    """An emulated device that is set up."""

    qemu: Qemu
    root: Path
    site: Path

    @property
    def python(self) -> Path:
        """The interpreter's path inside a core's root."""
        return python_of(self.root)

    @property
    def env(self) -> dict[str, str]:
        """Environment variables for the process."""
        ours = {
            "PYTHONPATH": str(self.site),
            "PYTHONHOME": "",
            "PYTHONHASHSEED": "0",  # Makes instruction counts repeatable.
            "PYTHONNOUSERSITE": "1",
        }
        if self.qemu.libraries is not None:
            ours["LD_LIBRARY_PATH"] = str(self.qemu.libraries)
        return ours

    def command(self, core: str, argv: Sequence[str], options: Sequence[str] = ()) -> list[str]:
        """The command that runs Python with `argv` on `core`, QEMU itself with `options`."""
        root = self.root / "cores" / core
        # PYTHONHOME must be unset, and the guest must not search the host's libraries.
        unset = ["-U", "PYTHONHOME", "-U", "LD_LIBRARY_PATH", "-U", "LD_PRELOAD"]
        guest = ["-cpu", core, *unset, "-L", str(root)]
        return [str(self.qemu.program), *guest, *options, str(root / self.python), *argv]


def cache_folder() -> Path:
    """The folder of the emulated device, in XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "edgekd" / f"emulated-{LAYOUT}"


def key_of(*parts: object) -> str:
    """A short digest of `parts`."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def find() -> Userland:
    """The emulated device that was set up.

    Raises:
        UnreachableError: it is not set up, or not with this host's versions of the runtimes.
    """
    qemu = find_qemu()
    root = cache_folder() / "root"
    missing = "QEMU" if qemu is None else "the userland" if not root.is_dir() else None
    if qemu is None or missing:
        raise UnreachableError(_not_ready(f"{missing} is not in {cache_folder()}"))
    site = site_folder(root)
    if not site.is_dir():
        wanted = " ".join(requirements()) or "any runtime"
        raise UnreachableError(_not_ready(f"{wanted} for ARM64 is not in {cache_folder()}"))
    return Userland(qemu, root, site)


def find_qemu() -> Qemu | None:
    """The installed QEMU, or the one that `setup` unpacked; one that takes plugins is preferred."""
    program = shutil.which("qemu-aarch64")
    own = cache_folder() / "qemu"
    libraries = own / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    candidates = [inspect_qemu(Path(program), None)] if program else []
    if own.is_dir():
        candidates.append(inspect_qemu(own / "usr" / "bin" / "qemu-aarch64", libraries))
    working = [qemu for qemu in candidates if qemu is not None]
    return max(working, key=lambda qemu: qemu.plugins, default=None)


@cache
def inspect_qemu(program: Path, libraries: Path | None) -> Qemu | None:
    """The QEMU at `program`; None if it does not run."""
    env = {"LD_LIBRARY_PATH": str(libraries)} if libraries else None
    if not program.exists():
        return None
    version_text = run_process([str(program), "--version"], timeout_s=60, env=env).stdout.decode()
    options = run_process([str(program), "-h"], timeout_s=60, env=env).stdout.decode()
    match = re.search(r"version (\d+(?:\.\d+)*)", version_text)
    return Qemu(program, match[1], "-plugin" in options, libraries) if match else None


def requirements() -> list[str]:
    """The runtimes that this host has, pinned to its versions."""
    pinned = []
    for name in RUNTIMES:
        try:
            pinned.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            continue
    return pinned


def python_of(root: Path) -> Path:
    """The interpreter of the userland, relative to `root`."""
    return next(path.relative_to(root) for path in (root / "usr" / "bin").glob("python3.*"))


def site_folder(root: Path) -> Path:
    """The folder for the runtimes, in this host's versions, of the userland at `root`."""
    return root.parent / f"site-{key_of(requirements(), python_of(root).name)}"


def _not_ready(got: str) -> Fault:
    return Fault(
        what="The emulated ARM device is not set up.",
        at="device emulated://...",
        got=got,
        expected="QEMU, an ARM64 userland, and the runtimes in the versions of this host",
        fix="edgekd devices setup emulated",
    )
