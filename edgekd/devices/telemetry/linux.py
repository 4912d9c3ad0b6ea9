"""Parsers of Linux's thermal zones and clock policies."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgekd.devices.telemetry.text import integer, text_lines


def parse_thermal_zones(text: str) -> dict[str, float]:
    """Parse temperatures in degrees Celsius by zone: {"thermal_zone0 cpu-thermal": 54.2}.

    Args:
        text: output of `grep . /sys/class/thermal/thermal_zone*/{type,temp}`.

    Source: Linux, Documentation/ABI/testing/sysfs-class-thermal (millidegrees).
    """
    zones = _by_folder(text, r"thermal_zone\d+")
    return {
        f"{zone} {files['type']}": int(files["temp"]) / 1000
        for zone, files in zones.items()
        if "type" in files and re.fullmatch(r"-?\d+", files.get("temp", ""))
    }


@dataclass(frozen=True)
class Policy:
    """Cores that share a clock. `current_khz` is the requested clock, not always the real one."""

    governor: str | None
    current_khz: int | None
    min_khz: int | None
    max_khz: int | None


def parse_cpufreq(text: str) -> dict[str, Policy]:
    """Parse the clock policies by name: {"policy0": ...}; empty in a virtual machine.

    Args:
        text: output of `grep . PATH`, PATH below /sys/devices/system/cpu: cpufreq/policy*/*
            or cpu*/cpufreq/*.

    Source: Linux, Documentation/admin-guide/pm/cpufreq.rst.
    """
    policies = _by_folder(text.replace("/cpufreq/scaling_", "/scaling_"), r"policy\d+|cpu\d+")
    return {
        name: Policy(
            governor=files.get("scaling_governor"),
            current_khz=integer(files.get("scaling_cur_freq")),
            min_khz=integer(files.get("scaling_min_freq")),
            max_khz=integer(files.get("scaling_max_freq")),
        )
        for name, files in policies.items()
    }


def _by_folder(text: str, folder: str) -> dict[str, dict[str, str]]:
    """Group lines PATH:TEXT of `grep .` by folder, whose name matches `folder`, and file."""
    groups: dict[str, dict[str, str]] = {}
    for line in text_lines(text):
        match = re.fullmatch(rf"\S*/({folder})/([\w-]+):(.*)", line)
        if match:
            groups.setdefault(match[1], {})[match[2]] = match[3].strip()
    return groups
