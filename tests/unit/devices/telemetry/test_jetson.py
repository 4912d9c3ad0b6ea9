"""The output of a Jetson's tools, in every known variant, becomes the right value."""

from __future__ import annotations

import pytest

from edgekd.devices.telemetry.jetson import (
    Core,
    Power,
    PowerMode,
    Tegrastats,
    parse_nvpmodel,
    parse_over_current,
    parse_tegrastats,
)

# JetPack 7 on an AGX Orin, shortened to two cores: rbonghi/jetson_stats, read for the format.
ORIN = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,4%@729] EMC_FREQ 3%@3199 "
    "GR3D_FREQ 12%@[1300,1300] cpu@52.968C/52.968C gpu@47.625C tj@52.968C "
    "VDD_GPU_SOC 5139mW/5139mW/5139mW"
)


def test_every_part_of_a_tegrastats_line_is_parsed() -> None:
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
        # No date, and the largest free block in kB.
        ("RAM 1216/3964MB (lfb 330x4MB)", {"ram_used_mb": 1216, "ram_total_mb": 3964}),
        ("RAM 1216/3964MB (lfb 10x512kB)", {"ram_used_mb": 1216, "ram_total_mb": 3964}),
        ("SWAP 0/1978MB (cached 0MB)", {"swap_used_mb": 0, "swap_total_mb": 1978}),
        # A mode that turns cores off: the 5 W one of a Jetson Nano leaves two.
        ("CPU [7%@918,0%@918,off,off]", {"cores": (Core(0.07, 918), Core(0.0, 918), None, None)}),
        ("GR3D_FREQ 10%@1300", {"gpu_load_frac": 0.1, "gpu_clocks_mhz": (1300,)}),
        ("GR3D_FREQ 12%@[1300,1300]", {"gpu_load_frac": 0.12, "gpu_clocks_mhz": (1300, 1300)}),
        # Thor prints clocks only.
        ("GR3D_FREQ @[1000,1000,1000]", {"gpu_clocks_mhz": (1000, 1000, 1000)}),
        ("GR3D_FREQ 10%", {"gpu_load_frac": 0.1}),
        ("cpu@52.9C", {"temperatures_celsius": {"cpu": 52.9}}),
        ("VDD_IN 5000mW/4900mW", {"power": {"VDD_IN": Power(5000, 4900)}}),
    ],
)
def test_each_variant_of_a_tegrastats_part_is_parsed(
    part: str, expected: dict[str, object]
) -> None:
    assert parse_tegrastats(part) == Tegrastats(**expected)  # type: ignore[arg-type]
    # The parts around it are parsed too.
    whole = parse_tegrastats(f"{part} tj@40C NVENC off")
    assert whole.temperatures_celsius["tj"] == 40
    assert whole.unknown == ("NVENC", "off")


def test_the_power_mode_is_parsed() -> None:
    assert parse_nvpmodel("NV Power Mode: 15W\n2\n") == PowerMode("15W", 2)
    # Other lines are kept as unknown.
    fan = parse_nvpmodel("NV Fan Mode:quiet\nNV Power Mode: MAXN\n0\n")
    assert fan == PowerMode("MAXN", 0, ("NV Fan Mode:quiet",))


def test_an_error_message_is_not_parsed_as_a_power_mode() -> None:
    with pytest.raises(ValueError, match="nvpmodel: command failed"):
        parse_nvpmodel("nvpmodel: command failed")


def test_over_current_events_are_counted() -> None:
    text = "/sys/class/hwmon/hwmon2/oc1_event_cnt:0\n/sys/class/hwmon/hwmon2/oc3_event_cnt:17\n"
    assert parse_over_current(text) == {"oc1": 0, "oc3": 17}
