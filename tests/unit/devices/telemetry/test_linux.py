"""Thermal zones and clock policies of Linux become the right values."""

from __future__ import annotations

from edgekd.devices.telemetry.linux import (
    Policy,
    parse_cpufreq,
    parse_thermal_zones,
)


def test_thermal_zones_are_in_thousandths_of_a_degree() -> None:
    text = (
        "/sys/class/thermal/thermal_zone0/type:cpu-thermal\n"
        "/sys/class/thermal/thermal_zone1/type:gpu-thermal\n"
        "/sys/class/thermal/thermal_zone0/temp:54212\n"
        "grep: /sys/class/thermal/thermal_zone1/temp: Resource temporarily unavailable\n"
    )
    assert parse_thermal_zones(text) == {"thermal_zone0 cpu-thermal": 54.212}


def test_clock_policies_are_parsed_by_policy_and_by_core() -> None:
    policy = "/sys/devices/system/cpu/cpufreq/policy4"
    text = (
        f"{policy}/affected_cpus:4 5\n{policy}/scaling_governor:schedutil\n"
        f"{policy}/scaling_cur_freq:1401000\n{policy}/scaling_max_freq:2253000\n"
    )
    assert parse_cpufreq(text) == {"policy4": Policy("schedutil", 1401000, None, 2253000)}
    text = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor:performance\n"
    assert parse_cpufreq(text) == {"cpu0": Policy("performance", None, None, None)}
    assert parse_cpufreq("") == {}
