"""The device that an artifact is for, and its budget there."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from edgekd.artifacts.scheme import SCHEMES
from edgekd.errors import Fault, RecipeError, listed, nearest, unknown
from edgekd.system.files import data_folder
from edgekd.system.toml import read_toml

Evidence = Literal["device", "host", "emulated", "reference"]
Prefer = Literal["accuracy", "latency", "size"]


@dataclass(frozen=True)
class Fact:
    """A fact about a device, its source, and the date when that was read."""

    value: Any
    source: str
    date: str | None = None


@dataclass(frozen=True)
class Budget:
    """The limits of an artifact on its target; None is no limit.

    `instructions` are those of one inference on one thread, counted on an emulated core.
    """

    latency_p50_ms: float | None = None
    latency_p90_ms: float | None = None
    latency_p99_ms: float | None = None
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    instructions: int | None = None

    @property
    def percentiles(self) -> dict[float, float]:
        """The limited percentiles (0-1) and their limits in ms."""
        limits = {0.5: self.latency_p50_ms, 0.9: self.latency_p90_ms, 0.99: self.latency_p99_ms}
        return {frac: limit for frac, limit in limits.items() if limit is not None}


@dataclass(frozen=True)
class Target:
    """A profile from `targets/NAME.toml`, as a recipe may have adapted it.

    Attributes:
        format: the format that the target's runtime loads, such as onnx.
        schemes: the precisions it takes.
        refuses: why it does not take others, by scheme.
        device: where its artifacts run: "local", or a URL such as "ssh://pi@pi5.local"; None if no
            device is available, and artifacts run on this host as a stand-in.
        machine: the processor's instruction set, as `platform.machine()` names it.
        threads: the number of threads of the runtime.
        accelerator: the processor that computes: cpu, gpu or npu.
        connection: how such a device is reached: local, ssh, adb or none.
        emulated: the core of edgekd's emulated device that is nearest to its own.
        opset: the opset of ONNX files for an old runtime.
        channels_last: whether files take images as NHWC; None: the format's default.
        channel_multiple: the number that channel counts should be divisible by to be fast.
    """

    name: str
    format: str
    schemes: tuple[str, ...]
    machine: str
    device: str | None = None
    threads: int = 1
    accelerator: str = "cpu"
    channel_multiple: int = 1
    opset: int | None = None
    channels_last: bool | None = None
    connection: str = "ssh"
    emulated: str | None = None
    description: str = ""
    refuses: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def refusal(self, scheme: str) -> str | None:
        """Why this target does not take `scheme`, or None where it does."""
        if scheme in self.schemes:
            return None
        reason = self.refuses.get(scheme)
        takes = f"{self.name} takes {listed(self.schemes)}"
        return f"{takes}: {reason}" if reason else takes

    @property
    def at_hand(self) -> bool:
        """Whether `device` is the real thing rather than this host standing in for it."""
        if self.device is None:
            return False
        if self.connection == "none":  # A Mac stands in for an iPhone, and is not one.
            return is_imported(self.device)
        return self.device != "local" or self.machine == platform.machine()

    @property
    def evidence(self) -> Evidence:
        """What running an artifact on `device` is evidence of."""
        if is_emulated(self.device):
            return "emulated"
        return "device" if self.at_hand else "host"

    def evidence_on(self, machine: str) -> Evidence:
        """What a measurement is evidence of, on a device that reports `machine`."""
        if is_emulated(self.device):
            return "emulated"
        same = {"arm64": "aarch64", "AMD64": "x86_64"}
        if same.get(machine, machine) != same.get(self.machine, self.machine):
            return "host"
        return self.evidence


def is_emulated(device: str | None) -> bool:
    """Whether the device at this URL is an emulation, whose times are not latencies."""
    return device is not None and device.startswith("emulated://")


def is_imported(device: str | None) -> bool:
    """Whether the device's figures were measured by hand and are in a file."""
    return device is not None and device.startswith("imported://")


def target_names() -> list[str]:
    """The names of the shipped profiles."""
    return sorted(path.stem for path in data_folder("targets").glob("*.toml"))


def load_target(reference: str, base: Path | None = None) -> Target:
    """The profile named `reference`, or in the file of that path (relative to `base`).

    Raises:
        RecipeError: there is no such profile, or it is not valid; it names all faults.
    """
    if reference.endswith(".toml"):
        path = (base or Path()) / reference
    elif reference in target_names():
        path = data_folder("targets") / f"{reference}.toml"
    else:
        fault = unknown("target", reference, target_names(), f"targets/{reference}.toml")
        expected = f"{fault.expected}, or the path of a .toml file"
        raise RecipeError(replace(fault, expected=expected))
    return _parse(path, read_toml(path))


_TYPES: dict[str, tuple[Any, str]] = {
    "format": (str, "a string"),
    "schemes": (list, "a list of schemes"),
    "machine": (str, "a string"),
    "device": (str, "a string"),
    "threads": (int, "an integer"),
    "accelerator": (str, "a string"),
    "channel_multiple": (int, "an integer"),
    "opset": (int, "an integer"),
    "channels_last": (bool, "a boolean"),
    "connection": (str, "local, ssh, adb or none"),
    "emulated": (str, "a core, such as cortex-a76"),
    "description": (str, "a string"),
    "refuses": (dict, "a table of scheme = reason"),
    "facts": (dict, "a table of name = { value, source }"),
}


_ALLOWED = {
    "accelerator": ("cpu", "gpu", "npu"),
    "connection": ("local", "ssh", "adb", "none"),
}
_COUNTS = {"threads": 1024, "channel_multiple": 1024, "opset": 1000}
"""The largest value of each integer."""


def _parse(path: Path, document: dict[str, Any]) -> Target:
    # By hand, not by pydantic: `edgekd targets` answers before pydantic is imported.
    faults = [*_shape_faults(path, document)]
    for scheme in document.get("schemes", []) if not faults else []:
        if not isinstance(scheme, str):
            faults.append(_wrong(path, "schemes", document["schemes"], _TYPES["schemes"][1]))
        elif scheme not in SCHEMES:
            faults.append(_unknown(path, f"schemes: {scheme}", scheme, list(SCHEMES)))
    for name, fact in document.get("facts", {}).items() if not faults else []:
        if not _is_fact(fact):
            faults.append(
                Fault(
                    what=f"The fact {name!r} of a target has no source.",
                    at=f"{path}:facts.{name}",
                    got=repr(fact)[:200],
                    expected="{ value = ..., source = ... }, and a date where it is known",
                    fix=f"write where {name} is documented, or remove the fact",
                )
            )
    if faults:
        raise RecipeError(*faults)
    facts = {name: Fact(**fact) for name, fact in document.pop("facts", {}).items()}
    schemes = tuple(document.pop("schemes"))
    return Target(name=path.stem, schemes=schemes, facts=facts, **document)


def _is_fact(fact: Any) -> bool:
    """Whether `fact` is { value, source } with an optional date, each of its type."""
    return (
        isinstance(fact, dict)
        and {"value", "source"} <= fact.keys() <= {"value", "source", "date"}
        and isinstance(fact["value"], str | bool | int | float | list)
        and isinstance(fact["source"], str)
        and isinstance(fact.get("date"), str | None)
    )


def _shape_faults(path: Path, document: dict[str, Any]) -> list[Fault]:
    faults = []
    for key, value in document.items():
        if key not in _TYPES:
            faults.append(_unknown(path, key, key, list(_TYPES)))
        elif type(value) is not _TYPES[key][0]:  # A boolean is an integer to isinstance.
            faults.append(_wrong(path, key, value, _TYPES[key][1]))
        elif key in _ALLOWED and value not in _ALLOWED[key]:
            faults.append(_wrong(path, key, value, listed(_ALLOWED[key])))
        elif key in _COUNTS and not 0 < value <= _COUNTS[key]:
            faults.append(_wrong(path, key, value, f"an integer from 1 to {_COUNTS[key]}"))
        elif (
            key == "refuses" and not all(isinstance(reason, str) for reason in value.values())
        ) or (key == "schemes" and not value):
            faults.append(_wrong(path, key, value, _TYPES[key][1]))
    required = {entry.name for entry in fields(Target)[1:4]}
    for key in sorted(required - document.keys()):
        faults.append(
            Fault(
                what=f"A target has no {key!r}.",
                at=f"{path}:{key}",
                got="nothing",
                expected=_TYPES[key][1],
                fix=f"add {key} = ... to {path}",
            )
        )
    return faults


def _wrong(path: Path, key: str, value: object, expected: str) -> Fault:
    wrong = "type" if type(value) is not _TYPES[key][0] or key == "refuses" else "value"
    return Fault(
        what=f"{key!r} of a target has the wrong {wrong}.",
        at=f"{path}:{key}",
        got=repr(value)[:200],
        expected=expected,
        fix=f"correct {key} in {path}",
    )


def _unknown(path: Path, at: str, got: str, known: list[str]) -> Fault:
    close = nearest(got, known)
    return Fault(
        what=f"{got!r} is not known in a target profile.",
        at=f"{path}:{at}",
        got=repr(got),
        expected=listed(known),
        fix=f"did you mean {close!r}?" if close else f"remove {got!r}",
    )
