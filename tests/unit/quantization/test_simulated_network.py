"""A network as its int8 file computes it: in float it is the network, and it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edgekd.conversion.preprocessing import embed_preprocessing, logits_of
from edgekd.data import Data
from edgekd.distillation.qat import (
    finish_qat,
    method_of,
    prepare_qat,
    refusal,
    train_quantized,
    training_of,
)
from edgekd.network.network import Network, as_network, call
from edgekd.quantization.batch_norm_folding import fold_batch_norms
from edgekd.quantization.simulated_network import FakeQuantizedModule, Grid
from edgekd.recipe.training import Loss
from edgekd.training.options import Record, TrainingOptions
from edgekd.verification.simulation_match import MOST_DB, capped_sqnr_db, mismatch
from tests.support.architectures import ARCHITECTURES
from tests.support.models import TRAPS

NETWORKS = {**TRAPS, **ARCHITECTURES}
NORMED = ("residual", "signal", "mobilenet-v2", "densenet", "unet")


def built(name: str) -> tuple[Network, dict[str, Tensor]]:
    trap = NETWORKS[name]
    example = trap.draw(1, torch.Generator().manual_seed(1))
    return as_network(trap.build(), example), trap.draw(16, torch.Generator().manual_seed(2))


def rows_of(inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    count = len(next(iter(inputs.values())))
    return [{name: value[i : i + 1] for name, value in inputs.items()} for i in range(count)]


def simulation(
    network: Network, inputs: dict[str, Tensor], format: str = "onnx"
) -> FakeQuantizedModule:
    module = prepare_qat(network, format, rows_of(inputs)).module
    assert isinstance(module, FakeQuantizedModule)
    return module


@pytest.mark.parametrize("name", NORMED)
def test_a_network_computes_the_same_with_its_norms_folded(name: str) -> None:
    network, inputs = built(name)
    without = fold_batch_norms(network)
    left = [each for each in without.module.modules() if isinstance(each, nn.BatchNorm2d)]
    # Only norms behind a sum, a pool or a concatenation stay.
    assert bool(left) == (name == "densenet")
    for key, value in call(network.module, inputs).items():
        assert torch.allclose(call(without.module, inputs)[key], value, atol=1e-5)


def test_a_layer_called_twice_keeps_the_norm_behind_it() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.norm(self.layer(x)))

    network = as_network(Twice().eval(), {"x": torch.zeros(2, 4)})
    assert isinstance(fold_batch_norms(network).module.norm, nn.BatchNorm1d)


@pytest.mark.parametrize("name", ["residual", "attention", "two-inputs", "vit", "unet", "tcn"])
def test_a_simulation_rounds_and_observing_it_is_the_network(name: str) -> None:
    network, inputs = built(name)
    module = simulation(network, inputs)
    wanted = call(network.module, inputs)
    assert 8 < capped_sqnr_db(wanted, call(module, inputs)) < 70
    for grid in module.grids:
        grid.observe()
    assert capped_sqnr_db(wanted, call(module, inputs)) > 100


def test_ranges_are_those_of_the_network_in_float_over_the_calibration_samples() -> None:
    network, inputs = built("shared-weights")
    module = simulation(network, inputs)
    first = next(grid for grid in module.grids if isinstance(grid, Grid))
    features = inputs["features"]
    assert (float(first.low), float(first.high)) == (float(features.min()), float(features.max()))
    before = [float(grid.high) for grid in module.grids if isinstance(grid, Grid)]
    with torch.no_grad():
        for value in module.program.parameters():
            value *= 2
    module.refresh()
    after = [float(grid.high) for grid in module.grids if isinstance(grid, Grid)]
    assert after[0] == before[0]
    assert all(one > other for one, other in zip(after[1:], before[1:], strict=True))


def test_what_only_depthwise_convolutions_read_has_a_range_for_each_channel_in_openvino() -> None:
    network, inputs = built("depthwise")
    for format, sizes in (("openvino", {(), (8,)}), ("onnx", {()})):
        module = simulation(network, inputs, format)
        grids = [grid for grid in module.grids if isinstance(grid, Grid)]
        assert {tuple(grid.low.shape) for grid in grids} == sizes
    stem = torch.relu(network.module.stem(inputs["image"]))
    module = simulation(network, inputs, "openvino")
    wide = next(grid for grid in module.grids if isinstance(grid, Grid) and grid.low.ndim)
    assert torch.allclose(wide.high, stem.amax((0, 2, 3)), atol=1e-6)


def test_what_cannot_be_simulated_is_said() -> None:
    recurrent, _ = built("recurrent")
    attention, _ = built("attention")
    plain, _ = built("residual")
    assert "gru" in str(refusal(recurrent, "litert"))
    assert "softmax" in str(refusal(attention, "openvino"))
    assert "does not simulate the quantizer of coreml" in str(refusal(plain, "coreml"))
    assert refusal(recurrent, "onnx") is None
    assert method_of(attention, "onnx") == "linear"
    with pytest.raises(ValueError, match="ncnn"):
        prepare_qat(plain, "ncnn", rows_of({"image": torch.zeros(1, 3, 8, 8)}))


def test_a_softmax_that_is_part_of_the_network_is_not_trained_through() -> None:
    network, inputs = built("residual")
    whole = embed_preprocessing(network, {}, "probabilities")
    assert torch.allclose(call(whole.module, inputs)["output"].sum(1), torch.ones(16))
    bare = call(logits_of(whole).module, inputs)
    assert torch.equal(bare["output"], call(network.module, inputs)["output"])
    assert logits_of(network) is network


def test_a_file_that_rounds_nothing_or_elsewhere_is_found_out() -> None:
    generator = torch.Generator().manual_seed(0)
    real, noise, other = (torch.randn(64, 5, generator=generator) for _ in range(3))
    named = [{"output": value} for value in (real, real + 0.01 * noise, real + 0.01 * other)]
    near, why = mismatch(named[1], named[1], named[0])
    assert (near, why) == (MOST_DB, None)
    close = {"output": named[1]["output"] + 0.002 * other}
    assert mismatch(close, named[1], named[0])[1] is None
    for found in (named[0], named[2]):
        why = mismatch(found, named[1], named[0])[1]
        assert why is not None
        assert why.startswith("it does not round as its QAT simulation does")


class Stop(Exception):
    """Stands for a run that is killed."""


def task() -> tuple[Network, Data]:
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    body = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)]
    x, y = torch.randn(96, 6, generator=generator), torch.randint(0, 3, (96,), generator=generator)
    split = TensorDataset(x, y)
    network = as_network(nn.Sequential(*body).eval(), {"features": x[:1]})
    return network, Data(train=split, validation=split, test=split)


def trained(seed: int = 0, checkpoint: Path | None = None, stop: bool = False) -> Network:
    network, data = task()
    samples = rows_of({"features": data.train.tensors[0][:32]})

    def progress(done: int, _total: int, _record: Record) -> None:
        if stop and done == 2:
            raise Stop

    training = training_of(network, 4, 1e-2).model_copy(update={"batch_size": 20})
    simulated = prepare_qat(network, "onnx", samples)
    made = train_quantized(
        simulated,
        data,
        training,
        [(network, 1.0)],
        seed=seed,
        options=TrainingOptions(checkpoint=checkpoint, progress=progress),
    )
    return finish_qat(made, network, "onnx", samples).network


def test_the_same_seed_gives_the_same_weights_and_a_killed_training_goes_on(tmp_path: Path) -> None:
    whole = trained()
    assert trained().weights_digest() == whole.weights_digest()
    assert trained(seed=1).weights_digest() != whole.weights_digest()
    with pytest.raises(Stop):
        trained(checkpoint=tmp_path / "checkpoint.pt", stop=True)
    resumed = trained(checkpoint=tmp_path / "checkpoint.pt")
    assert resumed.weights_digest() == whole.weights_digest()


def test_training_brings_the_rounded_network_nearer_to_the_float_one() -> None:
    network, data = task()
    # Channels of very unequal ranges: 7 bits for all of them leave most few steps.
    with torch.no_grad():
        scale = 16.0 ** torch.linspace(-1, 1, 16)
        for value in (network.module[1].weight, network.module[1].bias):
            value *= scale
        network.module[3].weight /= scale
    inputs = {"features": data.train.tensors[0]}
    samples = rows_of({"features": data.train.tensors[0][:32]})
    wanted = call(network.module, inputs)
    simulated = prepare_qat(network, "onnx", samples)
    before = capped_sqnr_db(wanted, call(simulated.module, inputs))
    losses = [Loss(method="mean_squared")]
    changed = {"batch_size": 16, "losses": losses}
    training = training_of(network, 30, 5e-2).model_copy(update=changed)
    made = train_quantized(simulated, data, training, [(network, 1.0)])
    tuned = finish_qat(made, network, "onnx", samples)
    assert capped_sqnr_db(wanted, call(tuned.simulated.module, inputs)) > before + 3
    # What was tuned are weights in float: the simulation of them is what was trained.
    assert isinstance(made.module, FakeQuantizedModule)
    made.module.refresh()
    ours, theirs = (call(each.module, inputs)["output"] for each in (tuned.simulated, made))
    assert torch.equal(ours, theirs)
