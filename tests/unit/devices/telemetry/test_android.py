"""The output of Android's `dumpsys` becomes the right values."""

from __future__ import annotations

import pytest

from edgekd.devices.telemetry.android import (
    AndroidTemperature,
    parse_battery,
    parse_thermalservice,
)

# Cached temperatures may be 0.0. The lines around them are like those of Android 12, and unknown.
PHONE = """\
IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 1
Thermal Status: 2
Cached temperatures:
\tTemperature{mValue=0.0, mType=0, mName=AP, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{mValue=45.6, mType=0, mName=AP, mStatus=2}
\tTemperature{mValue=31.0, mType=3, mName=SKIN, mStatus=0}
\tTemperature{mValue=30.0, mType=9, mName=NPU, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=cpu}
"""


def test_the_thermal_service_is_parsed() -> None:
    heat = parse_thermalservice(PHONE)
    assert heat.status == 2
    assert heat.current == (
        AndroidTemperature("AP", "cpu", 45.6, 2),
        AndroidTemperature("SKIN", "skin", 31.0, 0),
        AndroidTemperature("NPU", None, 30.0, 0),
    )
    assert [sensor.celsius for sensor in heat.cached] == [0.0]
    assert "CoolingDevice{mValue=0, mType=2, mName=cpu}" in heat.unknown
    with pytest.raises(ValueError, match="Can't find service"):
        parse_thermalservice("Can't find service: thermalservice")


def test_the_battery_is_parsed() -> None:
    text = (
        "Current Battery Service state:\n  AC powered: false\n  USB powered: true\n"
        "  Wireless powered: false\n  status: 2\n  level: 85\n  scale: 100\n  temperature: 290\n"
    )
    battery = parse_battery(text)
    assert (battery.level_frac, battery.celsius, battery.powered) == (0.85, 29.0, True)
    assert battery.unknown == ("status: 2",)
    assert not parse_battery("level: 3\nAC powered: false").powered
    with pytest.raises(ValueError, match="no level"):
        parse_battery("Can't find service: battery")
