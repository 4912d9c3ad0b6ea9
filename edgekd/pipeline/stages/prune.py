"""Prune the student, and train it again to recover.

Its teachers are the unpruned student and the teacher. `edgekd.pipeline.stages.choose` decides on
each target whether pruning pays off against the unpruned network.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgekd.distillation.teachers import Teacher
from edgekd.errors import RecipeError
from edgekd.formats.capabilities import sparse_support
from edgekd.network.network import Network, network_key
from edgekd.pipeline.candidates.pruning_latency import (
    latency_key,
    latency_target,
    relative_latency,
)
from edgekd.pipeline.candidates.score import scored_student
from edgekd.pipeline.candidates.state import DeploymentTarget, PipelineState, Pruning
from edgekd.pipeline.candidates.train import Distillation, distilled_once
from edgekd.pruning.blocks import blocks_of
from edgekd.pruning.dependencies import below, untouchable
from edgekd.pruning.importance import GRADIENTS
from edgekd.pruning.prune import PrunedNetwork, counter_of, load_pruned, prune, save_pruned
from edgekd.pruning.search import MOST_REMOVED, Measure, changed_widths, drop_to, unreachable
from edgekd.pruning.sparsity import apply_masks, density, n_of_m_masks
from edgekd.pruning.structure import ChannelOptions, prune_channels
from edgekd.recipe.pruning import Prune
from edgekd.recipe.schema import Recipe
from edgekd.recipe.training import Distill, Loss
from edgekd.system.files import digest, write_json
from edgekd.system.packages import tool_versions
from edgekd.system.store import Run
from edgekd.training.distributed import one_after_the_first

DEFAULT_LOSSES = (
    Loss.model_validate({"method": "hard", "weight": 0.1}),
    Loss.model_validate({"method": "soft_target", "weight": 0.9, "temperature": 4.0}),
)
"""The losses of the recovery if the recipe has no [distill].

Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2.
"""


RECOVERY_KEYS = {"recover_epochs", "recover_learning_rate", "recover_from", "steps"}
"""Keys of [prune] that only concern the recovery."""


def preflight(state: PipelineState) -> None:
    """Finds what would stop the pruning of `state`, before any training.

    Raises:
        RecipeError: a path does not exist, the dependencies of channels cannot be traced, or no
            pruned network is as small as requested.
        MissingPackageError: torch-pruning is not installed.
    """
    if state.recipe.prune is None:
        return
    config = _resolved(state.recipe.prune, state)
    network = state.student
    if config.method != "structured":
        for path in config.ignore:
            below(network.module, path)
        if config.method == "n-m":
            n_of_m_masks(network.module, *config.n_of_m, ignore=config.ignore)
        return
    if config.blocks is not None:
        blocks_of(network.module, config.blocks, "prune.blocks")
    elif config.measure == "latency":
        untouchable(network.module, network.example, config.ignore)
    if config.measure != "latency":
        _check_reachable(network, config)


def _check_reachable(network: Network, config: Prune) -> None:
    """Raises a RecipeError if pruning cannot make `network` as small as requested."""
    count, module = counter_of(network, config), network.module
    measure = Measure(count, count(module), f"of the {config.measure}")
    if config.blocks is not None:
        drop_to(module, config.blocks, network.example, config.keep, measure, lambda _: 0.0)
        return
    stay = untouchable(module, network.example, config.ignore)
    least = prune_channels(
        module,
        network.example,
        MOST_REMOVED,
        ChannelOptions(
            importance="l2" if config.importance in GRADIENTS else config.importance,
            everywhere=config.scope == "global",
            round_to=config.round_to,
            untouched=stay,
        ),
    )
    left = measure.share(least.module)
    if left > config.keep:
        raise RecipeError(unreachable(config.keep, left, least.untouched, measure.what))


def _resolved(config: Prune, state: PipelineState) -> Prune:
    """`config` with channel counts rounded to the multiple that suits all targets."""
    multiples = [deployment.target.channel_multiple for deployment in state.deployments]
    return config.model_copy(update={"round_to": config.round_to or math.lcm(*multiples)})


def step(state: PipelineState, run: Run) -> PipelineState:
    """The state with the student pruned, recovered and scored; the unpruned one is kept."""
    if state.recipe.prune is None:
        return state
    config, whole = _resolved(state.recipe.prune, state), state.student
    student, pruned = whole, list[PrunedNetwork]()
    with relative_latency(state, run) as measured:
        for number in range(config.steps):
            share = config.keep ** ((number + 1) / config.steps)
            one = config.model_copy(update={"keep": share, "scan": config.scan and not number})
            network = _pruned_once(student, one, whole, measured, number, state, run)
            if network.empty:
                break
            pruned.append(network)
            student = _recovered(network, whole, one, number, state, run)
    if not pruned:
        run.progress("prune", f"nothing has to be removed to keep {config.keep:g}")
        candidates = tuple(
            candidate for candidate in state.candidates if candidate.network == "student"
        )
        return replace(state, candidates=candidates)
    pruning = _summary(pruned, config, whole, student, state)
    write_json(run.folder / "prune" / "pruning.json", pruning.to_json())
    score = scored_student(student, replace(state, student=student))
    return replace(
        state,
        student=student,
        student_score=score,
        unpruned=whole,
        unpruned_score=state.student_score,
        pruning=pruning,
    )


def _named(kind: str, number: int, config: Prune) -> str:
    return f"{kind}-{number + 1}" if config.steps > 1 else kind


def _pruned_once(
    student: Network,
    config: Prune,
    whole: Network,
    measured: Callable[[nn.Module], float] | None,
    number: int,
    state: PipelineState,
    run: Run,
) -> PrunedNetwork:
    """`student` pruned to the share of `whole` that `config` keeps, computed now or looked up."""
    deployment = latency_target(state.recipe, state.deployments)
    key: dict[str, Any] = {
        "student": network_key(student),
        "whole": network_key(whole),
        "prune": config.model_dump(exclude=RECOVERY_KEYS),
        "data": state.data_key,
        "seed": run.seed,
        "torch-pruning": tool_versions(("torch_pruning",)),
        "timed": latency_key(deployment) if deployment else None,
    }

    def make(folder: Path) -> None:
        measure = Measure(measured, 1.0) if measured else None
        if measure is None and config.method == "structured":
            count = counter_of(whole, config)
            measure = Measure(count, count(whole.module))
        pruned = prune(
            student,
            state.data,
            config,
            task=state.task,
            metric=state.recipe.accept.metric,
            seed=run.seed,
            measure=measure,
            progress=run.progress,
        )
        save_pruned(pruned, folder)

    with one_after_the_first():
        name = _named("cut", number, state.recipe.prune or config)
        folder = run.make("prune", name, key, make).folder
    return load_pruned(student, folder)


def _recovered(
    pruned: PrunedNetwork,
    whole: Network,
    config: Prune,
    number: int,
    state: PipelineState,
    run: Run,
) -> Network:
    """The pruned network after its share of the recovery epochs."""
    steps, epochs = config.steps, config.recover_epochs
    share = epochs * (number + 1) // steps - epochs * number // steps
    removed = digest(pruned.removed.to_json())
    lineage = {"pruned": {"removed": removed, "kept_frac": pruned.kept_frac}}
    network = whole.like(pruned.network.module, lineage={**whole.lineage, **lineage})
    if not share:
        return network
    distillation = Distillation(
        teachers=_teachers(whole, config, state),
        student=network,
        config=recovery(state.recipe, share),
        after_step=_kept_at_zero(pruned.masks),
        depends_on={"masks": {name: _bytes_digest(mask) for name, mask in pruned.masks.items()}},
    )
    name = _named("recovered", number, config)
    return distilled_once(distillation, state, run, stage="prune", name=name)


def _bytes_digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def _kept_at_zero(masks: Mapping[str, Tensor]) -> Callable[[nn.Module], None] | None:
    return (lambda module: apply_masks(module, masks)) if masks else None


def recovery(recipe: Recipe, epochs: int) -> Distill:
    """The training configuration that lets a pruned student of `recipe` recover."""
    prune = recipe.prune
    config = recipe.distill or Distill(epochs=epochs, losses=list(DEFAULT_LOSSES))
    optimizer = config.optimizer
    if prune is not None and prune.recover_learning_rate is not None:
        optimizer = optimizer.model_copy(update={"learning_rate": prune.recover_learning_rate})
    return config.model_copy(update={"epochs": epochs, "generations": 1, "optimizer": optimizer})


def _teachers(whole: Network, config: Prune, state: PipelineState) -> list[tuple[Teacher, float]]:
    """The teachers of the pruned student, each once: the teacher may be the unpruned student."""
    teachers: list[tuple[Teacher, float]] = []
    if config.recover_from != "unpruned":
        teachers = list(state.teachers)
    known = {teacher.weights_digest() for teacher, _ in teachers if isinstance(teacher, Network)}
    if config.recover_from != "teacher" and whole.weights_digest() not in known:
        teachers.append((whole, 1.0))
    return teachers


def profits(deployments: Sequence[DeploymentTarget]) -> dict[str, str]:
    """By format of the targets, how its runtime uses weights that are zero."""
    formats = dict.fromkeys(deployment.target.format for deployment in deployments)
    return {name: sparse_support(name) for name in formats}


def _summary(
    pruned: Sequence[PrunedNetwork],
    config: Prune,
    whole: Network,
    student: Network,
    state: PipelineState,
) -> Pruning:
    deployment = latency_target(state.recipe, state.deployments)
    last = pruned[-1]
    return Pruning(
        method="blocks" if config.blocks else config.method,
        measure=config.measure,
        keep=config.keep,
        kept_frac=last.kept_frac,
        trial_count=sum(len(network.trials) for network in pruned),
        widths={} if config.blocks else changed_widths(whole.module, student.module),
        removed=tuple(network.removed.to_json() for network in pruned),
        untouched=tuple(vars(layer) for layer in last.untouched),
        zero_frac=1.0 - density(student.module),
        target=deployment.target.name if deployment else None,
        profits={} if config.method == "structured" else profits(state.deployments),
    )
