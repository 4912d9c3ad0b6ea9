"""What is installed, what works, and how to mend what does not."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from edgekd.devices.emulation import userland
from edgekd.errors import EdgekdError
from edgekd.formats import FORMATS
from edgekd.system.packages import missing, tool_versions


@dataclass(frozen=True)
class DoctorFinding:
    """One thing edgekd can use: whether it works, its versions, and the fix where it does not."""

    name: str
    works: bool
    told: str
    fix: str = ""


def examine() -> list[DoctorFinding]:
    """Every optional part, without importing the heavy packages."""
    findings = [
        DoctorFinding("python", True, f"{platform.python_version()} on {platform.platform()}")
    ]
    for package in ("torch", "lightning-fabric", "pydantic"):
        try:
            findings.append(DoctorFinding(package, True, version(package)))
        except PackageNotFoundError:
            fix = "pip install -c constraints.txt edgekd"
            findings.append(DoctorFinding(package, False, "not installed", fix))
    for name, module in FORMATS.items():
        absent = missing(module.PACKAGES, extra=module.EXTRA)
        if absent:
            findings.append(DoctorFinding(name, False, absent.got, absent.fix))
            continue
        found = tool_versions(module.PACKAGES)
        told = ", ".join(f"{tool} {number}" for tool, number in found.items() if tool != "torch")
        if module.RUNTIME == "coreml" and platform.system() != "Darwin":
            told += "; no runtime here: files are computed by the reference evaluator"
        findings.append(DoctorFinding(name, True, told))
    absent = missing(("torch_pruning",), extra="prune")
    pruning = f"torch-pruning {tool_versions(('torch_pruning',))['torch-pruning']}"
    findings.append(
        DoctorFinding("prune", False, absent.got, absent.fix)
        if absent
        else DoctorFinding("prune", True, pruning)
    )
    absent = missing(("cryptography",), extra="sign")
    signing = f"cryptography {tool_versions(('cryptography',))['cryptography']}"
    findings.append(
        DoctorFinding("sign", False, absent.got, absent.fix)
        if absent
        else DoctorFinding("sign", True, signing)
    )
    for name, program, fix in (
        ("javac", "javac", "install a JDK: Android bundles hold a compiled class"),
        ("ssh", "ssh", "install the OpenSSH client"),
        ("adb", "adb", "install Android's platform tools"),
    ):
        place = shutil.which(program)
        told = place or f"no {program} program"
        findings.append(DoctorFinding(name, place is not None, told, "" if place else fix))
    findings.append(_emulated())
    return findings


def _emulated() -> DoctorFinding:
    """Whether ARM64 can be emulated here."""
    try:
        found = userland.find()
    except EdgekdError as error:
        fault = error.faults[0]
        return DoctorFinding("emulated", False, fault.got, fault.fix)
    return DoctorFinding("emulated", True, f"ARM64 by QEMU {found.qemu.version}")
