"""Whether a phone is fit to be timed on, and which of its cores to take."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from edgekd.devices.telemetry.sensors import STATUSES, parse_battery, parse_thermalservice
from edgekd.system.process import Completed, pause

LEAST_BATTERY_FRAC = 0.3
"""Below it phones save power. Source: facts of the measurement protocol, docs/devices.md."""
COOL_S = 300.0
"""The longest wait for a phone to cool. Source: MLPerf Mobile's cooldown before each task."""
LOOK_S = 5.0

Run = Callable[[str], Completed]
"""Runs a line of shell on the phone."""


def not_ready(run: Run, *, cool_s: float = COOL_S) -> str | None:
    """Why nothing can be timed on the phone now, or None; a hot one is given `cool_s` to cool.

    What a phone does not tell is not held against it.
    """
    done = run("dumpsys battery")
    try:
        battery = parse_battery(done.stdout.decode(errors="replace")) if done.code == 0 else None
    except ValueError:
        battery = None
    if battery and battery.level_frac < LEAST_BATTERY_FRAC and not battery.powered:
        return f"the battery is at {battery.level_frac:.0%}, and nothing feeds it"
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
            status = STATUSES[min(heat.status, len(STATUSES) - 1)]
            told = f"thermal status {heat.status} ({status}) after {cool_s:.0f} s of waiting"
            hot = max(heat.current, key=lambda each: each.celsius, default=None)
            return f"{told}: {hot.name} is at {hot.celsius:g} C" if hot else told
        pause(min(LOOK_S, cool_s / 10))


def big_cores(run: Run, threads: int) -> str:
    """The mask for taskset of the fastest cores: of as few clusters as hold `threads` of them.

    Raises:
        ValueError: the phone does not tell its cores' clocks.
    """
    done = run(
        "for f in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq; "
        'do echo "$f:$(cat $f)"; done'
    )
    found = re.findall(r"/cpu(\d+)/cpufreq/cpuinfo_max_freq:(\d+)", done.stdout.decode())
    return mask_of({int(core): int(khz) for core, khz in found}, threads)


def mask_of(max_khz: dict[int, int], threads: int) -> str:
    """The hexadecimal mask of the fastest cores, by the highest clock of each.

    Raises:
        ValueError: there are none.
    """
    if not max_khz:
        raise ValueError("it tells no cpuinfo_max_freq of its cores")
    chosen: list[int] = []
    for clock in sorted(set(max_khz.values()), reverse=True):
        chosen += [core for core, khz in max_khz.items() if khz == clock]
        if len(chosen) >= threads:
            break
    return f"{sum(1 << core for core in chosen):x}"
