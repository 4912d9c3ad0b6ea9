"""Readings of sensors, as the agent sends them, and what makes a measurement unreliable."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.devices.telemetry.condition import (
    Reading,
    noisy,
    read,
    slower_clock,
    summary,
    throttled,
    too_hot,
)


def raw(at_s: float = 0.0, cpu: int | None = 0, load: float = 0.0, **texts: str) -> dict[str, Any]:
    """A reading as the agent sends it; "_" in a source's name stands for a space."""
    sources = {name.replace("_", " ", 1): text for name, text in texts.items()}
    return {"at_s": at_s, "load_average": load, "cpu": cpu, "texts": sources}


def clocked(*khz: int) -> list[Reading]:
    """A reading before, one per clock of core 0, and one after."""
    path = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
    during = [read(raw(float(n), files=f"{path}:{clock}")) for n, clock in enumerate(khz)]
    return [Reading(-1.0), *during, Reading(99.0)]


def test_a_raspberry_pi_reports_temperature_clock_and_throttling() -> None:
    reading = read(
        {
            "at_s": 1.0,
            "load_average": 0.2,
            "cpu": 2,
            "texts": {
                "files": "/sys/class/thermal/thermal_zone0/type:cpu-thermal\n"
                "/sys/class/thermal/thermal_zone0/temp:84212\n"
                "/sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq:2400000",
                "vcgencmd get_throttled": "throttled=0xe0008",
                "vcgencmd measure_temp": "temp=84.0'C",
                "vcgencmd measure_clock arm": "frequency(0)=1500006144",
            },
        }
    )
    assert reading.slowed == {"soft temperature limit"}
    assert reading.hottest_celsius == 84.212
    # cpufreq reports the requested clock, the firmware the real one.
    assert reading.clock_mhz == pytest.approx(1500.006144)
    assert too_hot(reading) == "soft temperature limit"
    assert throttled([reading, reading])[0] == "throttled: soft temperature limit"


def test_throttling_before_the_measurement_does_not_count() -> None:
    past = read(raw(vcgencmd_get_throttled="throttled=0x50000"))
    assert throttled([past, past]) == []
    more = read(raw(vcgencmd_get_throttled="throttled=0xd0000"))
    assert throttled([past, more]) == ["throttled between readings: soft temperature limit"]


def test_over_current_events_are_counted_during_the_measurement() -> None:
    path = "/sys/class/hwmon/hwmon2/oc3_event_cnt"
    before, after = (read(raw(files=f"{path}:{n}")) for n in (17, 19))
    assert throttled([before, before]) == []
    assert throttled([before, after]) == ["throttled: 2 over-current event(s) of oc3"]


def test_a_jetson_reports_clocks_power_and_power_mode() -> None:
    line = "RAM 1/2MB (lfb 1x2MB) CPU [23%@2201,off] GR3D_FREQ 12%@[1300] tj@52C VDD_IN 5000mW/1mW"
    reading = read(raw(tegrastats=line, **{"nvpmodel_-q": "NV Power Mode: 15W\n2\n"}))
    assert reading.clocks_mhz == {"cpu0": 2201, "gpu0": 1300}
    assert reading.power_mode == "15W"
    report = summary([Reading(0), reading, reading, Reading(3)])
    assert report["during"]["power_mw"] == {"VDD_IN": 5000}
    assert report["during"]["count"] == 2


def test_a_throttled_phone_or_a_low_battery_is_flagged() -> None:
    text = (
        "Thermal Status: {}\nCurrent temperatures from HAL:\n"
        "\tTemperature{{mValue=45.6, mType=0, mName=AP, mStatus=2}}"
    )
    cool = read(raw(dumpsys_thermalservice=text.format(0)))
    warm = read(raw(dumpsys_thermalservice=text.format(2)))
    assert throttled([cool, cool]) == []
    assert throttled([cool, warm]) == ["throttled: thermal status 2 (moderate)"]
    assert too_hot(warm) == "thermal status moderate"
    empty = read(raw(dumpsys_battery="level: 20\nUSB powered: false"))
    assert throttled([empty]) == ["the battery is at 20% and not charging"]
    assert throttled([read(raw(dumpsys_battery="level: 20\nUSB powered: true"))]) == []


def test_a_falling_clock_is_flagged_and_a_rising_one_is_not() -> None:
    assert slower_clock([clocked(2400000, 2400000, 2400000)]) is None
    assert slower_clock([clocked(600000, 2400000, 2400000)]) is None
    fell = slower_clock([clocked(2400000, 2400000, 1800000)])
    assert fell == "the clock fell from 2400 to 1800 MHz"
    # Also from one process to the next.
    both = [clocked(2400000, 2400000, 2300000), clocked(2100000, 1800000, 1800000)]
    assert slower_clock(both) == "the clock fell from 2400 to 1800 MHz"
    # Two readings are too few: the governor may have lowered the clock of an idle core.
    assert slower_clock([clocked(2400000, 1800000)]) is None
    assert slower_clock([]) is None


def test_text_that_cannot_be_parsed_is_kept_as_unread() -> None:
    reading = read(raw(vcgencmd_get_throttled="VCHI initialization failed", lm_sensors="hot"))
    assert not reading.slowed
    assert any("VCHI initialization failed" in text for text in reading.unread)
    assert "lm sensors: hot" in reading.unread
    assert "unread" in reading.to_json()


def test_a_machine_without_sensors_reports_nothing() -> None:
    empty = read(raw(cpu=None, files=""))
    assert throttled([empty, empty]) == []
    assert too_hot(empty) is None
    assert throttled([]) == []
    assert summary([]) == {}


def test_a_busy_machine_is_noisy() -> None:
    assert noisy(read(raw(load=0.9)), 2) is None
    assert "load average 3.0 on 2 core(s)" in str(noisy(read(raw(load=3.0)), 2))
    assert noisy(read(raw(load=3.0)), None) is None
