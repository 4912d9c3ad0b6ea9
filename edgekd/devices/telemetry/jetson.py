"""Parsers of a Jetson's `tegrastats`, `nvpmodel` and over-current counters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from edgekd.devices.telemetry.text import NUMBER, integer, text_lines


@dataclass(frozen=True)
class Core:
    """A core that is on: its load (0-1), and its clock if tegrastats prints it."""

    load_frac: float
    clock_mhz: int | None


@dataclass(frozen=True)
class Power:
    """The power of a rail, now and on average since tegrastats started."""

    now_mw: int
    average_mw: int | None


@dataclass(frozen=True)
class Tegrastats:
    """A line of `tegrastats`; None is a value that the line lacks.

    Attributes:
        cores: by number; None for a core that is off.
        gpu_clocks_mhz: one per graphics cluster.
        temperatures_celsius, power: by sensor and by rail, as the board names them.
        unknown: words that were not understood.
    """

    ram_used_mb: int | None = None
    ram_total_mb: int | None = None
    swap_used_mb: int | None = None
    swap_total_mb: int | None = None
    cores: tuple[Core | None, ...] = ()
    memory_load_frac: float | None = None
    memory_clock_mhz: int | None = None
    gpu_load_frac: float | None = None
    gpu_clocks_mhz: tuple[int, ...] = ()
    temperatures_celsius: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    power: Mapping[str, Power] = field(default_factory=lambda: MappingProxyType({}))
    unknown: tuple[str, ...] = ()


# The parts of a line, matched from its start one after another.
_TEGRA = {
    "date": r"\d\d-\d\d-\d{4} \d\d:\d\d:\d\d",
    "ram": r"RAM (?P<ram_used>\d+)/(?P<ram_total>\d+)MB \(lfb \d+x\d+[kM]B\)",
    "swap": r"SWAP (?P<swap_used>\d+)/(?P<swap_total>\d+)MB \(cached \d+MB\)",
    "cpu": r"CPU \[(?P<cores>(?:off|\d+%(?:@\d+)?)(?:,(?:off|\d+%(?:@\d+)?))*)\]",
    "memory": r"EMC_FREQ (?P<memory_load>\d+)%(?:@(?P<memory_clock>\d+))?",
    "gpu": r"GR3D_FREQ (?P<gpu>(?P<gpu_load>\d+)%|(?=@))(?:@\[?(?P<gpu_clocks>\d+(?:,\d+)*)\]?)?",
    "heat": rf"(?P<sensor>[\w-]+)@(?P<heat>{NUMBER})C(?:/{NUMBER}C)?",
    # JetPack 4 writes no unit: POM_5V_IN 2356/2356.
    "rail": r"(?P<rail>[\w-]+) (?P<now>\d+)"
    r"(?:mW(?:/(?P<average>\d+)mW(?:/\d+mW)?)?|/(?P<bare>\d+))",
}
_TEGRA_PARTS = {name: re.compile(rf"(?:{part})(?=\s|$)") for name, part in _TEGRA.items()}


def parse_tegrastats(line: str) -> Tegrastats:
    """Parse a line of NVIDIA's `tegrastats` from JetPack 4 to 7.

    A sensor may have two temperatures, a rail three values of power. The current temperature is
    kept, and the current and the average power.
    """
    values: dict[str, str] = {}
    heat: dict[str, float] = {}
    power: dict[str, Power] = {}
    unknown = []
    rest = line.strip()
    while rest:
        match = next((m for part in _TEGRA_PARTS.values() if (m := part.match(rest))), None)
        if match is None:
            word = rest.split()[0]
            unknown.append(word)
            rest = rest[len(word) :].lstrip()
            continue
        groups = {name: text for name, text in match.groupdict().items() if text is not None}
        if "sensor" in groups:
            heat[groups["sensor"]] = float(groups["heat"])
        elif "rail" in groups:
            average = groups.get("average", groups.get("bare"))
            power[groups["rail"]] = Power(int(groups["now"]), int(average) if average else None)
        values |= groups
        rest = rest[match.end() :].lstrip()
    return Tegrastats(
        ram_used_mb=integer(values.get("ram_used")),
        ram_total_mb=integer(values.get("ram_total")),
        swap_used_mb=integer(values.get("swap_used")),
        swap_total_mb=integer(values.get("swap_total")),
        cores=tuple(_core(text) for text in values.get("cores", "").split(",") if text),
        memory_load_frac=_frac(values.get("memory_load")),
        memory_clock_mhz=integer(values.get("memory_clock")),
        gpu_load_frac=_frac(values.get("gpu_load")),
        gpu_clocks_mhz=tuple(int(text) for text in values.get("gpu_clocks", "").split(",") if text),
        temperatures_celsius=heat,
        power=power,
        unknown=tuple(unknown),
    )


def _core(text: str) -> Core | None:
    if text == "off":
        return None
    load, _, clock = text.partition("%")
    return Core(int(load) / 100, integer(clock.removeprefix("@") or None))


@dataclass(frozen=True)
class PowerMode:
    """A Jetson's power mode: its name, and its number on that board."""

    name: str
    number: int | None
    unknown: tuple[str, ...] = ()


def parse_nvpmodel(text: str) -> PowerMode:
    """Parse the output of `nvpmodel -q`: the mode's name, then its number on the next line.

    Raises:
        ValueError: there is no power mode.
    """
    name, number, unknown = None, None, []
    for line in text_lines(text):
        match = re.fullmatch(r"NV Power Mode:\s*(\S+)", line)
        if match:
            name = match[1]
        elif name is not None and number is None and line.isdigit():
            number = int(line)
        else:
            unknown.append(line)
    if name is None:
        raise ValueError(f"nvpmodel printed no power mode: {text.strip()!r}")
    return PowerMode(name, number, tuple(unknown))


def _frac(percent: str | None) -> float | None:
    return int(percent) / 100 if percent is not None else None


def parse_over_current(text: str) -> dict[str, int]:
    """Count the over-current events of a Jetson's supply since boot: {"oc1": 0}.

    Args:
        text: output of `grep . /sys/class/hwmon/hwmon*/oc*_event_cnt`: 1 is under-voltage, 2 the
            average and 3 the momentary current.
    """
    pairs = re.findall(r"^\S*/(oc\d+)_event_cnt:(\d+)$", text, re.MULTILINE)
    return {name: int(count) for name, count in pairs}
