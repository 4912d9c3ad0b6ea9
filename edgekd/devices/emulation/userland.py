"""What the emulated device is made of: QEMU, an ARM64 userland, and the runtimes for it.

`userland_setup` puts it into the user's cache folder; here it is found again.
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
"""Of the cache; another one is set up anew."""

RUNTIMES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "ai-edge-litert": "ai_edge_litert",
    "ncnn": "ncnn",
}
"""The module to import of each package; set up in the versions that this host has."""

_A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop"
CORES = {
    # As boards with them tell it: Raspberry Pi 3, 4 and 5, and a Graviton2.
    # Part numbers: Arm's Technical Reference Manuals, MIDR_EL1.
    "cortex-a53": ("0xd03", "0x0", "4", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a72": ("0xd08", "0x0", "3", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": ("0xd0b", "0x4", "1", f"{_A76} asimddp"),
    "neoverse-n1": ("0xd0c", "0x3", "1", f"{_A76} asimddp ssbs"),
}
"""By name, which is also QEMU's: part, variant and revision of the core, and its features.

QEMU's own "max" is not among them: under 7.2 int8 kernels gave garbage on it.
"""
CORE_COUNT = 4


@dataclass(frozen=True)
class Qemu:
    """A QEMU in user mode.

    Attributes:
        plugins: whether it takes them; one that is linked statically, as Debian 13's is, does not.
        api: of its plugins: 1 up to 8.2, 2 from 9.0.
        libraries: where its own shared libraries are, if not in the system's place.
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
        """The interpreter's path inside of a core's root."""
        return python_of(self.root)

    @property
    def env(self) -> dict[str, str]:
        """What the process is to have in its environment."""
        ours = {
            "PYTHONPATH": str(self.site),
            "PYTHONHOME": "",
            "PYTHONHASHSEED": "0",  # Instructions are only repeatable with it.
            "PYTHONNOUSERSITE": "1",
        }
        if self.qemu.libraries is not None:
            ours["LD_LIBRARY_PATH"] = str(self.qemu.libraries)
        return ours

    def command(self, core: str, argv: Sequence[str], options: Sequence[str] = ()) -> list[str]:
        """The command that runs Python with `argv` on `core`, QEMU itself with `options`."""
        root = self.root / "cores" / core
        # PYTHONHOME is not even to be empty; the guest must not look for the host's libraries.
        unset = ["-U", "PYTHONHOME", "-U", "LD_LIBRARY_PATH", "-U", "LD_PRELOAD"]
        where = ["-cpu", core, *unset, "-L", str(root)]
        return [str(self.qemu.program), *where, *options, str(root / self.python), *argv]


def cache_folder() -> Path:
    """Where the emulated device is kept: in XDG_CACHE_HOME, or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "edgekd" / f"emulated-{LAYOUT}"


def key_of(*parts: object) -> str:
    """A short digest of what something depends on."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def find() -> Userland:
    """The emulated device that was set up.

    Raises:
        UnreachableError: it was not, or not with the versions of the runtimes that this host has.
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
    """QEMU as it is installed, or as `setup` unpacked it; rather one that takes plugins."""
    program = shutil.which("qemu-aarch64")
    own = cache_folder() / "qemu"
    libraries = own / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    found = [asked_qemu(Path(program), None)] if program else []
    if own.is_dir():
        found.append(asked_qemu(own / "usr" / "bin" / "qemu-aarch64", libraries))
    there = [each for each in found if each is not None]
    return max(there, key=lambda each: each.plugins, default=None)


@cache
def asked_qemu(program: Path, libraries: Path | None) -> Qemu | None:
    """What the program says of itself; None where it does not run."""
    env = {"LD_LIBRARY_PATH": str(libraries)} if libraries else None
    if not program.exists():
        return None
    told = run_process([str(program), "--version"], timeout_s=60, env=env).stdout.decode()
    options = run_process([str(program), "-h"], timeout_s=60, env=env).stdout.decode()
    match = re.search(r"version (\d+(?:\.\d+)*)", told)
    return Qemu(program, match[1], "-plugin" in options, libraries) if match else None


def requirements() -> list[str]:
    """The runtimes that this host has, in its versions."""
    found = []
    for name in RUNTIMES:
        try:
            found.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            continue
    return found


def python_of(root: Path) -> Path:
    return next(path.relative_to(root) for path in (root / "usr" / "bin").glob("python3.*"))


def site_folder(root: Path) -> Path:
    """Where the runtimes of this host's versions are for the userland at `root`, if they are."""
    return root.parent / f"site-{key_of(requirements(), python_of(root).name)}"


def _not_ready(got: str) -> Fault:
    return Fault(
        what="The emulated ARM device is not set up.",
        at="device emulated://...",
        got=got,
        expected="QEMU, an ARM64 userland, and the runtimes in the versions of this host",
        fix="edgekd devices setup emulated",
    )
