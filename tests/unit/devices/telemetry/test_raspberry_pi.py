"""The output of `vcgencmd`, in every known variant, becomes the right value."""

from __future__ import annotations

import pytest

from edgekd.devices.telemetry.raspberry_pi import (
    parse_pi_clock_hz,
    parse_pi_temperature_celsius,
    parse_throttled,
)


def test_throttling_is_reported_for_now_and_since_boot() -> None:
    # Raspberry Pi documentation, "vcgencmd": 0x50005 is under-voltage and throttled, both.
    both = frozenset({"under-voltage", "throttled"})
    throttling = parse_throttled("throttled=0x50005\n")
    assert (throttling.now, throttling.since_boot, throttling.unknown) == (both, both, ())
    assert parse_throttled("throttled=0x0").now == frozenset()
    past = parse_throttled("throttled=0xa0000")
    assert past.now == frozenset()
    assert past.since_boot == {"frequency capped", "soft temperature limit"}
    assert parse_throttled("throttled=0x100010").unknown == (4, 20)


def test_temperature_and_clock_are_parsed() -> None:
    assert parse_pi_temperature_celsius("temp=54.2'C\n") == 54.2
    # raspberrypi/linux issue 1337 has 45; "the id in brackets differs by firmware".
    for number in (45, 48, 0):
        assert parse_pi_clock_hz(f"frequency({number})=600000000\n") == 600_000_000


@pytest.mark.parametrize(
    "parse", [parse_throttled, parse_pi_temperature_celsius, parse_pi_clock_hz]
)
def test_an_error_message_is_not_parsed_as_a_value(parse: object) -> None:
    assert callable(parse)
    with pytest.raises(ValueError, match="VCHI initialization failed"):
        parse("VCHI initialization failed")
