"""The table of a recipe that says what is removed from the student."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from edgekd.recipe.table import Part


class Prune(Part):
    """What is removed from the student."""

    method: Annotated[
        Literal["structured", "unstructured", "n-m"],
        Field(description="whole channels, heads or blocks; or single weights, whose shapes stay"),
    ] = "structured"
    keep: Annotated[float, Field(gt=0, le=1, description="of what `measure` counts, a share")]
    measure: Annotated[
        Literal["macs", "parameters", "latency"],
        Field(description="latency: of the exported file on `target`, against the whole one's"),
    ] = "macs"
    target: Annotated[
        str | None, Field(description="of the latency; the first one with its device at hand")
    ] = None
    importance: Annotated[
        Literal["l1", "l2", "bn-scale", "taylor", "hessian", "random"],
        Field(description="of channels and heads: those of least go"),
    ] = "l2"
    scope: Annotated[
        Literal["layer", "global", "sensitivity"],
        Field(description="each layer's share alike, all ranked together, or by what each costs"),
    ] = "layer"
    blocks: Annotated[
        str | None, Field(description="module path of a list: whole blocks go, not channels")
    ] = None
    pattern: Annotated[
        str, Field(pattern=r"^[1-9]\d*:[1-9]\d*$", description="of n-m: kept of each so many")
    ] = "2:4"
    round_to: Annotated[
        int | None,
        Field(ge=1, description="channels kept are a multiple; that of the targets' profiles"),
    ] = None
    ignore: Annotated[list[str], Field(description="module paths that stay whole")] = Field(
        default_factory=list
    )
    steps: Annotated[
        int, Field(ge=1, description="in which it is removed, recovering after each")
    ] = 1
    recover_epochs: Annotated[
        int, Field(ge=0, description="of all steps, trained with the distill losses")
    ] = 0
    recover_learning_rate: Annotated[
        float | None, Field(gt=0, description="that of [distill] where it is not given")
    ] = None
    recover_from: Annotated[
        Literal["both", "unpruned", "teacher"], Field(description="who teaches it then")
    ] = "both"
    scan: Annotated[
        bool, Field(description="records what removing channels of each layer alone costs")
    ] = False

    @property
    def n_of_m(self) -> tuple[int, int]:
        """The numbers of `pattern`."""
        n, _, m = self.pattern.partition(":")
        return int(n), int(m)

    @model_validator(mode="after")
    def _no_key_is_ignored(self) -> Prune:
        for key, (applies, where) in self._applicable().items():
            default = type(self).model_fields[key].get_default(call_default_factory=True)
            if not applies and getattr(self, key) != default:
                raise PydanticCustomError(
                    "unknown_key",
                    "{allowed}",
                    {"key": key, "allowed": f"it only with {where}", "nearest": None},
                )
        if self.steps > max(1, self.recover_epochs):
            raise PydanticCustomError(
                "too_few_epochs",
                "an epoch of recovery after each of the {steps} steps, or steps = 1",
                {"key": "recover_epochs", "steps": self.steps},
            )
        n, m = self.n_of_m
        if self.method == "n-m" and (n >= m or abs(self.keep - n / m) > 1e-6):
            raise PydanticCustomError(
                "no_pattern",
                "keep = {share} for {pattern}: n kept of m, fewer than all",
                {"key": "keep", "share": f"{n / m:g}", "pattern": self.pattern},
            )
        return self

    def _applicable(self) -> dict[str, tuple[bool, str]]:
        """By key, whether it has a meaning beside the others, and with which it has."""
        channels = self.method == "structured" and self.blocks is None
        latency = self.measure == "latency"
        recovers = self.recover_epochs > 0
        return {
            "measure": (not latency or self.method == "structured", 'method = "structured"'),
            "target": (latency, 'measure = "latency"'),
            "importance": (channels, 'method = "structured", and without blocks'),
            "scope": (
                channels or (self.method == "unstructured" and self.scope == "global"),
                'method = "structured", or "global" with "unstructured"',
            ),
            "blocks": (self.method == "structured", 'method = "structured"'),
            "pattern": (self.method == "n-m", 'method = "n-m"'),
            "round_to": (channels, 'method = "structured", and without blocks'),
            "ignore": (self.blocks is None, "channels or weights, not blocks"),
            "steps": (self.method != "n-m", "a method that has shares between"),
            "recover_learning_rate": (recovers, "recover_epochs"),
            "recover_from": (recovers, "recover_epochs"),
            "scan": (channels, 'method = "structured", and without blocks'),
        }
