"""What is installed, what works, and how to mend what does not."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from edgekd.formats import FORMATS
from edgekd.need import missing, tool_versions


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
            told += "; writes files, runs none: Core ML has no runtime here"
        findings.append(Finding(name, True, told))
    absent = missing(("torch_pruning",), extra="prune")
    pruning = f"torch-pruning {tool_versions(('torch_pruning',))['torch-pruning']}"
    findings.append(
        Finding("prune", False, absent.got, absent.fix)
        if absent
        else Finding("prune", True, pruning)
    )
    ssh = shutil.which("ssh")
    findings.append(
        Finding(
            "ssh",
            ssh is not None,
            ssh or "no ssh program",
            "" if ssh else "install the OpenSSH client",
        )
    )
    return findings
