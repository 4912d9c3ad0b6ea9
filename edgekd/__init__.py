"""From a trained teacher to small, verified, benchmarked model files for edge devices.

A recipe, from teacher to bundle:
    run, check, calibrate

Each stage alone:
    distill, prune, embed_preprocessing, export, verify, layer_sensitivity, benchmark

What they take:
    load_network, load_recipe, load_target, load_artifact, losses
    Data, Network, Target, Task, Artifact, Signature, TensorSpec
    TrainingOptions, CalibrationOptions

What they return:
    RunResult, PrunedNetwork, Agreement, Measurement, Outcome; they raise EdgekdError

help(edgekd.export) explains one function. On the command line: edgekd --help.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING
from typing import Any as _Any

from edgekd.system.telemetry import disable_telemetry as _disable_telemetry
from edgekd.system.version import VERSION as _VERSION

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
    from edgekd.conversion.preprocessing import embed_preprocessing as embed_preprocessing
    from edgekd.data import Data as Data
    from edgekd.distillation.distill import distill as distill
    from edgekd.errors import EdgekdError as EdgekdError
    from edgekd.evidence.agreement import Agreement as Agreement
    from edgekd.evidence.measurement import Measurement as Measurement
    from edgekd.evidence.outcome import Outcome as Outcome
    from edgekd.network.load import load_network as load_network
    from edgekd.network.network import Network as Network
    from edgekd.pipeline.calibrate import CalibrationOptions as CalibrationOptions
    from edgekd.pipeline.calibrate import calibrate as calibrate
    from edgekd.pipeline.plan import check as check
    from edgekd.pipeline.result import RunResult as RunResult
    from edgekd.pipeline.run import run as run
    from edgekd.pruning.prune import PrunedNetwork as PrunedNetwork
    from edgekd.pruning.prune import prune as prune
    from edgekd.recipe.load import load_recipe as load_recipe
    from edgekd.tasks.task import Task as Task
    from edgekd.training.options import TrainingOptions as TrainingOptions
    from edgekd.verification.layer_sensitivity import layer_sensitivity as layer_sensitivity
    from edgekd.verification.verify import verify as verify

__version__ = _VERSION

_disable_telemetry()  # Before any of these libraries is imported.

_MODULES = {
    "Agreement": "evidence.agreement",
    "Artifact": "artifacts.artifact",
    "CalibrationOptions": "pipeline.calibrate",
    "Data": "data",
    "EdgekdError": "errors",
    "Measurement": "evidence.measurement",
    "Network": "network.network",
    "Outcome": "evidence.outcome",
    "PrunedNetwork": "pruning.prune",
    "RunResult": "pipeline.result",
    "Signature": "artifacts.signature",
    "Target": "artifacts.target",
    "Task": "tasks.task",
    "TensorSpec": "artifacts.signature",
    "TrainingOptions": "training.options",
    "benchmark": "benchmarking.benchmark",
    "calibrate": "pipeline.calibrate",
    "check": "pipeline.plan",
    "distill": "distillation.distill",
    "embed_preprocessing": "conversion.preprocessing",
    "export": "conversion.export",
    "layer_sensitivity": "verification.layer_sensitivity",
    "load_artifact": "artifacts.artifact",
    "load_network": "network.load",
    "load_recipe": "recipe.load",
    "load_target": "artifacts.target",
    "prune": "pruning.prune",
    "run": "pipeline.run",
    "verify": "verification.verify",
}
"""The module of each public name, imported on first use: `edgekd --help` must not load torch."""

_RENAMED = {"folded": "embed_preprocessing", "sensitivity": "layer_sensitivity"}
"""Names of version 0.1, which work and warn until the release after the next."""


def __getattr__(name: str) -> _Any:
    if name == "losses":
        return _import_module("edgekd.losses")
    if name in _RENAMED:
        import warnings

        new = _RENAMED[name]
        message = f"edgekd.{name} is now edgekd.{new}; the old name will be removed"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return __getattr__(new)
    if name not in _MODULES:
        raise AttributeError(f"module 'edgekd' has no attribute {name!r}")
    from edgekd.system.signatures import readable

    return readable(getattr(_import_module(f"edgekd.{_MODULES[name]}"), name))


def __dir__() -> list[str]:
    # There is no `__all__`: with one, help(edgekd) prints the help of every name in it.
    return sorted(["__version__", "losses", *_MODULES])
