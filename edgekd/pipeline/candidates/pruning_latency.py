"""The latency of pruned networks on a target, measured while pruning searches for a size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from edgekd.artifacts.artifact import Artifact
from edgekd.artifacts.scheme import SCHEMES
from edgekd.benchmarking.measure import MeasurementSettings, measure
from edgekd.conversion.export import convert
from edgekd.devices.job import failure_error
from edgekd.devices.on_device.agent import device_facts
from edgekd.errors import Fault, RecipeError, listed
from edgekd.evidence.outcome import Verdict
from edgekd.formats import find_format
from edgekd.formats.options import ExportOptions
from edgekd.pipeline.candidates.state import DeploymentTarget, PipelineState
from edgekd.recipe.benchmark import Protocol
from edgekd.recipe.schema import Recipe
from edgekd.system.packages import tool_versions
from edgekd.system.scratch import scratch_folder
from edgekd.system.store import Run

TRIAL = Protocol(
    name="trial", processes=2, runs=100, seconds=0.2, turn_s=0.0, warm_up_s=0.1, cool_s=0.0
)
"""How a candidate is timed during the search; the final verdict is measured anew."""


def latency_target(
    recipe: Recipe, deployments: Sequence[DeploymentTarget]
) -> DeploymentTarget | None:
    """The deployment whose latency pruning reduces; None if pruning counts something else.

    Raises:
        RecipeError: the recipe asks for a latency, and the device is not at hand.
    """
    config = recipe.prune
    if config is None or config.measure != "latency":
        return None
    named = [
        deployment for deployment in deployments if config.target in (None, deployment.target.name)
    ]
    at_hand = [deployment for deployment in named if deployment.target.at_hand]
    if at_hand:
        return at_hand[0]
    names = [deployment.target.name for deployment in deployments]
    if not named:
        fault = Fault(
            what=f"The recipe has no target {config.target!r} to measure latency on.",
            at="prune.target",
            got=repr(config.target),
            expected=listed(names),
            fix=f"set prune.target = {names[0]!r}",
        )
    else:
        fault = Fault(
            what="Pruning by latency needs a device, and no target of the recipe has one.",
            at="prune.measure",
            got=", ".join(f"{deployment.target.name} without a device" for deployment in named),
            expected='a target with a device, such as device = "ssh://pi@pi5.local"',
            fix='set the device of the target, or set prune.measure = "macs"',
        )
    raise RecipeError(fault)


def latency_key(deployment: DeploymentTarget) -> dict[str, Any]:
    """What a latency on `deployment` depends on, as a JSON document."""
    target = deployment.target
    packages = find_format(target.format).PACKAGES
    return {
        "target": [target.name, target.machine, target.device, target.threads, target.format],
        "scheme": _timed_scheme(deployment),
        "facts": device_facts(),
        "runtime": tool_versions(packages),
        "protocol": vars(TRIAL),
    }


def _timed_scheme(deployment: DeploymentTarget) -> str:
    """The target's first scheme that needs no calibration."""
    schemes = [name for name in deployment.target.schemes if not SCHEMES[name].calibrated]
    written = [name for name in schemes if name in find_format(deployment.target.format).SCHEMES]
    return written[0] if written else "fp32"


@contextmanager
def relative_latency(
    state: PipelineState, run: Run
) -> Iterator[Callable[[nn.Module], float] | None]:
    """While open, a function from a module to its latency as a share of the student's.

    None if the recipe prunes by something other than latency.
    """
    deployment = latency_target(state.recipe, state.deployments)
    if deployment is None:
        yield None
        return
    target, whole = deployment.target, state.student
    inputs = state.samples("validation").take(torch.arange(1))[0]
    with scratch_folder() as scratch:
        artifacts: dict[str, Artifact] = {}

        def exported(name: str, module: nn.Module) -> Artifact:
            example = {key: value[:1] for key, value in whole.example.items()}
            network = whole.like(module.eval(), example)
            options = ExportOptions(scheme=_timed_scheme(deployment))
            return convert(network, target.format, (), scratch / name, options)

        def share(module: nn.Module) -> float:
            if "whole" not in artifacts:
                artifacts["whole"] = exported("whole", whole.module)
            artifacts["candidate"] = exported("candidate", module)
            results = measure(
                artifacts,
                MeasurementSettings(
                    device=target.device or "local",
                    threads=target.threads,
                    evidence=target.evidence,
                    inputs=inputs,
                    protocol=TRIAL,
                    seed=run.seed,
                ),
                parents={"candidate": "whole"},
            )
            for name, result in results.items():
                if isinstance(result, Verdict):
                    raise failure_error(result, artifacts[name])
            result = results["candidate"]
            assert not isinstance(result, Verdict)
            assert result.ratio is not None
            return result.ratio.value

        yield share
