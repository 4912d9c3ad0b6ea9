"""edgekd: from a trained teacher to small model files that run within a stated budget on phones,
boards and CPUs, with the evidence to ship them.

The rooms by floor; a file imports from its own room or from a room on a lower floor:

    8  cli
    7  pipeline (stages, candidates)
    6  conversion  verification  benchmarking  distillation  bundles
    5  devices  training  pruning  calibration  report
    4  formats  quantization  tasks  evidence
    3  recipe  network
    2  artifacts
    1  system  losses  data
    0  errors
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgekd.system.version import VERSION as __version__

if TYPE_CHECKING:
    from edgekd import losses as losses
    from edgekd.artifacts.artifact import Artifact as Artifact
    from edgekd.artifacts.artifact import load_artifact as load_artifact
    from edgekd.artifacts.signature import Signature as Signature
    from edgekd.artifacts.signature import TensorSpec as TensorSpec
    from edgekd.artifacts.target import Target as Target
    from edgekd.artifacts.target import load_target as load_target
    from edgekd.benchmarking.benchmark import benchmark as benchmark
    from edgekd.conversion.export import export as export
    from edgekd.conversion.preprocessing import folded as folded
    from edgekd.data import Data as Data
    from edgekd.distillation.distill import distill as distill
    from edgekd.errors import EdgekdError as EdgekdError
    from edgekd.evidence.agreement import Agreement as Agreement
    from edgekd.evidence.measurement import Measurement as Measurement
    from edgekd.evidence.outcome import Outcome as Outcome
    from edgekd.network.load import load_network as load_network
    from edgekd.network.network import Network as Network
    from edgekd.pipeline.calibrate import calibrate as calibrate
    from edgekd.pipeline.plan import check as check
    from edgekd.pipeline.result import RunResult as RunResult
    from edgekd.pipeline.run import run as run
    from edgekd.pruning.prune import prune as prune
    from edgekd.recipe.load import load_recipe as load_recipe
    from edgekd.verification.layer_sensitivity import sensitivity as sensitivity
    from edgekd.verification.verify import verify as verify

# Names are imported when they are first used: `edgekd --help` must not wait for torch.
_HOMES = {
    "Agreement": "evidence.agreement",
    "Artifact": "artifacts.artifact",
    "Data": "data",
    "EdgekdError": "errors",
    "Measurement": "evidence.measurement",
    "Network": "network.network",
    "Outcome": "evidence.outcome",
    "RunResult": "pipeline.result",
    "Signature": "artifacts.signature",
    "Target": "artifacts.target",
    "TensorSpec": "artifacts.signature",
    "benchmark": "benchmarking.benchmark",
    "calibrate": "pipeline.calibrate",
    "check": "pipeline.plan",
    "distill": "distillation.distill",
    "export": "conversion.export",
    "folded": "conversion.preprocessing",
    "load_artifact": "artifacts.artifact",
    "load_network": "network.load",
    "load_recipe": "recipe.load",
    "load_target": "artifacts.target",
    "prune": "pruning.prune",
    "run": "pipeline.run",
    "sensitivity": "verification.layer_sensitivity",
    "verify": "verification.verify",
}

__all__ = ["__version__", "losses", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "losses":
        return import_module("edgekd.losses")
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekd' has no attribute {name!r}")
    return getattr(import_module(f"edgekd.{_HOMES[name]}"), name)
