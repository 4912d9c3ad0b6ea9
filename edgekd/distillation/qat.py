"""Quantization-aware training (QAT) of a student, by distillation.

The student is trained as a simulation of its file (`edgekd.quantization.simulated_network`), by its
own float version or by a teacher, without labels. The result is float weights that the format's own
quantizer rounds as the training did.
Source: Jacob et al. 2018, arXiv:1712.05877; with distillation, Mishra, Marr 2018, arXiv:1711.05852.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from edgekd.data import Data, Inputs
from edgekd.distillation.distill import distill
from edgekd.distillation.teachers import Teacher
from edgekd.formats.capabilities import quantizer_rules, simulated_formats, simulated_methods
from edgekd.network.architecture import architecture_of
from edgekd.network.network import Network
from edgekd.quantization.batch_norm_folding import fold_batch_norms
from edgekd.quantization.quantizer_placement import refusals
from edgekd.quantization.simulated_network import FakeQuantizedModule, program_of
from edgekd.recipe.training import Distill, Loss, Optimizer
from edgekd.tasks import TASKS, Task
from edgekd.training.options import TrainingOptions

LEARNING_RATE = 1e-3
"""The weights are trained already and move by steps of their grids; measured in docs/qat.md."""


TEMPERATURE = 4.0


@dataclass(frozen=True)
class QatResult:
    """The result of quantization-aware training.

    Attributes:
        network: the trained network in float, its batch norms folded.
        simulated: the same network as its int8 file computes it.
        method: the method of the format's quantizer to write the file with.
    """

    network: Network
    simulated: Network
    method: str


def method_of(network: Network, format: str) -> str | None:
    """The quantization method of `format` that QAT simulates for `network`; None if it simulates
    none."""
    known = simulated_methods(format)
    if "linear" in known and architecture_of(network).attention:
        return "linear"
    return next(iter(known), None)


def refusal(network: Network, format: str) -> str | None:
    """Why `network` cannot be trained for int8 in `format`, in a sentence; None if it can."""
    method = method_of(network, format)
    if method is None:
        return no_simulation(format)
    operators = refusals(program_of(network)[0].graph, quantizer_rules(format, method))
    if operators:
        return f"QAT does not simulate how {format} quantizes inside {', '.join(operators)}"
    return None


def no_simulation(format: str) -> str | None:
    """Why no network can be trained for int8 in `format`, in a sentence; None if one can."""
    if simulated_methods(format):
        return None
    known = ", ".join(simulated_formats())
    return f"QAT does not simulate the quantizer of {format}; it simulates that of {known}"


def prepare_qat(
    network: Network, format: str, calibration: Sequence[Inputs], *, reduce_range: bool = True
) -> Network:
    """`network`, its batch norms folded, as its int8 file in `format` will compute it.

    Its module is a `FakeQuantizedModule`.

    Args:
        calibration: the samples that the file is calibrated with, inputs by name, batch first.
        reduce_range: whether the file's weights use 7 of their 8 bits.

    Raises:
        ValueError: QAT does not simulate the format; see `refusal`.
    """
    method = method_of(network, format)
    if method is None:
        raise ValueError(str(refusal(network, format)))
    module = FakeQuantizedModule(
        fold_batch_norms(network),
        quantizer_rules(format, method, reduce_range=reduce_range),
        calibration,
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
    options: TrainingOptions | None = None,
) -> Network:
    """A copy of `simulated` after QAT; `finish_qat` returns the network that files are made of.

    Args:
        simulated: see `prepare_qat`; for a network with an embedded softmax, see `logits_of`.
        training: epochs, learning rate and losses: see `training_of`.
        teachers: each with its weight: the network itself in float, or others.
        task, metric, seed, options: see `edgekd.distillation.distill.distill`.

    Raises:
        RecipeError: see `distill`.
    """
    options = replace(options or TrainingOptions(), after_step=after_qat_step)
    return distill(
        teachers, simulated, data, training, task=task, metric=metric, seed=seed, options=options
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
    reduce_range: bool = True,
) -> QatResult:
    """The result of `trained`, a simulation of `network` after its training."""
    module = trained.module
    assert isinstance(module, FakeQuantizedModule)
    folded = fold_batch_norms(network)
    _, unknown = folded.module.load_state_dict(module.weights(), strict=False)
    assert not unknown, unknown
    tuned = folded.with_module(folded.module, trained_by="quantize")
    simulated = prepare_qat(tuned, format, calibration, reduce_range=reduce_range)
    method = method_of(network, format)
    assert method is not None
    return QatResult(tuned, simulated, method)


def training_of(
    network: Network, epochs: int, learning_rate: float = LEARNING_RATE, like: Distill | None = None
) -> Distill:
    """The training table of QAT for `network`: label-free, by soft targets if it gives logits.

    Args:
        like: a training whose batches, views and devices it takes over.
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
