"""Whether a phone is ready for a measurement, and which of its cores to use."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from edgekd.devices.telemetry.android import parse_battery, parse_thermalservice, status_name
from edgekd.system.process import Completed, pause

LEAST_BATTERY_FRAC = 0.3
"""Below it phones save power. Source: facts of the measurement protocol, docs/devices.md."""
COOL_S = 300.0
"""The longest wait for a phone to cool. Source: MLPerf Mobile's cooldown before each task."""
POLL_S = 5.0

Run = Callable[[str], Completed]
"""A function that runs a shell command on the phone."""


def not_ready(run: Run, *, cool_s: float = COOL_S) -> str | None:
    """Why latency cannot be measured on the phone now, or None.

    A hot phone is given `cool_s` to cool. Values that a phone does not report are ignored.
    """
    done = run("dumpsys battery")
    try:
        battery = parse_battery(done.stdout.decode(errors="replace")) if done.code == 0 else None
    except ValueError:
        battery = None
    if battery and battery.level_frac < LEAST_BATTERY_FRAC and not battery.powered:
        return f"the battery is at {battery.level_frac:.0%} and not charging"
    deadline = time.monotonic() + cool_s
    while True:
        done = run("dumpsys thermalservice")
        try:
            heat = parse_thermalservice(done.stdout.decode(errors="replace"))
        except ValueError:
            return None
        if heat.status == 0:
            return None
        if time.monotonic() >= deadline:
            status = f"thermal status {heat.status} ({status_name(heat.status)})"
            reason = f"{status} after {cool_s:.0f} s of waiting"
            hottest = max(heat.current, key=lambda sensor: sensor.celsius, default=None)
            return f"{reason}: {hottest.name} is at {hottest.celsius:g} C" if hottest else reason
        pause(min(POLL_S, cool_s / 10))


def big_cores(run: Run, threads: int) -> str:
    """The taskset mask of the fastest clusters: as few as have `threads` cores.

    Raises:
        ValueError: the phone does not report the clocks of its cores.
    """
    done = run(
        "for f in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq; "
        'do echo "$f:$(cat $f)"; done'
    )
    clocks = re.findall(r"/cpu(\d+)/cpufreq/cpuinfo_max_freq:(\d+)", done.stdout.decode())
    return mask_of({int(core): int(khz) for core, khz in clocks}, threads)


def mask_of(max_khz: dict[int, int], threads: int) -> str:
    """The hexadecimal mask of the fastest cores.

    Args:
        max_khz: the highest clock of each core.

    Raises:
        ValueError: no clock is known.
    """
    if not max_khz:
        raise ValueError("no core reports cpuinfo_max_freq")
    chosen: list[int] = []
    for clock in sorted(set(max_khz.values()), reverse=True):
        chosen += [core for core, khz in max_khz.items() if khz == clock]
        if len(chosen) >= threads:
            break
    return f"{sum(1 << core for core in chosen):x}"
