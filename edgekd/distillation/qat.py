"""A student trained to be rounded: quantization-aware training, by distillation.

What is trained is a simulation of the file (`edgekd.quantization.simulated_network`). It learns
from is its own float version, or a teacher: no label is needed. What comes out are float weights
that the format's own quantizer then rounds as they were rounded in training.
Source: Jacob et al. 2018, arXiv:1712.05877; of distillation, Mishra, Marr 2018, arXiv:1711.05852.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgekd.data import Data, Inputs
from edgekd.distillation.distill import distill
from edgekd.distillation.teachers import Teacher
from edgekd.network.architecture import architecture_of
from edgekd.network.network import Network
from edgekd.quantization.batch_norm_folding import fold_batch_norms
from edgekd.quantization.quantizer_placement import METHODS, placement_rules, refusals
from edgekd.quantization.simulated_network import FakeQuantizedModule, program_of
from edgekd.recipe.training import Distill, Loss, Optimizer
from edgekd.tasks import TASKS, Task
from edgekd.training.loop import EpochProgress, Record, no_epoch_progress, no_message

LEARNING_RATE = 1e-3
"""Small: the weights are good, and have to move by steps of their grids. Measured: docs/qat.md."""


TEMPERATURE = 4.0


@dataclass(frozen=True)
class QatResult:
    """What quantization-aware training comes to.

    Attributes:
        network: in float, its batch norms folded, its weights tuned to be rounded.
        simulated: the same as its int8 file computes it.
        method: of the format's quantizer that the file is to be written with.
    """

    network: Network
    simulated: Network
    method: str


def method_of(network: Network, format: str) -> str | None:
    """The method of the quantizer of `format` that is simulated; None where there is none."""
    known = [method for name, method in METHODS if name == format]
    if "linear" in known and architecture_of(network).attention:
        return "linear"
    return known[0] if known else None


def refusal(network: Network, format: str) -> str | None:
    """Why `network` cannot be trained for int8 in `format`, in a sentence; None if it can."""
    method = method_of(network, format)
    if method is None:
        formats = ", ".join(dict.fromkeys(name for name, _ in METHODS))
        return f"what {format} rounds is not simulated; that of {formats} is"
    found = refusals(program_of(network)[0].graph, placement_rules(format, method))
    if found:
        return f"how {format} rounds inside of {', '.join(found)} is not simulated"
    return None


def prepare_qat(
    network: Network, format: str, calibration: Sequence[Inputs], *, weight_bits: int = 7
) -> Network:
    """`network`, its norms folded, as its int8 file in `format` will compute it.

    Its module is a `FakeQuantizedModule`.

    Args:
        calibration: inputs by name, batch first: those the file is calibrated with.
        weight_bits: 7 or 8, in which the file has its weights.

    Raises:
        ValueError: that is not simulated; see `refusal`.
    """
    method = method_of(network, format)
    if method is None:
        raise ValueError(str(refusal(network, format)))
    module = FakeQuantizedModule(
        fold_batch_norms(network), placement_rules(format, method, weight_bits), calibration
    )
    return network.with_module(module)


def train_quantized(
    simulated: Network,
    data: Data,
    training: Distill,
    teachers: Sequence[tuple[Teacher, float]],
    *,
    task: Task = TASKS["classification"],
    metric: str = "accuracy",
    seed: int = 0,
    progress: EpochProgress = no_epoch_progress,
    log: Callable[[str], None] = no_message,
    checkpoint: Path | None = None,
    cache: Path | None = None,
    history: list[Record] | None = None,
) -> Network:
    """A copy of `simulated` trained, as the last epoch left it; `finish_qat` makes files of it.

    Args:
        simulated: see `prepare_qat`; of a network whose softmax is not part of it, see `logits_of`.
        training: epochs, learning rate and loss: see `training_of`.
        teachers: whom it learns from, with their weights: itself in float, or others.
        task, metric, seed, tell, say, checkpoint, cache, history: see
            `edgekd.distillation.distill.distill`.

    Raises:
        RecipeError: see `distill`.
    """
    return distill(
        teachers,
        simulated,
        data,
        training,
        task=task,
        metric=metric,
        seed=seed,
        progress=progress,
        log=log,
        checkpoint=checkpoint,
        cache=cache,
        history=history,
        after_step=after_qat_step,
    )


def after_qat_step(module: nn.Module) -> None:
    """Advances the fake quantizers of a `FakeQuantizedModule` after an optimizer step."""
    assert isinstance(module, FakeQuantizedModule)
    module.tick()


def finish_qat(
    trained: Network,
    network: Network,
    format: str,
    calibration: Sequence[Inputs],
    *,
    weight_bits: int = 7,
) -> QatResult:
    """What `trained`, a simulation of `network` after its training, comes to."""
    module = trained.module
    assert isinstance(module, FakeQuantizedModule)
    folded = fold_batch_norms(network)
    _, unknown = folded.module.load_state_dict(module.weights(), strict=False)
    assert not unknown, unknown
    tuned = folded.with_module(folded.module, trained_by="quantize")
    simulated = prepare_qat(tuned, format, calibration, weight_bits=weight_bits)
    method = method_of(network, format)
    assert method is not None
    return QatResult(tuned, simulated, method)


def training_of(
    network: Network, epochs: int, learning_rate: float = LEARNING_RATE, like: Distill | None = None
) -> Distill:
    """How `network` is trained to be rounded: label-free, by soft targets where it gives logits.

    Args:
        like: the batches, views and devices of another training.
    """
    logits = len(network.signature.outputs[0].shape) == 2
    loss: dict[str, object] = {"method": "mean_squared"}
    if logits:
        loss = {"method": "soft_target", "temperature": TEMPERATURE}
    optimizer = Optimizer(name="adamw", learning_rate=learning_rate, weight_decay=0.0)
    settings = {
        "epochs": epochs,
        "optimizer": optimizer,
        "losses": [Loss.model_validate(loss)],
        "precision": "fp32",
        "compile": False,
        "channels_last": False,
        "generations": 1,
        "more_teachers": [],
    }
    return like.model_copy(update=settings) if like else Distill.model_validate(settings)
