"""The `[prune]` table of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from edgekd.recipe.table import Table


class Prune(Table):
    """What is pruned from the student, and how it recovers."""

    method: Annotated[
        Literal["structured", "unstructured", "n-m"],
        Field(
            description="structured removes channels, heads or blocks. unstructured and n-m "
            "set single weights to zero and keep the shapes."
        ),
    ] = "structured"
    keep: Annotated[
        float, Field(gt=0, le=1, description="Fraction of the measure that is kept, in (0, 1].")
    ]
    measure: Annotated[
        Literal["macs", "parameters", "latency"],
        Field(
            description="What keep refers to. latency is measured on target, with exported "
            "files, against the unpruned network."
        ),
    ] = "macs"
    target: Annotated[
        str | None,
        Field(
            description="Target of the latency. The default is the first target whose device "
            "is available."
        ),
    ] = None
    importance: Annotated[
        Literal["l1", "l2", "bn-scale", "taylor", "hessian", "random"],
        Field(
            description="Criterion of importance. The least important channels and heads are "
            "removed."
        ),
    ] = "l2"
    scope: Annotated[
        Literal["layer", "global", "sensitivity"],
        Field(
            description="layer: the same fraction of every layer. global: all layers ranked "
            "together. sensitivity: a fraction per layer by its measured loss."
        ),
    ] = "layer"
    blocks: Annotated[
        str | None,
        Field(
            description="Module path of a list of blocks. Whole blocks are removed instead of "
            "channels."
        ),
    ] = None
    pattern: Annotated[
        str,
        Field(
            pattern=r"^[1-9][0-9]{0,8}:[1-9][0-9]{0,8}$",
            description="Pattern of n-m: n of every m consecutive weights are kept.",
        ),
    ] = "2:4"
    round_to: Annotated[
        int | None,
        Field(
            ge=1,
            description="The number of channels kept is a multiple of it. The default is the "
            "multiple that the target profiles prefer.",
        ),
    ] = None
    ignore: Annotated[list[str], Field(description="Module paths that are not pruned.")] = Field(
        default_factory=list
    )
    steps: Annotated[
        int, Field(ge=1, description="Number of pruning steps, with recovery after each.")
    ] = 1
    recover_epochs: Annotated[
        int, Field(ge=0, description="Epochs of recovery in total, with the losses of [distill].")
    ] = 0
    recover_learning_rate: Annotated[
        float | None,
        Field(
            gt=0,
            description="Peak learning rate of the recovery. The default is the one of [distill].",
        ),
    ] = None
    recover_from: Annotated[
        Literal["both", "unpruned", "teacher"],
        Field(description="Teacher of the recovery: the unpruned student, the teacher, or both."),
    ] = "both"
    scan: Annotated[
        bool, Field(description="Also record the loss of accuracy when a single layer is pruned.")
    ] = False

    @property
    def n_of_m(self) -> tuple[int, int]:
        """The numbers n and m of `pattern`."""
        n, _, m = self.pattern.partition(":")
        return int(n), int(m)

    @model_validator(mode="after")
    def _refuse_keys_without_effect(self) -> Prune:
        for key, (applies, where) in self._applicable().items():
            default = type(self).model_fields[key].get_default(call_default_factory=True)
            if not applies and getattr(self, key) != default:
                raise PydanticCustomError(
                    "unknown_key",
                    "{allowed}",
                    {"key": key, "allowed": f"this key only with {where}", "nearest": None},
                )
        if self.steps > max(1, self.recover_epochs):
            raise PydanticCustomError(
                "too_few_epochs",
                "at least {steps}, one epoch of recovery per step, or steps = 1",
                {"key": "recover_epochs", "steps": self.steps},
            )
        n, m = self.n_of_m
        if self.method == "n-m" and (n >= m or abs(self.keep - n / m) > 1e-6):
            raise PydanticCustomError(
                "no_pattern",
                "keep = {share} for the pattern {pattern}, with n below m",
                {"key": "keep", "share": f"{n / m:g}", "pattern": self.pattern},
            )
        return self

    def _applicable(self) -> dict[str, tuple[bool, str]]:
        """For each key, whether it has an effect, and what it needs to have one."""
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
            "ignore": (self.blocks is None, "channels or weights, without blocks"),
            "steps": (self.method != "n-m", 'method = "structured" or "unstructured"'),
            "recover_learning_rate": (recovers, "recover_epochs over 0"),
            "recover_from": (recovers, "recover_epochs over 0"),
            "scan": (channels, 'method = "structured", and without blocks'),
        }
