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
class Finding:
    """One thing edgekd can use: whether it works, its versions, and the fix where it does not."""

    name: str
    works: bool
    told: str
    fix: str = ""


def examine() -> list[Finding]:
    """Every optional part, without importing the heavy packages."""
    findings = [Finding("python", True, f"{platform.python_version()} on {platform.platform()}")]
    for package in ("torch", "lightning-fabric", "pydantic"):
        try:
            findings.append(Finding(package, True, version(package)))
        except PackageNotFoundError:
            fix = "pip install -c constraints.txt edgekd"
            findings.append(Finding(package, False, "not installed", fix))
    for name, module in FORMATS.items():
        absent = missing(module.PACKAGES, extra=module.EXTRA)
        if absent:
            findings.append(Finding(name, False, absent.got, absent.fix))
            continue
        found = tool_versions(module.PACKAGES)
        told = ", ".join(f"{tool} {number}" for tool, number in found.items() if tool != "torch")
        if module.RUNTIME == "coreml" and platform.system() != "Darwin":
            told += "; no runtime here: files are computed by the reference evaluator"
        findings.append(Finding(name, True, told))
    absent = missing(("torch_pruning",), extra="prune")
    pruning = f"torch-pruning {tool_versions(('torch_pruning',))['torch-pruning']}"
    findings.append(
        Finding("prune", False, absent.got, absent.fix)
        if absent
        else Finding("prune", True, pruning)
    )
    absent = missing(("cryptography",), extra="sign")
    signing = f"cryptography {tool_versions(('cryptography',))['cryptography']}"
    findings.append(
        Finding("sign", False, absent.got, absent.fix) if absent else Finding("sign", True, signing)
    )
    for name, program, fix in (
        ("javac", "javac", "install a JDK: Android bundles hold a compiled class"),
        ("ssh", "ssh", "install the OpenSSH client"),
        ("adb", "adb", "install Android's platform tools"),
    ):
        place = shutil.which(program)
        told = place or f"no {program} program"
        findings.append(Finding(name, place is not None, told, "" if place else fix))
    findings.append(_emulated())
    return findings


def _emulated() -> Finding:
    """Whether ARM64 can be emulated here."""
    try:
        found = userland.find()
    except EdgekdError as error:
        fault = error.faults[0]
        return Finding("emulated", False, fault.got, fault.fix)
    return Finding("emulated", True, f"ARM64 by QEMU {found.qemu.version}")
