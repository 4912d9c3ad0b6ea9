"""Set up the emulated ARM device in the user's cache folder.

Each part is written completely or not at all, so an interrupted setup continues at the part it had
reached. Packages come from the system's apt, which checks their signatures, and from pip. Neither
needs root, and the system's own packages and lists stay unchanged.
"""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from edgekd.devices.emulation.userland import (
    CORE_COUNT,
    CORES,
    RUNTIMES,
    Qemu,
    Userland,
    cache_folder,
    find,
    find_qemu,
    inspect_qemu,
    requirements,
    site_folder,
)
from edgekd.errors import Fault, MissingPackageError, UnreachableError
from edgekd.system.files import written_atomically
from edgekd.system.process import Completed, run_process
from edgekd.system.scratch import scratch_folder

DOWNLOAD_S = 1800

Apt = Callable[..., str]
"""Calls a program of apt with arguments in `cwd`, and returns its stdout."""

# Packages of Debian and Ubuntu for a Python and the libraries that wheels link to: those that an
# interpreter opens, out of the dependencies of python3-minimal and libpython3-stdlib.
WANTED = re.compile(
    r"(libc6|libgcc-s1|libstdc\+\+6|zlib1g|libcrypt1|media-types|lib(py|ssl|ffi|expat|bz2|lzma"
    r"|sqlite3|uuid|zstd)[\w.+-]*|python3\.\d+-minimal)(:arm64)?"
)


def setup(log: Callable[[str], None], *, sources: Path | None = None) -> Userland:
    """Download and unpack the missing parts of the emulated device.

    Args:
        log: called with one line per step.
        sources: apt's list of sources of ARM64 packages; by default the system's own.

    Raises:
        MissingPackageError: a required program or runtime is not on this host.
        UnreachableError: a download failed.
    """
    _check_host()
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache):
        if find_qemu() is None:
            log("QEMU: downloading qemu-user")
            _make_qemu(cache / "qemu", sources)
            inspect_qemu.cache_clear()
        root = cache / "root"
        if not root.is_dir():
            log("Userland: downloading Python for ARM64")
            _make_root(root, sources)
        site = site_folder(root)
        if not site.is_dir():
            log(f"Runtimes: downloading {', '.join(requirements())} for ARM64")
            _make_site(site)
            log("Runtimes: importing them for the first time")
            try:
                _try_runtimes()
            except UnreachableError:
                shutil.rmtree(site)
                raise
    device = find()
    log(f"Ready: {', '.join(f'emulated://{core}' for core in CORES)} on QEMU {device.qemu.version}")
    return device


def _check_host() -> None:
    programs = [
        name for name in ("apt-get", "apt-cache", "dpkg", "dpkg-deb") if not shutil.which(name)
    ]
    if platform.system() != "Linux" or programs:
        got = platform.system() if platform.system() != "Linux" else f"no {' nor '.join(programs)}"
        raise MissingPackageError(
            _fault(
                "The emulated device cannot be set up on this system.",
                got,
                "Debian or Ubuntu, whose packages it consists of",
                "set it up in a container of Debian: docker run -it python:3.11",
            )
        )
    if find_spec("pip") is None:
        raise MissingPackageError(
            _fault(
                "The emulated device cannot be set up without pip.",
                f"no pip in {sys.prefix}",
                "pip, which downloads the runtimes for ARM64",
                "python -m ensurepip",
            )
        )
    if not requirements():
        raise MissingPackageError(
            _fault(
                "The emulated device would have no runtime.",
                "no runtime on this host",
                "onnxruntime, openvino, ai-edge-litert or ncnn, to install in the same version",
                "pip install 'edgekd[onnx]'",
            )
        )


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Keep other processes from setting up the same folder while open."""
    import fcntl

    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_qemu(folder: Path, sources: Path | None) -> None:
    """Unpack QEMU, and the libraries that the system lacks, into `folder`."""
    architecture = run_process(["dpkg", "--print-architecture"], timeout_s=60).stdout.decode()
    with _apt(sources, architecture.strip()) as apt:
        plan = ["-s", "--no-install-recommends", "install", "qemu-user"]
        planned = apt("apt-get", "-o", "Dir::State::status=/var/lib/dpkg/status", *plan)
        with written_atomically(folder) as draft:
            _unpack(draft, re.findall(r"^Inst (\S+)", planned, re.MULTILINE), apt)
            for program in (draft / "usr" / "bin").glob("qemu-*"):
                if program.name != "qemu-aarch64":
                    program.unlink()


def _make_root(folder: Path, sources: Path | None) -> None:
    """Unpack an ARM64 Python and its libraries into `folder`, and create a root per core."""
    walk = ["--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces"]
    walk += ["--no-enhances", "--recurse", "depends"]
    first = ["python3-minimal", "libpython3-stdlib", "libstdc++6", "zlib1g"]
    with _apt(sources, "arm64") as apt:
        closure = apt("apt-cache", *walk, *first)
        names = [line for line in closure.splitlines() if WANTED.fullmatch(line)]
        with written_atomically(folder) as draft:
            _unpack(draft, names, apt)
            if not (draft / "lib").exists():  # Packages of Debian 13 and later have no /lib.
                (draft / "lib").symlink_to("usr/lib")
            for core in CORES:
                _make_core(draft, core)


def _make_core(root: Path, core: str) -> None:
    """Create a root for `core`: links to the userland, and files of a board's kernel.

    The runtimes read /proc/cpuinfo with pytorch/cpuinfo, which crashes on that of an x86 host.
    QEMU searches the root for an absolute path first, so a file there replaces the kernel's.
    """
    ours = root / "cores" / core
    ours.mkdir(parents=True)
    for entry in sorted(root.iterdir()):
        if entry.name != "cores":
            (ours / entry.name).symlink_to(f"../../{entry.name}")
    part, variant, revision, features = CORES[core]
    lines = [
        f"processor\t: {{number}}\nBogoMIPS\t: 108.00\nFeatures\t: {features}",
        f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: {variant}",
        f"CPU part\t: {part}\nCPU revision\t: {revision}\n\n",
    ]
    (ours / "proc").mkdir()
    text = "\n".join(lines)
    cpuinfo = "".join(text.format(number=number) for number in range(CORE_COUNT))
    (ours / "proc" / "cpuinfo").write_text(cpuinfo)
    _make_sys(ours / "sys" / "devices" / "system" / "cpu", core)


def _make_sys(folder: Path, core: str) -> None:
    """Create the kernel's files about cores below /sys, in place of the host's.

    Without `possible` and `present`, XNNPACK is not used and outputs change; without `midr_el1`,
    OpenVINO crashes.
    """
    part, variant, revision, _ = CORES[core]
    # Source: Arm Architecture Reference Manual, MIDR_EL1; 0x41 is Arm, 0xf an ID by features.
    midr = 0x41 << 24 | int(variant, 16) << 20 | 0xF << 16 | int(part, 16) << 4 | int(revision)
    every = f"0-{CORE_COUNT - 1}"
    files = dict.fromkeys(["possible", "present", "online"], every)
    for number in range(CORE_COUNT):
        files |= {
            f"cpu{number}/regs/identification/midr_el1": f"0x{midr:016x}",
            f"cpu{number}/topology/physical_package_id": "0",
            f"cpu{number}/topology/core_id": str(number),
            f"cpu{number}/topology/core_siblings_list": every,
            f"cpu{number}/topology/thread_siblings_list": str(number),
            f"cpu{number}/cpufreq/cpuinfo_max_freq": "1500000",
            f"cpu{number}/cpufreq/cpuinfo_min_freq": "600000",
        }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")


def _unpack(folder: Path, names: Sequence[str], apt: Apt) -> None:
    """Download packages and unpack them into `folder`."""
    with scratch_folder("apt") as scratch:
        apt("apt-get", "-q", "download", *names, cwd=scratch)
        for package in sorted(scratch.glob("*.deb")):
            done = run_process(["dpkg-deb", "-x", str(package), str(folder)], timeout_s=300)
            if done.code != 0:
                raise UnreachableError(_not_downloaded(package.name, done))


@contextmanager
def _apt(sources: Path | None, architecture: str) -> Iterator[Apt]:
    """Apt with its own lists for `architecture`, so that the system's stay unchanged."""
    with scratch_folder("apt") as scratch:
        state = scratch
        for name in ("state/lists/partial", "cache/archives/partial"):
            (state / name).mkdir(parents=True)
        options = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            "Dir::State": state / "state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": state / "cache",
            "Dir::Etc::SourceList": sources or _system_sources(),
            "Dir::Etc::SourceParts": "-",
        }
        ours = [arg for name, value in options.items() for arg in ("-o", f"{name}={value}")]

        def call(program: str, *args: str, cwd: Path | None = None) -> str:
            # Later options override earlier ones.
            done = run_process([program, *ours, *args], timeout_s=DOWNLOAD_S, cwd=cwd)
            if done.code != 0:
                raise UnreachableError(_not_downloaded(f"{program} {args[-1]}", done))
            return done.stdout.decode()

        call("apt-get", "-qq", "update")
        yield call


def _system_sources() -> Path:
    files = [Path("/etc/apt/sources.list.d") / f"{name}.sources" for name in ("debian", "ubuntu")]
    return next((file for file in files if file.exists()), Path("/etc/apt/sources.list"))


def _make_site(folder: Path) -> None:
    """Install the runtimes and their dependencies, as wheels for the userland, into `folder`."""
    root = cache_folder() / "root"
    bare = Userland(_qemu(), root, folder)
    libc_and_python = "os.confstr('CS_GNU_LIBC_VERSION').split()[1] + ' ' + sys.version"
    program = f"import os, sys; sys.stdout.write({libc_and_python})"
    versions = _in_guest(bare, program).split()
    libc, python = int(versions[0].split(".")[1]), ".".join(versions[1].split(".")[:2])
    # pip infers no tags for another system: list all from the oldest with ARM64 to the userland's.
    tags = [f"manylinux_2_{minor}_aarch64" for minor in range(libc, 16, -1)]
    platforms = [arg for tag in [*tags, "manylinux2014_aarch64"] for arg in ("--platform", tag)]
    abis = [
        arg for abi in (f"cp{python.replace('.', '')}", "abi3", "none") for arg in ("--abi", abi)
    ]
    with written_atomically(folder) as draft:
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(draft)]
        argv += ["--no-compile", "--only-binary=:all:", "--implementation", "cp", *platforms]
        argv += [*abis, "--python-version", python, *requirements()]
        done = run_process(argv, timeout_s=DOWNLOAD_S)
        if done.code != 0:
            raise UnreachableError(_not_downloaded(f"pip install {' '.join(requirements())}", done))


def _try_runtimes() -> None:
    """Import each runtime in the userland, which also compiles its bytecode.

    Raises:
        UnreachableError: a runtime cannot be imported.
    """
    names = [pinned.partition("==")[0] for pinned in requirements()]
    _in_guest(find(), "; ".join(f"import {RUNTIMES[name]}" for name in names))


def _in_guest(device: Userland, program: str) -> str:
    """The output of a line of Python on the device."""
    done = run_process(device.command("cortex-a76", ["-c", program]), timeout_s=600, env=device.env)
    if done.code != 0:
        raise UnreachableError(
            _fault(
                "Python does not run on the emulated device.",
                f"exit status {done.code}: {done.last_lines}",
                f"`{program}` to succeed",
                f"remove {cache_folder()} and set it up again",
            )
        )
    return done.stdout.decode()


def _qemu() -> Qemu:
    qemu = find_qemu()
    if qemu is None:
        raise UnreachableError(
            _fault(
                "QEMU does not run.",
                f"no answer from {cache_folder() / 'qemu'}",
                "a program qemu-aarch64",
                "install it: apt-get install qemu-user",
            )
        )
    return qemu


def _not_downloaded(what: str, done: Completed) -> Fault:
    ended = "no answer in time" if done.code is None else f"exit status {done.code}"
    return _fault(
        f"{what} failed.",
        f"{ended}: {done.last_lines}",
        "package servers that answer; a part that failed is removed",
        "connect this host, then continue: edgekd devices setup emulated",
    )


def _fault(what: str, got: str, expected: str, fix: str) -> Fault:
    return Fault(what=what, at="edgekd devices setup emulated", got=got, expected=expected, fix=fix)
