"""The condition of a device while it measured, and what makes its figures unreliable.

The agent sends the output of its sensors unchanged, and one parser per platform reads it. What
cannot be parsed is reported as unread, never guessed. This file compares readings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from edgekd.devices.telemetry import android, jetson, linux, raspberry_pi

CLOCK_FALL_FRAC = 0.05
"""The largest tolerated fall of a clock; the steps of cpufreq are wider on every known board.

Source: facts of the protocol in docs/benchmarks.md.
"""
BUSY_FRAC = 0.5
"""The load average, as a share of the cores, above which a device is noisy."""
LEAST_BATTERY_FRAC = 0.3
"""Below this level phones save power, so their latency is not typical."""


@dataclass(frozen=True)
class Reading:
    """The condition of a device at one moment; empty or None is a value that it does not report.

    Attributes:
        at_s: seconds since the first reading.
        clocks_mhz: from the firmware ("arm"), from tegrastats, or by core from cpufreq, which
            reports the requested clock.
        cpu: the core that the agent ran on.
        slowed: the reasons why the device is slowed down now.
        since_boot: the reasons why it was slowed down at any time since boot.
        counters: throttling events since boot.
        thermal_status: Android's, 0 is none.
        power_mw: by rail.
        unread: text that could not be parsed.
    """

    at_s: float
    load_average: float | None = None
    cpu: int | None = None
    temperatures_celsius: Mapping[str, float] = field(default_factory=dict)
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    governors: tuple[str, ...] = ()
    slowed: frozenset[str] = frozenset()
    since_boot: frozenset[str] = frozenset()
    counters: Mapping[str, int] = field(default_factory=dict)
    thermal_status: int | None = None
    power_mw: Mapping[str, int] = field(default_factory=dict)
    power_mode: str | None = None
    battery_frac: float | None = None
    powered: bool | None = None
    unread: tuple[str, ...] = ()

    @property
    def clock_mhz(self) -> float | None:
        """The firmware's clock, else the clock of the agent's core."""
        return self.clocks_mhz.get("arm", self.clocks_mhz.get(f"cpu{self.cpu}"))

    @property
    def hottest_celsius(self) -> float | None:
        """The highest temperature of all sensors."""
        return max(self.temperatures_celsius.values(), default=None)

    def to_json(self) -> dict[str, Any]:
        """The reported values as a JSON object."""
        values = {
            name: sorted(value) if isinstance(value, frozenset) else value
            for name, value in vars(self).items()
        }
        known = {name: value for name, value in values.items() if value not in (None, {}, [], ())}
        return {**known, "at_s": round(self.at_s, 3), "clock_mhz": self.clock_mhz}


def read(raw: Mapping[str, Any]) -> Reading:
    """Parse a reading that the agent sent."""
    values: dict[str, Any] = {}
    unread = []
    for source, text in raw["texts"].items():
        if source not in _PARSERS:
            unread.append(f"{source}: {text}")
            continue
        try:
            for name, value in _PARSERS[source](text).items():
                table = isinstance(value, dict)
                _check_finite(value.values() if table else [value])
                values[name] = {**values.get(name, {}), **value} if table else value
        except (ValueError, ArithmeticError) as error:
            unread.append(f"{source}: {error}")
    return Reading(
        at_s=raw["at_s"],
        load_average=raw["load_average"],
        cpu=raw["cpu"],
        unread=tuple(text[:300] for text in unread),
        **values,
    )


def _check_finite(values: Iterable[Any]) -> None:
    """Raise a ValueError for a number of hundreds of digits, which is infinite."""
    for value in values:
        if isinstance(value, int | float) and not abs(value) < 2**63:
            raise ValueError(f"a value of {value!r}"[:80])


def _files(text: str) -> dict[str, Any]:
    policies = linux.parse_cpufreq(text)
    clocks = {name: policy.current_khz for name, policy in policies.items()}
    governors = {policy.governor for policy in policies.values() if policy.governor}
    return {
        "temperatures_celsius": linux.parse_thermal_zones(text),
        "clocks_mhz": {name: khz / 1e3 for name, khz in clocks.items() if khz},
        "governors": tuple(sorted(governors)),
        "counters": jetson.parse_over_current(text),
    }


def _throttled(text: str) -> dict[str, Any]:
    throttling = raspberry_pi.parse_throttled(text)
    return {"slowed": throttling.now, "since_boot": throttling.since_boot}


def _tegrastats(text: str) -> dict[str, Any]:
    stats = jetson.parse_tegrastats(text)
    cores = enumerate(stats.cores)
    clocks = {f"cpu{n}": float(core.clock_mhz) for n, core in cores if core and core.clock_mhz}
    graphics = {f"gpu{n}": float(mhz) for n, mhz in enumerate(stats.gpu_clocks_mhz)}
    return {
        "temperatures_celsius": dict(stats.temperatures_celsius),
        "clocks_mhz": {**clocks, **graphics},
        "power_mw": {rail: power.now_mw for rail, power in stats.power.items()},
    }


def _thermal_service(text: str) -> dict[str, Any]:
    heat = android.parse_thermalservice(text)
    temperatures = {sensor.name: sensor.celsius for sensor in heat.current}
    return {"thermal_status": heat.status, "temperatures_celsius": temperatures}


def _battery(text: str) -> dict[str, Any]:
    battery = android.parse_battery(text)
    return {"battery_frac": battery.level_frac, "powered": battery.powered}


_PARSERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "files": _files,
    "vcgencmd get_throttled": _throttled,
    "vcgencmd measure_temp": lambda text: {
        "temperatures_celsius": {"vcgencmd": raspberry_pi.parse_pi_temperature_celsius(text)}
    },
    "vcgencmd measure_clock arm": lambda text: {
        "clocks_mhz": {"arm": raspberry_pi.parse_pi_clock_hz(text) / 1e6}
    },
    "tegrastats": _tegrastats,
    "nvpmodel -q": lambda text: {"power_mode": jetson.parse_nvpmodel(text).name},
    "dumpsys thermalservice": _thermal_service,
    "dumpsys battery": _battery,
}


def throttled(readings: Sequence[Reading]) -> list[str]:
    """The reasons why the device was throttled during these readings, empty if it was not."""
    if not readings:
        return []
    first, last = readings[0], readings[-1]
    slowed = {reason for reading in readings for reason in reading.slowed}
    reasons = [f"throttled: {reason}" for reason in sorted(slowed)]
    new = {reason for reading in readings for reason in reading.since_boot} - first.since_boot
    reasons += [f"throttled between readings: {reason}" for reason in sorted(new - first.slowed)]
    for name, count in last.counters.items():
        more = count - first.counters.get(name, count)
        if more > 0:
            reasons.append(f"throttled: {more} over-current event(s) of {name}")
    statuses = [r.thermal_status for r in readings if r.thermal_status is not None]
    if statuses and max(statuses) > 0:
        name = android.status_name(max(statuses))
        reasons.append(f"throttled: thermal status {max(statuses)} ({name})")
    level = first.battery_frac
    if level is not None and level < LEAST_BATTERY_FRAC and not first.powered:
        reasons.append(f"the battery is at {level:.0%} and not charging")
    return reasons


def slower_clock(processes: Sequence[Sequence[Reading]]) -> str | None:
    """The fall of the clock from the first third of the readings to the last third, or None.

    Args:
        processes: the readings of each process. The first and the last reading of a process are
            left out: the device was idle then, and its clock may be low.
    """
    between = [reading for readings in processes for reading in readings[1:-1]]
    clocks = [reading.clock_mhz for reading in between if reading.clock_mhz]
    third = len(clocks) // 3
    if not third:
        return None
    before, after = fmean(clocks[:third]), fmean(clocks[-third:])
    if after >= (1 - CLOCK_FALL_FRAC) * before:
        return None
    return f"the clock fell from {before:.0f} to {after:.0f} MHz"


def too_hot(reading: Reading) -> str | None:
    """Why the device must cool before a measurement, or None."""
    if reading.slowed:
        return ", ".join(sorted(reading.slowed))
    if reading.thermal_status:
        return f"thermal status {android.status_name(reading.thermal_status)}"
    return None


def noisy(reading: Reading, cores: int | None) -> str | None:
    """The load of other processes before the first sample, or None if it is low."""
    load = reading.load_average
    if load is None or not cores or load <= BUSY_FRAC * cores:
        return None
    return f"load average {load:.1f} on {cores} core(s) before the measurement"


def summary(readings: Sequence[Reading]) -> dict[str, Any]:
    """The first and the last reading, and ranges and means of those between, for a report."""
    if not readings:
        return {}
    between = readings[1:-1]
    rails = {rail for reading in between for rail in reading.power_mw}
    during: dict[str, Any] = {"count": len(between)}
    for name, values in (
        ("clock_mhz", [reading.clock_mhz for reading in between]),
        ("hottest_celsius", [reading.hottest_celsius for reading in between]),
        ("load_average", [reading.load_average for reading in between]),
    ):
        known = [value for value in values if value is not None]
        during[name] = [min(known), max(known)] if known else None
    during["power_mw"] = {
        rail: fmean([r.power_mw[rail] for r in between if rail in r.power_mw])
        for rail in sorted(rails)
    }
    return {"before": readings[0].to_json(), "during": during, "after": readings[-1].to_json()}
