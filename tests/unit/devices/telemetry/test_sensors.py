"""What boards and phones print, in every variant that is known, becomes the right value."""

from __future__ import annotations

import pytest

from edgekd.devices.telemetry.sensors import (
    AndroidTemperature,
    Core,
    Policy,
    Power,
    PowerMode,
    Tegrastats,
    parse_battery,
    parse_cpufreq,
    parse_nvpmodel,
    parse_over_current,
    parse_pi_clock_hz,
    parse_pi_temperature_celsius,
    parse_tegrastats,
    parse_thermal_zones,
    parse_thermalservice,
    parse_throttled,
)


def test_throttling_of_a_raspberry_pi_is_told_apart_by_now_and_since_boot() -> None:
    # Raspberry Pi documentation, "vcgencmd": 0x50005 is under-voltage and throttled, both.
    both = frozenset({"under-voltage", "throttled"})
    found = parse_throttled("throttled=0x50005\n")
    assert (found.now, found.since_boot, found.unknown) == (both, both, ())
    assert parse_throttled("throttled=0x0").now == frozenset()
    past = parse_throttled("throttled=0xa0000")
    assert past.now == frozenset()
    assert past.since_boot == {"frequency capped", "soft temperature limit"}
    assert parse_throttled("throttled=0x100010").unknown == (4, 20)


def test_temperature_and_clock_of_a_raspberry_pi() -> None:
    assert parse_pi_temperature_celsius("temp=54.2'C\n") == 54.2
    # raspberrypi/linux issue 1337 has 45; "the id in brackets differs by firmware".
    for number in (45, 48, 0):
        assert parse_pi_clock_hz(f"frequency({number})=600000000\n") == 600_000_000


@pytest.mark.parametrize(
    "parse", [parse_throttled, parse_pi_temperature_celsius, parse_pi_clock_hz, parse_nvpmodel]
)
def test_an_answer_that_is_no_answer_is_not_guessed_at(parse: object) -> None:
    assert callable(parse)
    with pytest.raises(ValueError, match="VCHI initialization failed"):
        parse("VCHI initialization failed")


# JetPack 7 on an AGX Orin, shortened to two cores: rbonghi/jetson_stats, read for the format.
ORIN = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,4%@729] EMC_FREQ 3%@3199 "
    "GR3D_FREQ 12%@[1300,1300] cpu@52.968C/52.968C gpu@47.625C tj@52.968C "
    "VDD_GPU_SOC 5139mW/5139mW/5139mW"
)


def test_a_line_of_tegrastats_is_read_whole() -> None:
    assert parse_tegrastats(ORIN) == Tegrastats(
        ram_used_mb=20642,
        ram_total_mb=62817,
        cores=(Core(0.23, 2201), Core(0.04, 729)),
        memory_load_frac=0.03,
        memory_clock_mhz=3199,
        gpu_load_frac=0.12,
        gpu_clocks_mhz=(1300, 1300),
        temperatures_celsius={"cpu": 52.968, "gpu": 47.625, "tj": 52.968},
        power={"VDD_GPU_SOC": Power(5139, 5139)},
    )


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        # facts/devices.md, section 5, "tegrastats": no date; the largest free block in kB.
        ("RAM 1216/3964MB (lfb 330x4MB)", {"ram_used_mb": 1216, "ram_total_mb": 3964}),
        ("RAM 1216/3964MB (lfb 10x512kB)", {"ram_used_mb": 1216, "ram_total_mb": 3964}),
        ("SWAP 0/1978MB (cached 0MB)", {"swap_used_mb": 0, "swap_total_mb": 1978}),
        # A mode that turns cores off: the 5 W one of a Jetson Nano leaves two.
        ("CPU [7%@918,0%@918,off,off]", {"cores": (Core(0.07, 918), Core(0.0, 918), None, None)}),
        ("GR3D_FREQ 10%@1300", {"gpu_load_frac": 0.1, "gpu_clocks_mhz": (1300,)}),
        ("GR3D_FREQ 12%@[1300,1300]", {"gpu_load_frac": 0.12, "gpu_clocks_mhz": (1300, 1300)}),
        # Thor tells clocks alone.
        ("GR3D_FREQ @[1000,1000,1000]", {"gpu_clocks_mhz": (1000, 1000, 1000)}),
        ("GR3D_FREQ 10%", {"gpu_load_frac": 0.1}),
        ("cpu@52.9C", {"temperatures_celsius": {"cpu": 52.9}}),
        ("VDD_IN 5000mW/4900mW", {"power": {"VDD_IN": Power(5000, 4900)}}),
    ],
)
def test_each_variant_of_tegrastats(part: str, expected: dict[str, object]) -> None:
    assert parse_tegrastats(part) == Tegrastats(**expected)  # type: ignore[arg-type]
    # Whatever comes before and after it is read as well.
    whole = parse_tegrastats(f"{part} tj@40C NVENC off")
    assert whole.temperatures_celsius["tj"] == 40
    assert whole.unknown == ("NVENC", "off")


def test_the_power_mode_of_a_jetson() -> None:
    assert parse_nvpmodel("NV Power Mode: 15W\n2\n") == PowerMode("15W", 2)
    # Any other line is told, whether it comes before or after.
    fan = parse_nvpmodel("NV Fan Mode:quiet\nNV Power Mode: MAXN\n0\n")
    assert fan == PowerMode("MAXN", 0, ("NV Fan Mode:quiet",))


def test_over_current_events_of_a_jetson_are_counted() -> None:
    text = "/sys/class/hwmon/hwmon2/oc1_event_cnt:0\n/sys/class/hwmon/hwmon2/oc3_event_cnt:17\n"
    assert parse_over_current(text) == {"oc1": 0, "oc3": 17}


def test_thermal_zones_are_in_thousandths_of_a_degree() -> None:
    text = (
        "/sys/class/thermal/thermal_zone0/type:cpu-thermal\n"
        "/sys/class/thermal/thermal_zone1/type:gpu-thermal\n"
        "/sys/class/thermal/thermal_zone0/temp:54212\n"
        "grep: /sys/class/thermal/thermal_zone1/temp: Resource temporarily unavailable\n"
    )
    assert parse_thermal_zones(text) == {"thermal_zone0 cpu-thermal": 54.212}


def test_clock_policies_are_read_by_policy_and_by_core() -> None:
    policy = "/sys/devices/system/cpu/cpufreq/policy4"
    text = (
        f"{policy}/affected_cpus:4 5\n{policy}/scaling_governor:schedutil\n"
        f"{policy}/scaling_cur_freq:1401000\n{policy}/scaling_max_freq:2253000\n"
    )
    assert parse_cpufreq(text) == {"policy4": Policy("schedutil", 1401000, None, 2253000)}
    text = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor:performance\n"
    assert parse_cpufreq(text) == {"cpu0": Policy("performance", None, None, None)}
    assert parse_cpufreq("") == {}


# facts/devices.md, section 5, "Android": the cached ones may be 0.0. What stands around the lines
# that are read is by memory of Android 12, and there to be told as unknown.
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


def test_the_thermal_service_of_android() -> None:
    heat = parse_thermalservice(PHONE)
    assert heat.status == 2
    assert heat.current == (
        AndroidTemperature("AP", "cpu", 45.6, 2),
        AndroidTemperature("SKIN", "skin", 31.0, 0),
        AndroidTemperature("NPU", None, 30.0, 0),
    )
    assert [each.celsius for each in heat.cached] == [0.0]
    assert "CoolingDevice{mValue=0, mType=2, mName=cpu}" in heat.unknown
    with pytest.raises(ValueError, match="Can't find service"):
        parse_thermalservice("Can't find service: thermalservice")


def test_the_battery_of_android() -> None:
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
