"""What flows through the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from edgekd.artifacts.target import Budget, Prefer, Target
from edgekd.data import Data, Inputs, Samples
from edgekd.evidence.candidate import Candidate, Choice
from edgekd.evidence.routing import Routing
from edgekd.network.network import Network
from edgekd.recipe.schema import Recipe
from edgekd.tasks import Task


@dataclass(frozen=True)
class DeploymentTarget:
    """A target and what must hold there."""

    target: Target
    budget: Budget
    prefer: Prefer
    required: bool


@dataclass(frozen=True)
class Scored:
    """A network's figures for the report.

    Attributes:
        metric: the recipe's metric on the test split.
        validation_metric: the same on the validation split.
        slices: by slice of the test split, the metric there; None where it is not defined.
        teacher_agreement: the task's figure of how far its outputs on the test split are the
            teacher's; None without a teacher, and for the teacher itself.
        parameters, macs: the numbers of parameters, and of multiply-accumulates of one sample;
            None where the network is a file or a table.
        eager_ms: the median time of one call in PyTorch on this machine, on one thread, beside the
            run's other networks; None where nothing was timed.
    """

    metric: float
    validation_metric: float
    parameters: int | None
    macs: int | None
    slices: Mapping[str, float | None] = field(default_factory=dict)
    teacher_agreement: float | None = None
    eager_ms: float | None = None


@dataclass(frozen=True)
class Pruning:
    """What pruning came to, for the report.

    Attributes:
        measure: what `keep` and `kept_frac` are shares of: macs, parameters or latency; of single
            weights, those that are not zero.
        kept_frac: what is left.
        trial_count: candidates tried, over all steps.
        widths: by layer, its channels before and after.
        removed: the blocks, heads and channels of each step.
        untouched: layers whose channels could not be removed, with the reason.
        zero_frac: of the weights of linear layers and convolutions, those that are zero.
        target: on which the latency was measured.
        profits: of single weights, by format, what its runtime makes of zeros.
    """

    method: str
    measure: str
    keep: float
    kept_frac: float
    trial_count: int
    widths: Mapping[str, tuple[int, int]]
    removed: tuple[Mapping[str, Any], ...]
    untouched: tuple[Mapping[str, str], ...]
    zero_frac: float
    target: str | None = None
    profits: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**vars(self), "widths": {name: list(pair) for name, pair in self.widths.items()}}


@dataclass(frozen=True)
class PipelineState:
    """What flows from stage to stage; a stage returns it with its own part replaced.

    Attributes:
        base: the recipe's folder, which references are relative to.
        data_key: a digest of the data and of the code that loads it.
        student: as the last stage that changed it left it, in eval mode.
        unpruned: the student as it was before it was pruned; None where it was not.
        teachers: each with its weight: a `Network`, or a file or table of outputs.
        another_student: the student untaught, with other random weights for each number.
        qat: by target, the student trained to be rounded as its files round, a
            `edgekd.distillation.qat.Tuned`.
        slices: by name, the numbers of the test split's samples in it.
        rows: one candidate of one target each.
        teacher_classes: by split, the first teacher's class of each sample; where [route] asks.
        routes: by target, which answers of what ships the device keeps.
        seconds: by stage, how long it took.
        bundles: by kind, the folder of what the app build takes.
    """

    recipe: Recipe
    base: Path
    task: Task
    deployments: tuple[DeploymentTarget, ...]
    data: Data
    data_key: str
    student: Network
    teachers: tuple[tuple[Any, float], ...] = ()
    another_student: Callable[[int], Network] | None = None
    teacher_score: Scored | None = None
    student_score: Scored | None = None
    unpruned: Network | None = None
    unpruned_score: Scored | None = None
    pruning: Pruning | None = None
    calibration: tuple[Inputs, ...] = ()
    qat: Mapping[str, Any] = field(default_factory=dict)
    slices: Mapping[str, Tensor] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    chosen: Mapping[str, Choice] = field(default_factory=dict)
    teacher_classes: Mapping[str, Tensor] = field(default_factory=dict)
    routes: Mapping[str, Routing] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    bundles: Mapping[str, Path] = field(default_factory=dict)

    @property
    def teacher(self) -> Any:
        """The first teacher, by which the student and what ships are judged; None without one."""
        return self.teachers[0][0] if self.teachers else None

    def samples(self, split: str) -> Samples:
        """The data's `split`, its inputs under the student's names."""
        names = tuple(self.student.signature.input_names)
        return Samples(getattr(self.data, split), names, labelled=split != "unlabeled")

    def network(self, candidate: Candidate) -> Network:
        """The network that `candidate` is a candidate of."""
        if candidate.network == "qat":
            tuned: Network = self.qat[candidate.target].network
            return tuned
        return self.original(candidate)

    def original(self, candidate: Candidate) -> Network:
        """The network that `candidate` must agree with: for QAT, the student before it."""
        if candidate.network != "unpruned":
            return self.student
        assert self.unpruned is not None
        return self.unpruned

    def deployment(self, candidate: Candidate) -> DeploymentTarget:
        """The goal that `candidate` is a candidate of."""
        return next(
            deployment
            for deployment in self.deployments
            if deployment.target.name == candidate.target
        )
