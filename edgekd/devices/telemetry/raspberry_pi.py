"""Parsers of a Raspberry Pi's `vcgencmd`."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.devices.telemetry.text import NUMBER, only_match


@dataclass(frozen=True)
class Throttled:
    """The reasons why a Raspberry Pi is slowed down.

    Attributes:
        now, since_boot: some of `REASONS`.
        unknown: set bits without a documented meaning.
    """

    now: frozenset[str]
    since_boot: frozenset[str]
    unknown: tuple[int, ...] = ()


REASONS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
SINCE_BOOT = 16


def parse_throttled(text: str) -> Throttled:
    """Parse the output of `vcgencmd get_throttled`.

    Source: Raspberry Pi documentation, "vcgencmd", get_throttled.
    """
    value = int(only_match(r"throttled=(0x[0-9a-fA-F]+)", text), 16)
    bits_set = [bit for bit in range(value.bit_length()) if value >> bit & 1]
    known = {*range(len(REASONS)), *range(SINCE_BOOT, SINCE_BOOT + len(REASONS))}
    return Throttled(
        now=frozenset(REASONS[bit] for bit in bits_set if bit < len(REASONS)),
        since_boot=frozenset(
            REASONS[bit - SINCE_BOOT] for bit in bits_set if bit in known and bit >= SINCE_BOOT
        ),
        unknown=tuple(bit for bit in bits_set if bit not in known),
    )


def parse_pi_temperature_celsius(text: str) -> float:
    """Parse the output of `vcgencmd measure_temp`."""
    return float(only_match(rf"temp=({NUMBER})'C", text))


def parse_pi_clock_hz(text: str) -> int:
    """Parse the output of `vcgencmd measure_clock arm`; the bracketed number varies by firmware."""
    return int(only_match(r"frequency\(\d+\)=(\d+)", text))
