"""Take out of the student what its targets can do without, and let it recover.

It learns again from what it was, and from its teacher. Whether that pays is told on each target,
beside the unpruned network: see `edgekd.pipeline.stages.choose`.
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
from edgekd.formats import find_format
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
from edgekd.pruning.prune import PrunedNetwork, counter_of, load_cut, prune, save_cut
from edgekd.pruning.search import MOST_REMOVED, changed_widths, drop_to, unreachable
from edgekd.pruning.sparsity import apply_masks, density, n_of_m_masks
from edgekd.pruning.structure import prune_channels
from edgekd.recipe.pruning import Prune
from edgekd.recipe.schema import Recipe
from edgekd.recipe.training import Distill, Loss
from edgekd.system.files import digest, write_json
from edgekd.system.packages import tool_versions
from edgekd.system.store import Run
from edgekd.training.distributed import one_after_the_first

USUAL = (
    Loss.model_validate({"method": "hard", "weight": 0.1}),
    Loss.model_validate({"method": "soft_target", "weight": 0.9, "temperature": 4.0}),
)
"""What is recovered with where the recipe has no [distill].

Source: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2.
"""


OF_RECOVERY = {"recover_epochs", "recover_learning_rate", "recover_from", "steps"}
"""Keys of a recipe that a cut does not depend on."""


def preflight(state: PipelineState) -> None:
    """Finds what would stop the pruning of `state`, before any training.

    Raises:
        RecipeError: a path does not exist, what depends on channels cannot be followed, or no
            candidate is so small as is asked for.
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
        _reach(network, config)


def _reach(network: Network, config: Prune) -> None:
    """Finds out whether any candidate of `network` is so small, whatever its weights are."""
    count, what = counter_of(network, config), f"of the {config.measure}"
    whole, module = count(network.module), network.module
    if config.blocks is not None:
        blocks, example = config.blocks, network.example
        drop_to(module, blocks, example, config.keep, count, lambda _: 0.0, whole=whole, what=what)
        return
    stay = untouchable(module, network.example, config.ignore)
    least = prune_channels(
        module,
        network.example,
        MOST_REMOVED,
        importance="l2" if config.importance in GRADIENTS else config.importance,
        everywhere=config.scope == "global",
        round_to=config.round_to,
        untouched=stay,
    )
    left = count(least.module) / whole
    if left > config.keep:
        raise RecipeError(unreachable(config.keep, left, least.untouched, what))


def _resolved(config: Prune, state: PipelineState) -> Prune:
    """`config` with the multiple of channels that all targets compute fast on."""
    multiples = [deployment.target.channel_multiple for deployment in state.deployments]
    return config.model_copy(update={"round_to": config.round_to or math.lcm(*multiples)})


def step(state: PipelineState, run: Run) -> PipelineState:
    """The work with its student pruned, recovered and scored, and kept unpruned beside it."""
    if state.recipe.prune is None:
        return state
    config, whole = _resolved(state.recipe.prune, state), state.student
    student, cuts = whole, list[PrunedNetwork]()
    with relative_latency(state, run) as measured:
        for number in range(config.steps):
            share = config.keep ** ((number + 1) / config.steps)
            one = config.model_copy(update={"keep": share, "scan": config.scan and not number})
            cut = _cut_once(student, one, whole, measured, number, state, run)
            if cut.empty:
                break
            cuts.append(cut)
            student = _recovered(cut, whole, one, number, state, run)
    if not cuts:
        run.progress("prune", f"nothing is removed to keep {config.keep:g}")
        candidates = tuple(
            candidate for candidate in state.candidates if candidate.network == "student"
        )
        return replace(state, candidates=candidates)
    told = _told(cuts, config, whole, student, state)
    write_json(run.folder / "prune" / "pruning.json", told.to_json())
    score = scored_student(student, replace(state, student=student))
    return replace(
        state,
        student=student,
        student_score=score,
        unpruned=whole,
        unpruned_score=state.student_score,
        pruning=told,
    )


def _named(kind: str, number: int, config: Prune) -> str:
    return f"{kind}-{number + 1}" if config.steps > 1 else kind


def _cut_once(
    student: Network,
    config: Prune,
    whole: Network,
    measured: Callable[[nn.Module], float] | None,
    number: int,
    state: PipelineState,
    run: Run,
) -> PrunedNetwork:
    """The cut of `student` to what `config` keeps of `whole`, made now or looked up."""
    deployment = latency_target(state.recipe, state.deployments)
    key: dict[str, Any] = {
        "student": network_key(student),
        "whole": network_key(whole),
        "prune": config.model_dump(exclude=OF_RECOVERY),
        "data": state.data_key,
        "seed": run.seed,
        "torch-pruning": tool_versions(("torch_pruning",)),
        "timed": latency_key(deployment) if deployment else None,
    }

    def make(folder: Path) -> None:
        count = measured
        if count is None and config.method == "structured":
            count = counter_of(whole, config)
        cut = prune(
            student,
            state.data,
            config,
            task=state.task,
            metric=state.recipe.accept.metric,
            seed=run.seed,
            measure=count,
            whole=count(whole.module) if count and not measured else 1.0,
            progress=run.progress,
        )
        save_cut(cut, folder)

    with one_after_the_first():
        made = run.make("prune", _named("cut", number, state.recipe.prune or config), key, make)
    return load_cut(student, made.folder)


def _recovered(
    cut: PrunedNetwork, whole: Network, config: Prune, number: int, state: PipelineState, run: Run
) -> Network:
    """The cut network after its share of the epochs of recovery."""
    steps, epochs = config.steps, config.recover_epochs
    ours = epochs * (number + 1) // steps - epochs * number // steps
    lineage = {"pruned": {"removed": digest(cut.removed.to_json()), "kept_frac": cut.kept_frac}}
    network = whole.like(cut.network.module, lineage={**whole.lineage, **lineage})
    if not ours:
        return network
    distillation = Distillation(
        teachers=_teachers(whole, config, state),
        student=network,
        config=recovery(state.recipe, ours),
        after_step=_kept_at_zero(cut.masks),
        depends_on={"masks": {name: _bytes_digest(mask) for name, mask in cut.masks.items()}},
    )
    name = _named("recovered", number, config)
    return distilled_once(distillation, state, run, stage="prune", name=name)


def _bytes_digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def _kept_at_zero(masks: Mapping[str, Tensor]) -> Callable[[nn.Module], None] | None:
    return (lambda module: apply_masks(module, masks)) if masks else None


def recovery(recipe: Recipe, epochs: int) -> Distill:
    """How a pruned student of `recipe` is trained for so many epochs."""
    prune = recipe.prune
    config = recipe.distill or Distill(epochs=epochs, losses=list(USUAL))
    optimizer = config.optimizer
    if prune is not None and prune.recover_learning_rate is not None:
        optimizer = optimizer.model_copy(update={"learning_rate": prune.recover_learning_rate})
    return config.model_copy(update={"epochs": epochs, "generations": 1, "optimizer": optimizer})


def _teachers(whole: Network, config: Prune, state: PipelineState) -> list[tuple[Teacher, float]]:
    """Who teaches the pruned student; one that is the unpruned student itself comes once."""
    teachers: list[tuple[Teacher, float]] = []
    if config.recover_from != "unpruned":
        teachers = list(state.teachers)
    same = {each.weights_digest() for each, _ in teachers if isinstance(each, Network)}
    if config.recover_from != "teacher" and whole.weights_digest() not in same:
        teachers.append((whole, 1.0))
    return teachers


def profits(deployments: Sequence[DeploymentTarget]) -> dict[str, str]:
    """By format of the goals, what its runtime makes of weights that are zero."""
    formats = dict.fromkeys(deployment.target.format for deployment in deployments)
    return {name: getattr(find_format(name), "SPARSE", "not known") for name in formats}


def _told(
    cuts: Sequence[PrunedNetwork],
    config: Prune,
    whole: Network,
    student: Network,
    state: PipelineState,
) -> Pruning:
    deployment = latency_target(state.recipe, state.deployments)
    last = cuts[-1]
    return Pruning(
        method="blocks" if config.blocks else config.method,
        measure=config.measure,
        keep=config.keep,
        kept_frac=last.kept_frac,
        trial_count=sum(len(cut.trials) for cut in cuts),
        widths={} if config.blocks else changed_widths(whole.module, student.module),
        removed=tuple(cut.removed.to_json() for cut in cuts),
        untouched=tuple(vars(each) for each in last.untouched),
        zero_frac=1.0 - density(student.module),
        target=deployment.target.name if deployment else None,
        profits={} if config.method == "structured" else profits(state.deployments),
    )
