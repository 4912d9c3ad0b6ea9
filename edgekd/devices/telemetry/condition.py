"""What a device said of itself while something was timed on it, and what of it spoils the figures.

The agent sends what its sensors say word for word; `sensors` knows what it means. Here readings are
held against one another. What cannot be read is told, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from edgekd.devices.telemetry import sensors

CLOCK_FALL_FRAC = 0.05
"""How far a clock may fall; cpufreq's steps are wider than that on every board that is known.

Source: facts of the protocol in docs/benchmarks.md.
"""
BUSY_FRAC = 0.5
"""Of the cores: the load average over which a device is called noisy."""
LEAST_BATTERY_FRAC = 0.3
"""Under it phones save power, and nothing they say of speed is of any other phone."""


@dataclass(frozen=True)
class Reading:
    """A device at one moment; empty or None is what it does not tell.

    Attributes:
        at_s: seconds since the first.
        clocks_mhz: as the firmware tells them ("arm"), as tegrastats does, or by core as cpufreq
            does, which is what was asked for.
        cpu: the core on which the agent was.
        slowed: what slows the device down now.
        since_boot: what has since it was booted.
        counters: of events that throttled it, since it was booted.
        thermal_status: Android's, 0 is none.
        power_mw: by rail.
        unread: what could not be read, as it was told.
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
        """The clock that matters: the firmware's, else that of the agent's core."""
        return self.clocks_mhz.get("arm", self.clocks_mhz.get(f"cpu{self.cpu}"))

    @property
    def hottest_celsius(self) -> float | None:
        """The highest temperature that any sensor tells."""
        return max(self.temperatures_celsius.values(), default=None)

    def to_json(self) -> dict[str, Any]:
        """A JSON object of what was told."""
        told = {
            name: sorted(value) if isinstance(value, frozenset) else value
            for name, value in vars(self).items()
        }
        kept = {name: value for name, value in told.items() if value not in (None, {}, [], ())}
        return {**kept, "at_s": round(self.at_s, 3), "clock_mhz": self.clock_mhz}


def read(raw: Mapping[str, Any]) -> Reading:
    """A reading of the agent's, understood."""
    found: dict[str, Any] = {}
    unread = []
    for source, text in raw["texts"].items():
        if source not in _READERS:
            unread.append(f"{source}: {text}")
            continue
        try:
            for name, value in _READERS[source](text).items():
                both = isinstance(value, dict)
                found[name] = {**found.get(name, {}), **value} if both else value
        except ValueError as error:
            unread.append(f"{source}: {error}")
    return Reading(
        at_s=raw["at_s"],
        load_average=raw["load_average"],
        cpu=raw["cpu"],
        unread=tuple(each[:300] for each in unread),
        **found,
    )


def _files(text: str) -> dict[str, Any]:
    policies = sensors.parse_cpufreq(text)
    clocks = {name: each.current_khz for name, each in policies.items()}
    return {
        "temperatures_celsius": sensors.parse_thermal_zones(text),
        "clocks_mhz": {name: khz / 1e3 for name, khz in clocks.items() if khz},
        "governors": tuple(sorted({each.governor for each in policies.values() if each.governor})),
        "counters": sensors.parse_over_current(text),
    }


def _throttled(text: str) -> dict[str, Any]:
    found = sensors.parse_throttled(text)
    return {"slowed": found.now, "since_boot": found.since_boot}


def _tegrastats(text: str) -> dict[str, Any]:
    found = sensors.parse_tegrastats(text)
    cores = enumerate(found.cores)
    clocks = {f"cpu{n}": float(core.clock_mhz) for n, core in cores if core and core.clock_mhz}
    graphics = {f"gpu{n}": float(mhz) for n, mhz in enumerate(found.gpu_clocks_mhz)}
    return {
        "temperatures_celsius": dict(found.temperatures_celsius),
        "clocks_mhz": {**clocks, **graphics},
        "power_mw": {rail: power.now_mw for rail, power in found.power.items()},
    }


def _thermal_service(text: str) -> dict[str, Any]:
    found = sensors.parse_thermalservice(text)
    heat = {each.name: each.celsius for each in found.current}
    return {"thermal_status": found.status, "temperatures_celsius": heat}


def _battery(text: str) -> dict[str, Any]:
    found = sensors.parse_battery(text)
    return {"battery_frac": found.level_frac, "powered": found.powered}


_READERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "files": _files,
    "vcgencmd get_throttled": _throttled,
    "vcgencmd measure_temp": lambda text: {
        "temperatures_celsius": {"vcgencmd": sensors.parse_pi_temperature_celsius(text)}
    },
    "vcgencmd measure_clock arm": lambda text: {
        "clocks_mhz": {"arm": sensors.parse_pi_clock_hz(text) / 1e6}
    },
    "tegrastats": _tegrastats,
    "nvpmodel -q": lambda text: {"power_mode": sensors.parse_nvpmodel(text).name},
    "dumpsys thermalservice": _thermal_service,
    "dumpsys battery": _battery,
}


def throttled(readings: Sequence[Reading]) -> list[str]:
    """Why the figures taken while these were read are not of the device at its speed."""
    if not readings:
        return []
    first, last = readings[0], readings[-1]
    told = [f"throttled: {name}" for name in sorted({n for each in readings for n in each.slowed})]
    fresh = {n for each in readings for n in each.since_boot} - first.since_boot
    told += [f"throttled meanwhile: {name}" for name in sorted(fresh - first.slowed)]
    for name, count in last.counters.items():
        more = count - first.counters.get(name, count)
        if more > 0:
            told.append(f"throttled: {more} over-current event(s) of {name}")
    statuses = [each.thermal_status for each in readings if each.thermal_status is not None]
    if statuses and max(statuses) > 0:
        word = sensors.STATUSES[min(max(statuses), len(sensors.STATUSES) - 1)]
        told.append(f"throttled: thermal status {max(statuses)} ({word})")
    level = first.battery_frac
    if level is not None and level < LEAST_BATTERY_FRAC and not first.powered:
        told.append(f"the battery is at {level:.0%}, and nothing feeds it")
    return told


def slower_clock(processes: Sequence[Sequence[Reading]]) -> str | None:
    """How the clock fell from the first third of the readings to the last, or None.

    Args:
        processes: the readings of each; its first and last are of an idle device, whose clock may
            be low.
    """
    between = [each for readings in processes for each in readings[1:-1]]
    clocks = [each.clock_mhz for each in between if each.clock_mhz]
    third = len(clocks) // 3
    if not third:
        return None
    before, after = fmean(clocks[:third]), fmean(clocks[-third:])
    fell = after < (1 - CLOCK_FALL_FRAC) * before
    return f"the clock fell from {before:.0f} to {after:.0f} MHz" if fell else None


def too_hot(reading: Reading) -> str | None:
    """What to wait for before anything is timed, or None."""
    if reading.slowed:
        return ", ".join(sorted(reading.slowed))
    if reading.thermal_status:
        word = sensors.STATUSES[min(reading.thermal_status, len(sensors.STATUSES) - 1)]
        return f"thermal status {word}"
    return None


def noisy(reading: Reading, cores: int | None) -> str | None:
    """What else computed before the first sample, or None."""
    load = reading.load_average
    if load is None or not cores or load <= BUSY_FRAC * cores:
        return None
    return f"load average {load:.1f} on {cores} core(s) before it began"


def summary(readings: Sequence[Reading]) -> dict[str, Any]:
    """Readings as a report holds them: the first, the last, and between them ranges and means."""
    if not readings:
        return {}
    between = readings[1:-1]
    rails = {rail for each in between for rail in each.power_mw}
    told: dict[str, Any] = {"count": len(between)}
    for name, values in (
        ("clock_mhz", [each.clock_mhz for each in between]),
        ("hottest_celsius", [each.hottest_celsius for each in between]),
        ("load_average", [each.load_average for each in between]),
    ):
        known = [value for value in values if value is not None]
        told[name] = [min(known), max(known)] if known else None
    told["power_mw"] = {
        rail: fmean([each.power_mw[rail] for each in between if rail in each.power_mw])
        for rail in sorted(rails)
    }
    return {"before": readings[0].to_json(), "during": told, "after": readings[-1].to_json()}
