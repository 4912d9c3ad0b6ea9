"""Device URLs: the options after the address, as in ssh://pi@pi5.local?python=PATH."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qsl, urlsplit

from edgekd.errors import Fault, RecipeError, listed, nearest


def split_url(url: str) -> SplitResult:
    """The parts of a device's URL.

    Raises:
        RecipeError: it is not a URL.
    """
    try:
        if not url.isprintable():
            raise ValueError("it has control characters")
        return urlsplit(url)
    except ValueError as error:
        raise RecipeError(
            Fault(
                what="The device's URL is not valid.",
                at=f"device = {url!r}",
                got=str(error),
                expected="scheme://address, an IPv6 address in brackets: ssh://pi@[fe80::1]:22",
                fix="correct the address; special characters are written as %XX",
            )
        ) from error


def parse_options(url: str, known: Mapping[str, str]) -> dict[str, str]:
    """The options of `url` by name.

    Args:
        known: a description of the value of each allowed option.

    Raises:
        RecipeError: an option is unknown or has no value.
    """
    options = {}
    for name, value in parse_qsl(split_url(url).query, keep_blank_values=True):
        if name not in known or not value:
            close = nearest(name, list(known))
            raise RecipeError(
                Fault(
                    what=f"The device's URL has an unknown option {name!r}."
                    if name not in known
                    else f"The option {name!r} of the device's URL has no value.",
                    at=f"device = {url!r}",
                    got=f"?{name}={value}",
                    expected=listed([f"?{option}={value}" for option, value in known.items()])
                    if known
                    else "no options",
                    fix=f"?{close}={known[close]}" if close else f"remove ?{name}={value}",
                )
            )
        options[name] = value
    return options


def drives_gpu(url: str) -> bool:
    """Whether the URL asks the device to compute on its GPU."""
    if url.startswith("imported://"):
        return False
    return not {"trtexec", "providers"}.isdisjoint(dict(parse_qsl(split_url(url).query)))


def gives_outputs(url: str) -> bool:
    """Whether the device at `url` returns an artifact's outputs, not only its latency."""
    if url.startswith("imported://"):  # The rest is a path, not an address.
        return False
    return "benchmark_model" not in dict(parse_qsl(split_url(url).query))
