"""The state of the pipeline, which every stage takes and returns."""

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
    """A target of the recipe with its budget."""

    target: Target
    budget: Budget
    prefer: Prefer
    required: bool


@dataclass(frozen=True)
class Scored:
    """A network's figures.

    Attributes:
        metric: the recipe's metric on the test split.
        validation_metric: the metric on the validation split.
        slices: the metric on each slice of the test split; None where it is not defined.
        teacher_agreement: the task's agreement of its outputs with the teacher's on the test
            split; None without a teacher, and for the teacher itself.
        parameters, macs: the number of parameters, and of multiply-accumulates of one sample; None
            if the network is a file or a table.
        eager_ms: the median PyTorch latency of one call on this machine, on one thread, measured
            beside the run's other networks; None if it was not measured.
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
    """The result of pruning.

    Attributes:
        measure: what `keep` and `kept_frac` are shares of: macs, parameters or latency; for
            unstructured pruning, the weights that are not zero.
        kept_frac: the share that is left.
        trial_count: the number of pruned networks tried, over all steps.
        widths: by layer, its channels before and after.
        removed: the blocks, heads and channels that each step removed.
        untouched: layers whose channels could not be removed, with the reason.
        zero_frac: the share of zeros among the weights of linear layers and convolutions.
        target: the target on which the latency was measured.
        profits: for unstructured pruning, by format, how its runtime uses zero weights.
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
    """The state of a run between two stages. A stage returns a copy with its own fields replaced.

    Attributes:
        recipe: the recipe of the run.
        base: the folder that the recipe's references are relative to.
        deployments: the recipe's targets with their budgets.
        data: the user's data.
        data_key: the digest of the data and of the code that loads it.
        student: the student as the last stage left it, in eval mode.
        teachers: each with its weight: a `Network`, or a file or table of outputs.
        another_student: makes the untrained student with random weights from a number.
        teacher_score, student_score, unpruned_score: the figures of these networks.
        unpruned: the student before pruning; None without pruning.
        pruning: the result of pruning; None without pruning.
        calibration: the calibration samples.
        qat: by target, the student after quantization-aware training, an
            `edgekd.distillation.qat.QatResult`.
        slices: by name, the indices of its test samples.
        candidates: every candidate of every target.
        chosen: by target, which candidate ships and why.
        teacher_classes: by split, the first teacher's class of each sample; only with [route].
        routes: by target, the model cascade: which answers the device keeps.
        seconds: by stage, its duration.
        bundles: by kind, the folder for the app build.
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
        """The first teacher, which the student and the artifacts are judged against; or None."""
        return self.teachers[0][0] if self.teachers else None

    def samples(self, split: str) -> Samples:
        """The samples of a split of the data, with the student's input names."""
        names = tuple(self.student.signature.input_names)
        return Samples(getattr(self.data, split), names, labelled=split != "unlabeled")

    def network(self, candidate: Candidate) -> Network:
        """The network that was exported for `candidate`."""
        if candidate.network == "qat":
            network: Network = self.qat[candidate.target].network
            return network
        return self.original(candidate)

    def original(self, candidate: Candidate) -> Network:
        """The network that `candidate` must agree with: for QAT, the student before it."""
        if candidate.network != "unpruned":
            return self.student
        assert self.unpruned is not None
        return self.unpruned

    def deployment(self, candidate: Candidate) -> DeploymentTarget:
        """The deployment target of `candidate`."""
        return next(
            deployment
            for deployment in self.deployments
            if deployment.target.name == candidate.target
        )
