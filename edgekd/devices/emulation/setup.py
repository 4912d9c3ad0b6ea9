"""Puts the emulated ARM device into the user's cache folder.

In parts that are made whole or not at all: a setup that was stopped goes on at the part it had
reached. Packages come by the system's apt, which checks their signatures, and by pip. Neither
needs root, and the system's own packages and lists stay as they are.
"""

from __future__ import annotations

import platform
import re
import shutil
import sys
import tempfile
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
    asked_qemu,
    cache_folder,
    find,
    find_qemu,
    requirements,
    site_folder,
)
from edgekd.errors import Fault, MissingPackageError, UnreachableError
from edgekd.system.files import written_atomically
from edgekd.system.process import Completed, run_process

DOWNLOAD_S = 1800

Apt = Callable[..., str]
"""Calls a program of apt with arguments, in `cwd`; what it wrote on stdout comes back."""

# The stems of Debian's and Ubuntu's packages of a Python with the libraries that wheels link to:
# of the closure of python3-minimal and libpython3-stdlib, what an interpreter opens.
WANTED = re.compile(
    r"(libc6|libgcc-s1|libstdc\+\+6|zlib1g|libcrypt1|media-types|lib(py|ssl|ffi|expat|bz2|lzma"
    r"|sqlite3|uuid|zstd)[\w.+-]*|python3\.\d+-minimal)(:arm64)?"
)


def setup(log: Callable[[str], None], *, sources: Path | None = None) -> Userland:
    """The emulated device, with what is missing of it downloaded and unpacked.

    Args:
        say: is told each step, one line each.
        sources: apt's list of where ARM64 packages are; without it, the system's own.

    Raises:
        MissingPackageError: a program or a runtime that it takes is not on this host.
        UnreachableError: something cannot be downloaded.
    """
    _check_host()
    place = cache_folder()
    place.mkdir(parents=True, exist_ok=True)
    with _alone(place):
        if find_qemu() is None:
            log("QEMU: downloading qemu-user")
            _make_qemu(place / "qemu", sources)
            asked_qemu.cache_clear()
        root = place / "root"
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
    found = find()
    log(f"Ready: {', '.join(f'emulated://{core}' for core in CORES)} by QEMU {found.qemu.version}")
    return found


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
                "Debian or Ubuntu, whose packages it is made of",
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
                "none on this host",
                "one of onnxruntime, openvino, ai-edge-litert, ncnn, whose version is set up",
                "pip install 'edgekd[onnx]'",
            )
        )


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """While open, no other process sets up the same."""
    import fcntl

    with (place / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_qemu(place: Path, sources: Path | None) -> None:
    """QEMU and those of its libraries that the system does not have, unpacked at `place`."""
    architecture = run_process(["dpkg", "--print-architecture"], timeout_s=60).stdout.decode()
    with _apt(sources, architecture.strip()) as apt:
        plan = ["-s", "--no-install-recommends", "install", "qemu-user"]
        planned = apt("apt-get", "-o", "Dir::State::status=/var/lib/dpkg/status", *plan)
        with written_atomically(place) as draft:
            _unpack(draft, re.findall(r"^Inst (\S+)", planned, re.MULTILINE), apt)
            for program in (draft / "usr" / "bin").glob("qemu-*"):
                if program.name != "qemu-aarch64":
                    program.unlink()


def _make_root(place: Path, sources: Path | None) -> None:
    """An ARM64 Python with what it links to, unpacked at `place`, and a root for each core."""
    walk = ["--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces"]
    walk += ["--no-enhances", "--recurse", "depends"]
    first = ["python3-minimal", "libpython3-stdlib", "libstdc++6", "zlib1g"]
    with _apt(sources, "arm64") as apt:
        closure = apt("apt-cache", *walk, *first)
        names = [line for line in closure.splitlines() if WANTED.fullmatch(line)]
        with written_atomically(place) as draft:
            _unpack(draft, names, apt)
            if not (draft / "lib").exists():  # From Debian 13 on, packages know of no /lib.
                (draft / "lib").symlink_to("usr/lib")
            for core in CORES:
                _make_core(draft, core)


def _make_core(root: Path, core: str) -> None:
    """A root for `core`: links to the userland, and what the kernel of a board tells.

    The runtimes read /proc/cpuinfo by pytorch/cpuinfo, which crashes on that of an x86 host.
    QEMU looks for an absolute path in the root first, so a file there stands for the kernel's.
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


def _make_sys(place: Path, core: str) -> None:
    """What the kernel tells of its cores below /sys: without it the host's own would show through.

    XNNPACK is not used where `possible` and `present` are missing, and outputs change then; and
    OpenVINO crashes without `midr_el1`.
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
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(f"{text}\n")


def _unpack(place: Path, names: Sequence[str], apt: Apt) -> None:
    """Downloads packages and unpacks them at `place`."""
    with tempfile.TemporaryDirectory(prefix="edgekd-apt-") as scratch:
        apt("apt-get", "-q", "download", *names, cwd=Path(scratch))
        for package in sorted(Path(scratch).glob("*.deb")):
            done = run_process(["dpkg-deb", "-x", str(package), str(place)], timeout_s=300)
            if done.code != 0:
                raise UnreachableError(_not_downloaded(package.name, done))


@contextmanager
def _apt(sources: Path | None, architecture: str) -> Iterator[Apt]:
    """Apt with lists of its own for `architecture`, so that the system's stay as they are."""
    with tempfile.TemporaryDirectory(prefix="edgekd-apt-") as scratch:
        state = Path(scratch)
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
        ours = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

        def call(program: str, *words: str, cwd: Path | None = None) -> str:
            # What a call says later than ours holds.
            done = run_process([program, *ours, *words], timeout_s=DOWNLOAD_S, cwd=cwd)
            if done.code != 0:
                raise UnreachableError(_not_downloaded(f"{program} {words[-1]}", done))
            return done.stdout.decode()

        call("apt-get", "-qq", "update")
        yield call


def _system_sources() -> Path:
    places = [Path("/etc/apt/sources.list.d") / f"{name}.sources" for name in ("debian", "ubuntu")]
    return next((place for place in places if place.exists()), Path("/etc/apt/sources.list"))


def _make_site(place: Path) -> None:
    """The runtimes and what they import, as wheels for the userland, unpacked at `place`."""
    root = cache_folder() / "root"
    bare = Userland(_qemu(), root, place)
    libc_and_python = "os.confstr('CS_GNU_LIBC_VERSION').split()[1] + ' ' + sys.version"
    program = f"import os, sys; sys.stdout.write({libc_and_python})"
    told = _in_guest(bare, program).split()
    libc, python = int(told[0].split(".")[1]), ".".join(told[1].split(".")[:2])
    # pip takes no tag for another system by itself: from the oldest with ARM64 to the userland's.
    tags = [f"manylinux_2_{minor}_aarch64" for minor in range(libc, 16, -1)]
    platforms = [word for tag in [*tags, "manylinux2014_aarch64"] for word in ("--platform", tag)]
    abis = [
        word for abi in (f"cp{python.replace('.', '')}", "abi3", "none") for word in ("--abi", abi)
    ]
    with written_atomically(place) as draft:
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(draft)]
        argv += ["--no-compile", "--only-binary=:all:", "--implementation", "cp", *platforms]
        argv += [*abis, "--python-version", python, *requirements()]
        done = run_process(argv, timeout_s=DOWNLOAD_S)
        if done.code != 0:
            raise UnreachableError(_not_downloaded(f"pip install {' '.join(requirements())}", done))


def _try_runtimes() -> None:
    """Imports each runtime in the userland: it must work, and its bytecode is kept for later.

    Raises:
        UnreachableError: one cannot be imported.
    """
    names = [word.partition("==")[0] for word in requirements()]
    _in_guest(find(), "; ".join(f"import {RUNTIMES[name]}" for name in names))


def _in_guest(device: Userland, program: str) -> str:
    """What a line of Python prints on the device."""
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
    found = find_qemu()
    if found is None:
        raise UnreachableError(
            _fault(
                "QEMU does not run.",
                f"no answer from {cache_folder() / 'qemu'}",
                "a program qemu-aarch64",
                "install it: apt-get install qemu-user",
            )
        )
    return found


def _not_downloaded(what: str, done: Completed) -> Fault:
    ended = "no answer in time" if done.code is None else f"exit status {done.code}"
    return _fault(
        f"{what} failed.",
        f"{ended}: {done.last_lines}",
        "package servers that answer; nothing of a part that failed is kept",
        "connect this host, then go on where it stopped: edgekd devices setup emulated",
    )


def _fault(what: str, got: str, expected: str, fix: str) -> Fault:
    return Fault(what=what, at="edgekd devices setup emulated", got=got, expected=expected, fix=fix)
