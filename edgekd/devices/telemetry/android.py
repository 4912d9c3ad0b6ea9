"""Parsers of Android's `dumpsys`: heat and battery."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgekd.devices.telemetry.text import NUMBER, text_lines

STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Names of Android's thermal status by number. Source: Android NDK, thermal.h, AThermalStatus."""
SENSOR_KINDS = {0: "cpu", 1: "gpu", 2: "battery", 3: "skin"}


def status_name(status: int) -> str:
    """The name of a thermal status; numbers that Android may add later count as the last."""
    return STATUSES[min(status, len(STATUSES) - 1)]


@dataclass(frozen=True)
class AndroidTemperature:
    """A sensor: its kind if that is known, its temperature and its own thermal status."""

    name: str
    kind: str | None
    celsius: float
    status: int


@dataclass(frozen=True)
class AndroidHeat:
    """The report of Android's thermal service.

    Attributes:
        status: a number; see `STATUSES`.
        current: temperatures from the hardware; the service's own cache may hold zeros.
    """

    status: int
    current: tuple[AndroidTemperature, ...]
    cached: tuple[AndroidTemperature, ...] = ()
    unknown: tuple[str, ...] = ()


_TEMPERATURE = re.compile(
    rf"Temperature\{{mValue=({NUMBER}), mType=(-?\d+), mName=([^,]*), mStatus=(\d+)\}}"
)


def parse_thermalservice(text: str) -> AndroidHeat:
    """Parse the output of `dumpsys thermalservice`.

    Raises:
        ValueError: it has no thermal status.
    """
    status: int | None = None
    sections: dict[str, list[AndroidTemperature]] = {"current": [], "cached": []}
    section: str | None = None
    unknown = []
    for line in text_lines(text):
        if match := re.fullmatch(r"Thermal Status: (\d+)", line):
            status = int(match[1])
        elif line == "Cached temperatures:":
            section = "cached"
        elif line == "Current temperatures from HAL:":
            section = "current"
        elif section and (match := _TEMPERATURE.fullmatch(line)):
            celsius, kind, name, own = match.groups()
            sections[section].append(
                AndroidTemperature(name, SENSOR_KINDS.get(int(kind)), float(celsius), int(own))
            )
        else:
            if line.endswith(":"):
                section = None
            unknown.append(line)
    if status is None:
        raise ValueError(f"dumpsys thermalservice printed no status: {text.strip()[:200]!r}")
    return AndroidHeat(
        status, tuple(sections["current"]), tuple(sections["cached"]), tuple(unknown)
    )


@dataclass(frozen=True)
class Battery:
    """A phone's battery: its level (0-1), its temperature, and whether it is being charged."""

    level_frac: float
    celsius: float | None
    powered: bool
    unknown: tuple[str, ...] = ()


def parse_battery(text: str) -> Battery:
    """Parse the output of `dumpsys battery`.

    Raises:
        ValueError: it has no level.

    Source: Android, BatteryManager: EXTRA_TEMPERATURE is in tenths of a degree.
    """
    values: dict[str, str] = {}
    unknown = []
    for line in text_lines(text):
        name, _, value = line.partition(": ")
        number = name in ("level", "scale", "temperature") and re.fullmatch(r"-?\d+", value)
        if number or (name.endswith(" powered") and value in ("true", "false")):
            values[name] = value
        elif line != "Current Battery Service state:":
            unknown.append(line)
    if "level" not in values or int(values.get("scale", "100")) <= 0:
        raise ValueError(f"dumpsys battery printed no level: {text.strip()[:200]!r}")
    return Battery(
        level_frac=int(values["level"]) / int(values.get("scale", "100")),
        celsius=int(values["temperature"]) / 10 if "temperature" in values else None,
        powered=any(values[name] == "true" for name in values if name.endswith(" powered")),
        unknown=tuple(unknown),
    )
