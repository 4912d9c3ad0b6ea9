"""Checks what is installed and works, and says how to fix the rest."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from edgekd.devices.emulation import userland
from edgekd.errors import EdgekdError
from edgekd.formats import FORMATS
from edgekd.formats.capabilities import runs_on
from edgekd.system.packages import missing, tool_versions


@dataclass(frozen=True)
class DoctorFinding:
    """A package or program that edgekd can use: whether it works, its version, the fix if not."""

    name: str
    works: bool
    detail: str
    fix: str = ""

    def to_json(self) -> dict[str, object]:
        """A JSON object; the detail's key is that of `edgekd doctor --json` since 0.1."""
        return {"name": self.name, "works": self.works, "told": self.detail, "fix": self.fix}


def examine() -> list[DoctorFinding]:
    """The state of every optional part, found without importing heavy packages."""
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
        versions = tool_versions(module.PACKAGES)
        detail = ", ".join(f"{tool} {value}" for tool, value in versions.items() if tool != "torch")
        if not runs_on(name, platform.system()):
            detail += "; no runtime on this system: the reference evaluator computes the files"
        findings.append(DoctorFinding(name, True, detail))
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
        ("javac", "javac", "install a JDK: Android bundles contain a compiled class"),
        ("ssh", "ssh", "install the OpenSSH client"),
        ("adb", "adb", "install Android SDK Platform-Tools"),
    ):
        path = shutil.which(program)
        detail = path or f"the program {program} is not installed"
        findings.append(DoctorFinding(name, path is not None, detail, "" if path else fix))
    findings.append(_emulated())
    return findings


def _emulated() -> DoctorFinding:
    """Whether ARM64 can be emulated here."""
    try:
        emulator = userland.find()
    except EdgekdError as error:
        fault = error.faults[0]
        return DoctorFinding("emulated", False, fault.got, fault.fix)
    return DoctorFinding("emulated", True, f"ARM64 by QEMU {emulator.qemu.version}")
