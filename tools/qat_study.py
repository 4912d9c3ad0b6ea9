"""What quantization-aware training (QAT) adds, compared with the best post-training quantization.

    python tools/qat_study.py [--seeds 5] [--only NETWORK] [--ladder] [--json FILE] [--quick]
    python tools/qat_study.py --rates [--seeds 2] [--only NETWORK]

A depthwise-separable network learns handwritten digits (scikit-learn's, 8 x 8). ONNX Runtime,
OpenVINO and LiteRT then get an int8 file in two ways: by post-training quantization, with every
method that edgekd tries for such a network (with --ladder all others too), of which the best on
validation counts; and by QAT without labels.

even    the network as trained.
uneven  the same function in float, but hard to quantize: the output of each channel of an inner
        layer is multiplied by a factor between 1/FACTOR and FACTOR, and the layer that reads it
        divides by that factor, which commutes with ReLU. Per-tensor ranges then leave few integer
        steps to most channels. Batch norms cause such channels in practice (Nagel et al. 2019,
        arXiv:1906.04721).

--rates only trains ONNX's simulation, for ten epochs with several learning rates, for two more
networks: residual and attention. It prints how well the simulation reproduces the float network
before and after.

Every figure is the test accuracy of a file run in its own runtime, with 7-bit weights in ONNX and
OpenVINO, as for old processors. The learning rate is tuned on one grid, by the accuracy of ONNX's
simulation on the validation split of a seed that is not reported; the reported accuracy is that of
the last epoch. A seed draws the split, the initial weights, the order and the factors. Differences
are paired by seed.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _study import best_rate, main, mean_and_sd, mean_text, paired, study_parser
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edgekd.conversion.export import convert
from edgekd.data import Data, Inputs, Samples
from edgekd.devices.execution import run_artifact
from edgekd.distillation.qat import (
    QatResult,
    finish_qat,
    method_of,
    prepare_qat,
    train_quantized,
    training_of,
)
from edgekd.evidence.outcome import Verdict
from edgekd.formats.method_ranking import fallback_methods, ranked_methods
from edgekd.formats.options import ExportOptions
from edgekd.formats.quantization_methods import methods_of
from edgekd.network.architecture import architecture_of
from edgekd.network.network import Network, as_network
from edgekd.quantization.batch_norm_folding import fold_batch_norms
from edgekd.recipe.training import Optimizer, Training
from edgekd.tasks import TASKS, accuracy
from edgekd.tasks.evaluate import outputs_of
from edgekd.training.train import train
from edgekd.verification.simulation_match import capped_sqnr_db

FORMATS = ("onnx", "openvino", "litert")
FACTOR = 16.0
CALIBRATION_COUNT = 128
TUNING_SEED = 1000
RATES = (1e-3, 1e-2, 3e-2, 1e-1)
EPOCHS = 20
SWEPT = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
SWEPT_EPOCHS = 10
TASK = TASKS["classification"]


class Separable(nn.Module):
    """Depthwise and pointwise convolutions with batch norms (Howard et al., arXiv:1704.04861)."""

    def __init__(self) -> None:
        super().__init__()

        def step(ins: int, outs: int, kernel: int, stride: int, groups: int) -> list[nn.Module]:
            conv = nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False)
            return [conv, nn.BatchNorm2d(outs), nn.ReLU()]

        layers = step(1, 16, 3, 1, 1)
        for ins, outs, stride in ((16, 32, 2), (32, 48, 1)):
            layers += [*step(ins, ins, 3, stride, ins), *step(ins, outs, 1, 1, 1)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(48, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image).mean((2, 3)))


class Residual(nn.Module):
    """Two residual blocks of full convolutions, the second at half the size."""

    def __init__(self) -> None:
        super().__init__()

        def conv(ins: int, outs: int, stride: int = 1) -> nn.Module:
            layer = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
            return nn.Sequential(layer, nn.BatchNorm2d(outs))

        self.enter, self.one, self.two = conv(1, 32), conv(32, 32), conv(32, 32)
        self.down, self.three, self.four = conv(32, 64, 2), conv(64, 64), conv(64, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.enter(image).relu()
        x = (x + self.two(self.one(x).relu())).relu()
        x = self.down(x).relu()
        x = (x + self.four(self.three(x).relu())).relu()
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Three encoder layers over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(8, 64), nn.Parameter(0.02 * torch.randn(1, 8, 64))
        layer = nn.TransformerEncoderLayer(
            64, 4, 128, 0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 3, nn.LayerNorm(64), enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(self.embed(image[:, 0]) + self.position).mean(1))


NETWORKS: dict[str, tuple[type[nn.Module], float]] = {
    "even": (Separable, 1e-2),
    "uneven": (Separable, 1e-2),
    "residual": (Residual, 1e-2),
    "attention": (Attention, 2e-3),
}
"""By name, the network and the learning rate at which it learns the digits."""


def uneven(network: Network, factor: float, seed: int) -> Network:
    """`network` with folded norms and very unequal channel ranges; it computes the same."""
    folded = fold_batch_norms(network)
    module = copy.deepcopy(folded.module)
    generator = torch.Generator().manual_seed(seed)
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for layer, reader in zip(layers, [*layers[1:], module.head], strict=True):
            exponents = 2 * torch.rand(layer.out_channels, generator=generator) - 1
            scale = factor**exponents
            layer.weight *= scale.view(-1, 1, 1, 1)
            layer.bias *= scale
            if isinstance(reader, nn.Linear):
                reader.weight /= scale
            elif reader.groups == 1:
                reader.weight /= scale.view(1, -1, 1, 1)
            else:
                reader.weight /= scale.view(-1, 1, 1, 1)
    return folded.with_module(module)


def digits(seed: int) -> Data:
    """The digits in a random split: 1,097 to train on, 200 for validation, 500 to test."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[order] / 8 - 1
    y = torch.tensor(labels)[order]
    cuts = ((0, 1097), (1097, 1297), (1297, len(x)))
    return Data(*(TensorDataset(x[a:b], y[a:b]) for a, b in cuts))


@dataclass(frozen=True)
class Setting:
    """One seed's network and data."""

    network: Network
    data: Data
    calibration: tuple[Inputs, ...]
    seed: int

    def samples(self, split: str) -> Samples:
        """The samples of a split, under the names of the network's inputs."""
        return Samples(getattr(self.data, split), ("image",))


def prepare(name: str, seed: int, epochs: int) -> Setting:
    """The network `name`, trained on the split of the seed."""
    data = digits(seed)
    torch.manual_seed(seed)
    build, rate = NETWORKS[name]
    network = as_network(build().eval(), {"image": data.train[0][0][None]})
    training = Training(epochs=epochs, batch_size=64, optimizer=Optimizer(learning_rate=rate))
    network, _ = train(network, data, training, task=TASK, metric="accuracy", seed=seed)
    if name == "uneven":
        network = uneven(network, FACTOR, seed)
    images = data.train.tensors[0][:CALIBRATION_COUNT]
    return Setting(network, data, tuple({"image": image[None]} for image in images), seed)


def train_qat(setting: Setting, format: str, rate: float, epochs: int) -> QatResult:
    """The network after quantization-aware training for `format`."""
    simulated = prepare_qat(setting.network, format, setting.calibration)
    training = training_of(setting.network, epochs, rate)
    teacher = [(setting.network, 1.0)]
    trained = train_quantized(simulated, setting.data, training, teacher, seed=setting.seed)
    return finish_qat(trained, setting.network, format, setting.calibration)


def run_int8(network: Network, format: str, method: str, setting: Setting) -> dict[str, Any]:
    """The accuracy of the int8 file of `network` on both splits, and its test outputs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "file"
        options = ExportOptions(scheme="int8", method=method, channels_last=False)
        artifact = convert(network, format, setting.calibration, folder, options)
        figures: dict[str, Any] = {}
        for split in ("validation", "test"):
            images, labels = getattr(setting.data, split).tensors
            result = run_artifact(artifact, {"image": images}, "local")
            if isinstance(result, Verdict):
                raise RuntimeError(result.detail)
            figures[split] = accuracy(result.outputs["output"], labels)
            figures["outputs"] = result.outputs
    return figures


def tuned_rate(name: str, rates: Sequence[float], epochs: int) -> float:
    """The learning rate with the best simulated validation accuracy, on the tuning seed."""
    setting = prepare(name, TUNING_SEED, epochs)
    scores = {}
    for rate in rates:
        simulated = train_qat(setting, "onnx", rate, epochs).simulated
        outputs = outputs_of(simulated.module, setting.samples("validation"))
        scores[rate] = accuracy(outputs["output"], setting.data.validation.tensors[1])
        print(f"  {name}, rate {rate:g}: {scores[rate]:.4f} on validation", file=sys.stderr)
    return best_rate(scores)


def sweep(name: str, seed: int) -> dict[str, Any]:
    """How well the simulation reproduces the float network, untrained and for each rate."""
    setting = prepare(name, seed, EPOCHS)
    test, labels = setting.samples("test"), setting.data.test.tensors[1]
    expected = outputs_of(setting.network.module, test)

    def figures(network: Network) -> dict[str, float]:
        outputs = outputs_of(network.module, test)
        same = (outputs["output"].argmax(1) == expected["output"].argmax(1)).float().mean()
        return {"sqnr_db": capped_sqnr_db(expected, outputs), "top1": float(same)}

    rows = {"untrained": figures(prepare_qat(setting.network, "onnx", setting.calibration))}
    for rate in SWEPT:
        rows[f"{rate:g}"] = figures(train_qat(setting, "onnx", rate, SWEPT_EPOCHS).simulated)
    print(f"  {name}, seed {seed}: {rows}", file=sys.stderr)
    return {"seed": seed, "float": accuracy(expected["output"], labels), "rates": rows}


def compare(
    setting: Setting, format: str, rate: float, epochs: int, *, all_methods: bool
) -> dict[str, Any]:
    """The test accuracy of the best file after post-training quantization and of the QAT file."""
    known = methods_of(format, "int8")
    methods = ranked_methods(format, "int8", architecture_of(setting.network), known)
    methods += fallback_methods(format, "int8", methods, known) if all_methods else ()
    ptq = {method: run_int8(setting.network, format, method, setting) for method in methods}
    best = max(ptq, key=lambda method: ptq[method]["validation"])
    method = method_of(setting.network, format)
    assert method is not None
    trained = train_qat(setting, format, rate, epochs)
    qat = run_int8(trained.network, format, method, setting)
    simulated = outputs_of(trained.simulated.module, setting.samples("test"))
    real = outputs_of(trained.network.module, setting.samples("test"))
    return {
        "after": ptq[best]["test"],
        "after_by": best,
        "trained": qat["test"],
        "simulation_db": capped_sqnr_db(simulated, qat["outputs"]),
        "float_db": capped_sqnr_db(real, qat["outputs"]),
    }


def study_network(
    name: str, seeds: int, epochs: int, rates: Sequence[float], *, all_methods: bool
) -> dict[str, Any]:
    """The figures of one network, by format."""
    rate = tuned_rate(name, rates, epochs)
    floats: list[float] = []
    figures: dict[str, list[dict[str, Any]]] = {format: [] for format in FORMATS}
    for seed in range(seeds):
        setting = prepare(name, seed, epochs)
        outputs = outputs_of(setting.network.module, setting.samples("test"))
        floats.append(accuracy(outputs["output"], setting.data.test.tensors[1]))
        for format in FORMATS:
            row = compare(setting, format, rate, epochs, all_methods=all_methods)
            figures[format].append(row)
            print(f"  {name}, seed {seed}, {format}: {row}", file=sys.stderr)
    return {"float": floats, "rate": rate, "formats": figures}


def study(args: argparse.Namespace) -> dict[str, Any]:
    """The figures by network, as a document."""
    if args.rates:
        seeds = range(TUNING_SEED, TUNING_SEED + args.seeds)
        names = (args.only,) if args.only else NETWORKS
        return {name: {"sweeps": [sweep(name, seed) for seed in seeds]} for name in names}
    epochs, rates = (1, RATES[:1]) if args.quick else (EPOCHS, RATES)
    return {
        name: study_network(name, args.seeds, epochs, rates, all_methods=args.ladder)
        for name in ((args.only,) if args.only else ("even", "uneven"))
    }


def table(document: dict[str, Any]) -> str:
    """The figures as text."""
    return "\n".join(
        line
        for name, result in document.items()
        for line in (sweep_lines if "sweeps" in result else lines_of)(name, result)
    )


def lines_of(name: str, result: dict[str, Any]) -> list[str]:
    """The table of one network: accuracies and differences in percent."""
    floats = result["float"]
    lines = [
        f"\n{name}: float {mean_text(mean_and_sd(floats))}, {len(floats)} seeds, "
        "test accuracy in %",
        f"  learning rate {result['rate']:g}",
    ]
    for format, rows in result["formats"].items():
        ptq, qat = ([row[arm] for row in rows] for arm in ("after", "trained"))
        difference = paired(qat, ptq)
        same = difference["low"] == difference["high"]
        p = "the same in every seed" if same else f"p {difference['p']:.2g}"
        simulation_db = min(row["simulation_db"] for row in rows)
        float_db = max(row["float_db"] for row in rows)
        lines.append(
            f"  {format:9} best PTQ {mean_text(mean_and_sd(ptq))}   "
            f"QAT {mean_text(mean_and_sd(qat))}   "
            f"difference {100 * difference['mean']:+.2f}, {p}   QAT file to simulation: at least "
            f"{simulation_db:.0f} dB, to float: at most {float_db:.0f} dB"
        )
    return lines


def sweep_lines(name: str, result: dict[str, Any]) -> list[str]:
    """The table of one network's learning rates."""
    lines = []
    for row in result["sweeps"]:
        lines.append(f"{name}, seed {row['seed']}: float {100 * row['float']:.1f} %")
        lines += [
            f"  {rate:9}  {it['sqnr_db']:5.1f} dB, {100 * it['top1']:.1f} % the same class"
            for rate, it in row["rates"].items()
        ]
    return lines


if __name__ == "__main__":
    parser = study_parser(__doc__, seeds=5)
    parser.add_argument("--only", choices=tuple(NETWORKS), help="one network")
    parser.add_argument("--ladder", action="store_true", help="all methods, not only the usual")
    parser.add_argument("--rates", action="store_true", help="only compare learning rates")
    main(parser, study, table)
