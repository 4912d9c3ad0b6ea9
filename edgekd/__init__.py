"""edgekd: from a trained teacher to small model files that run within a stated budget on phones,
boards and CPUs, with the evidence to ship them.

The rooms, each importing only from those before it:

    errors                                every way to stop, and its exit code
    need process signature scheme         the one import of optional packages, the one subprocess,
    store percentile toml                 names, precisions, what is on disk, what latencies tell
    recipe faults target reference        what a user asks for, and what is wrong with it
    artifact evidence                     files, and the rows of the report
    network data samples task work        networks and data with names, and what flows
    losses pruning quantization           numbers and tensors alone, one method per file
    formats devices bundles               one format, one connection, one packaging per file
    fit checkpoint evaluate trained       the training loop, its state on disk, scores
    measure distillation cut conversion   the stopwatch; a network taught, pruned, written
    stages                                one stage per file
    packing signing plan pipeline         bundles after their run; a valid recipe; STAGES folded
    progress text cli                     words -> this package -> text
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd import losses as losses
    from edgekd.artifact import Artifact as Artifact
    from edgekd.artifact import load_artifact as load_artifact
    from edgekd.calibrating import calibrate as calibrate
    from edgekd.conversion import export as export
    from edgekd.cut import prune as prune
    from edgekd.data import Data as Data
    from edgekd.distillation import distill as distill
    from edgekd.errors import EdgekdError as EdgekdError
    from edgekd.evidence import Agreement as Agreement
    from edgekd.evidence import Measurement as Measurement
    from edgekd.evidence import Outcome as Outcome
    from edgekd.folding import folded as folded
    from edgekd.layerwise import sensitivity as sensitivity
    from edgekd.network import Network as Network
    from edgekd.network import load_network as load_network
    from edgekd.pipeline import run as run
    from edgekd.plan import check as check
    from edgekd.recipe import load_recipe as load_recipe
    from edgekd.result import RunResult as RunResult
    from edgekd.signature import Signature as Signature
    from edgekd.signature import TensorSpec as TensorSpec
    from edgekd.stages.benchmark import benchmark as benchmark
    from edgekd.stages.verify import verify as verify
    from edgekd.target import Target as Target
    from edgekd.target import load_target as load_target

__version__ = "0.1.0"

# Names are imported when they are first used: `edgekd --help` must not wait for torch.
_HOMES = {
    "Agreement": "evidence",
    "Artifact": "artifact",
    "Data": "data",
    "EdgekdError": "errors",
    "Measurement": "evidence",
    "Network": "network",
    "Outcome": "evidence",
    "RunResult": "result",
    "Signature": "signature",
    "Target": "target",
    "TensorSpec": "signature",
    "benchmark": "stages.benchmark",
    "calibrate": "calibrating",
    "check": "plan",
    "distill": "distillation",
    "export": "conversion",
    "folded": "folding",
    "load_artifact": "artifact",
    "load_network": "network",
    "load_recipe": "recipe",
    "load_target": "target",
    "prune": "cut",
    "run": "pipeline",
    "sensitivity": "layerwise",
    "verify": "stages.verify",
}

__all__ = ["__version__", "losses", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "losses":
        return import_module("edgekd.losses")
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekd' has no attribute {name!r}")
    return getattr(import_module(f"edgekd.{_HOMES[name]}"), name)
