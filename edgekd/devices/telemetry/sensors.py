"""What boards and phones say of their heat, clock and power, as values: text in, nothing else.

Each parser takes the variants that are listed in its tests. What it does not know is in `unknown`,
word for word; a tool of one answer that gives another raises ValueError. Nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NUMBER = r"-?\d+(?:\.\d+)?"


@dataclass(frozen=True)
class Throttled:
    """What slows a Raspberry Pi down now, and what has since it was booted.

    Attributes:
        now, since_boot: of "under-voltage", "frequency capped", "throttled" and "soft temperature
            limit", those that hold.
        unknown: set bits without a documented meaning.
    """

    now: frozenset[str]
    since_boot: frozenset[str]
    unknown: tuple[int, ...] = ()


REASONS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
SINCE_BOOT = 16


def parse_throttled(text: str) -> Throttled:
    """The answer of `vcgencmd get_throttled`.

    Source: Raspberry Pi documentation, "vcgencmd", get_throttled.
    """
    bits = int(_only(r"throttled=(0x[0-9a-fA-F]+)", text), 16)
    places = [place for place in range(bits.bit_length()) if bits >> place & 1]
    known = {*range(len(REASONS)), *range(SINCE_BOOT, SINCE_BOOT + len(REASONS))}
    return Throttled(
        now=frozenset(REASONS[place] for place in places if place < len(REASONS)),
        since_boot=frozenset(
            REASONS[place - SINCE_BOOT]
            for place in places
            if place in known and place >= SINCE_BOOT
        ),
        unknown=tuple(place for place in places if place not in known),
    )


def parse_pi_temperature_celsius(text: str) -> float:
    """The answer of `vcgencmd measure_temp`."""
    return float(_only(rf"temp=({NUMBER})'C", text))


def parse_pi_clock_hz(text: str) -> int:
    """The answer of `vcgencmd measure_clock arm`; the number in brackets differs by firmware."""
    return int(_only(r"frequency\(\d+\)=(\d+)", text))


@dataclass(frozen=True)
class Core:
    """A core that is on: its load (0-1), and its clock where that is told."""

    load_frac: float
    clock_mhz: int | None


@dataclass(frozen=True)
class Power:
    """What a rail draws, now and on average since tegrastats was started."""

    now_mw: int
    average_mw: int | None


@dataclass(frozen=True)
class Tegrastats:
    """A line of `tegrastats`; None is what it does not tell.

    Attributes:
        cores: by number; None for one that is off.
        gpu_clocks_mhz: one for each graphics cluster.
        temperatures_celsius, power: by sensor and by rail, as the board names them.
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


# The parts of a line; the first that fits the rest of it is taken off.
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
    """A line that NVIDIA's `tegrastats` prints, of JetPack 4 to 7.

    Of a sensor that tells two temperatures, and a rail that tells three powers, the first ones
    are kept: those of now, and for a rail the average.
    """
    found: dict[str, str] = {}
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
        found |= groups
        rest = rest[match.end() :].lstrip()
    return Tegrastats(
        ram_used_mb=_whole(found.get("ram_used")),
        ram_total_mb=_whole(found.get("ram_total")),
        swap_used_mb=_whole(found.get("swap_used")),
        swap_total_mb=_whole(found.get("swap_total")),
        cores=tuple(_core(text) for text in found.get("cores", "").split(",") if text),
        memory_load_frac=_frac(found.get("memory_load")),
        memory_clock_mhz=_whole(found.get("memory_clock")),
        gpu_load_frac=_frac(found.get("gpu_load")),
        gpu_clocks_mhz=tuple(int(text) for text in found.get("gpu_clocks", "").split(",") if text),
        temperatures_celsius=heat,
        power=power,
        unknown=tuple(unknown),
    )


def _core(text: str) -> Core | None:
    if text == "off":
        return None
    load, _, clock = text.partition("%")
    return Core(int(load) / 100, _whole(clock.removeprefix("@") or None))


@dataclass(frozen=True)
class PowerMode:
    """What `nvpmodel` lets a Jetson draw: the mode's name, and its number on that board."""

    name: str
    number: int | None
    unknown: tuple[str, ...] = ()


def parse_nvpmodel(text: str) -> PowerMode:
    """The answer of `nvpmodel -q`: the mode's name, and its number on the line after it."""
    name, number, unknown = None, None, []
    for line in _lines(text):
        match = re.fullmatch(r"NV Power Mode:\s*(\S+)", line)
        if match:
            name = match[1]
        elif name is not None and number is None and line.isdigit():
            number = int(line)
        else:
            unknown.append(line)
    if name is None:
        raise ValueError(f"nvpmodel does not tell the power mode: {text.strip()!r}")
    return PowerMode(name, number, tuple(unknown))


def parse_thermal_zones(text: str) -> dict[str, float]:
    """Temperatures in degrees Celsius by zone and type: {"thermal_zone0 cpu-thermal": 54.2}.

    Args:
        text: of `grep . /sys/class/thermal/thermal_zone*/type /sys/class/thermal/.../temp`.

    Source: Linux, Documentation/ABI/testing/sysfs-class-thermal (millidegrees).
    """
    zones = _by_folder(text, r"thermal_zone\d+")
    return {
        f"{zone} {files['type']}": int(files["temp"]) / 1000
        for zone, files in zones.items()
        if "type" in files and re.fullmatch(r"-?\d+", files.get("temp", ""))
    }


@dataclass(frozen=True)
class Policy:
    """Cores that share a clock. `current_khz` is what was asked for, not always what is."""

    governor: str | None
    current_khz: int | None
    min_khz: int | None
    max_khz: int | None


def parse_cpufreq(text: str) -> dict[str, Policy]:
    """The clock policies by name: {"policy0": ...}; empty in a virtual machine, which has none.

    Args:
        text: of `grep . /sys/devices/system/cpu/cpufreq/policy*/*`, or of .../cpu*/cpufreq/*.

    Source: Linux, Documentation/admin-guide/pm/cpufreq.rst.
    """
    policies = _by_folder(text.replace("/cpufreq/scaling_", "/scaling_"), r"policy\d+|cpu\d+")
    return {
        name: Policy(
            governor=files.get("scaling_governor"),
            current_khz=_whole(files.get("scaling_cur_freq")),
            min_khz=_whole(files.get("scaling_min_freq")),
            max_khz=_whole(files.get("scaling_max_freq")),
        )
        for name, files in policies.items()
    }


def parse_over_current(text: str) -> dict[str, int]:
    """How often a Jetson was throttled by its supply since boot: {"oc1": 0}; compare two readings.

    Args:
        text: of `grep . /sys/class/hwmon/hwmon*/oc*_event_cnt`: 1 is under-voltage, 2 the average
            and 3 the momentary current.
    """
    pairs = re.findall(r"^\S*/(oc\d+)_event_cnt:(\d+)$", text, re.MULTILINE)
    return {name: int(count) for name, count in pairs}


STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Of Android's thermal status. Source: Android NDK, thermal.h, AThermalStatus."""
KINDS = {0: "cpu", 1: "gpu", 2: "battery", 3: "skin"}


@dataclass(frozen=True)
class AndroidTemperature:
    """A sensor: its kind where that is known, and its own thermal status by number."""

    name: str
    kind: str | None
    celsius: float
    status: int


@dataclass(frozen=True)
class AndroidHeat:
    """What Android's thermal service tells.

    Attributes:
        status: 0 is none; see `STATUSES`.
        current: as the hardware has them now; the service's own cache may hold zeros.
    """

    status: int
    current: tuple[AndroidTemperature, ...]
    cached: tuple[AndroidTemperature, ...] = ()
    unknown: tuple[str, ...] = ()


_TEMPERATURE = re.compile(
    rf"Temperature\{{mValue=({NUMBER}), mType=(-?\d+), mName=([^,]*), mStatus=(\d+)\}}"
)


def parse_thermalservice(text: str) -> AndroidHeat:
    """The answer of `dumpsys thermalservice`.

    Raises:
        ValueError: there is no thermal status in it.
    """
    status: int | None = None
    sections: dict[str, list[AndroidTemperature]] = {"current": [], "cached": []}
    section: str | None = None
    unknown = []
    for line in _lines(text):
        if match := re.fullmatch(r"Thermal Status: (\d+)", line):
            status = int(match[1])
        elif line == "Cached temperatures:":
            section = "cached"
        elif line == "Current temperatures from HAL:":
            section = "current"
        elif section and (match := _TEMPERATURE.fullmatch(line)):
            celsius, kind, name, own = match.groups()
            sections[section].append(
                AndroidTemperature(name, KINDS.get(int(kind)), float(celsius), int(own))
            )
        else:
            if line.endswith(":"):
                section = None
            unknown.append(line)
    if status is None:
        raise ValueError(f"dumpsys thermalservice tells no status: {text.strip()[:200]!r}")
    return AndroidHeat(
        status, tuple(sections["current"]), tuple(sections["cached"]), tuple(unknown)
    )


@dataclass(frozen=True)
class Battery:
    """A phone's battery: how full (0-1), its temperature, and whether anything feeds it."""

    level_frac: float
    celsius: float | None
    powered: bool
    unknown: tuple[str, ...] = ()


def parse_battery(text: str) -> Battery:
    """The answer of `dumpsys battery`.

    Raises:
        ValueError: there is no level in it.

    Source: Android, BatteryManager: EXTRA_TEMPERATURE is in tenths of a degree.
    """
    values: dict[str, str] = {}
    unknown = []
    for line in _lines(text):
        name, _, value = line.partition(": ")
        figure = name in ("level", "scale", "temperature") and re.fullmatch(r"-?\d+", value)
        if figure or (name.endswith(" powered") and value in ("true", "false")):
            values[name] = value
        elif line != "Current Battery Service state:":
            unknown.append(line)
    if "level" not in values or int(values.get("scale", "100")) <= 0:
        raise ValueError(f"dumpsys battery tells no level: {text.strip()[:200]!r}")
    return Battery(
        level_frac=int(values["level"]) / int(values.get("scale", "100")),
        celsius=int(values["temperature"]) / 10 if "temperature" in values else None,
        powered=any(values[name] == "true" for name in values if name.endswith(" powered")),
        unknown=tuple(unknown),
    )


def _only(pattern: str, text: str) -> str:
    match = re.fullmatch(pattern, text.strip())
    if match is None:
        raise ValueError(f"expected {pattern}, not {text.strip()!r}")
    return match[1]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _frac(percent: str | None) -> float | None:
    return int(percent) / 100 if percent is not None else None


def _by_folder(text: str, folder: str) -> dict[str, dict[str, str]]:
    """What `grep .` printed as PATH:TEXT, by the folder whose name is like `folder`, and file."""
    found: dict[str, dict[str, str]] = {}
    for line in _lines(text):
        match = re.fullmatch(rf"\S*/({folder})/([\w-]+):(.*)", line)
        if match:
            found.setdefault(match[1], {})[match[2]] = match[3].strip()
    return found
