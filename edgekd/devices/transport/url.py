"""What a device's URL says besides where it is: ssh://pi@pi5.local?python=PATH."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from edgekd.errors import Fault, RecipeError, listed, nearest


def options(url: str, known: Mapping[str, str]) -> dict[str, str]:
    """The options of `url` by name.

    Args:
        known: what each option that there is may be, in words.

    Raises:
        RecipeError: one of them is not known, or says nothing.
    """
    found = {}
    for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name not in known or not value:
            close = nearest(name, list(known))
            raise RecipeError(
                Fault(
                    what=f"The device's URL has an option {name!r} that is not known."
                    if name not in known
                    else f"The option {name!r} of the device's URL says nothing.",
                    at=f"device = {url!r}",
                    got=f"?{name}={value}",
                    expected=listed([f"?{each}={what}" for each, what in known.items()]),
                    fix=f"?{close}={known[close]}" if close else f"remove ?{name}={value}",
                )
            )
        found[name] = value
    return found


def drives_gpu(url: str) -> bool:
    """Whether the device at `url` is asked to compute on its GPU."""
    return not {"trtexec", "providers"}.isdisjoint(dict(parse_qsl(urlsplit(url).query)))


def gives_outputs(url: str) -> bool:
    """Whether the device at `url` gives an artifact's outputs, and does not only time it."""
    parts = urlsplit(url)
    return parts.scheme != "imported" and "benchmark_model" not in dict(parse_qsl(parts.query))
