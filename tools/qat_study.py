"""What training to be rounded is worth where int8 after training loses accuracy, and where not.

    python tools/qat_study.py [--seeds 5] [--only even|uneven] [--ladder] [--json FILE] [--quick]
    python tools/qat_study.py --rates [--seeds 2] [--only KIND]

A depthwise-separable network learns handwritten digits (scikit-learn's, 8 x 8). Then it is written
in int8 by ONNX Runtime, OpenVINO and LiteRT: by every method that edgekd tries of such a network,
with --ladder by all others too, of which the best on validation counts; and after
quantization-aware training without labels.

even    the network as it was trained.
uneven  the same in float, but made hard to round: what each channel of an inner layer gives is
        multiplied by a factor between 1/FACTOR and FACTOR, and what reads it divides by that, which
        ReLU lets through. Ranges of whole tensors then leave most channels few steps. Networks come
        by such channels from their batch norms (Nagel et al. 2019,
        arXiv:1906.04721).

With --rates ONNX's simulation alone is trained, for ten epochs, at several learning rates, of two
networks more: residual and attention. What is told is how well it then computes what the network in
float does, beside what it was before.

Every figure is test accuracy of a file run in its own runtime, its weights in seven bits in ONNX
and OpenVINO, as for old processors. The learning rate is chosen from one grid, in ONNX's simulation
on the validation split of a seed that is not reported; then the last epoch's accuracy is. A seed
draws the split, the network's first weights, its training's order and the factors. Differences are
paired by seed; a negative one is told like any other.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edgekd.conversion.export import convert
from edgekd.data import Data, Inputs, Samples
from edgekd.devices.execution import run_artifact
from edgekd.distillation.qat import finish_qat, method_of, prepare_qat, train_quantized, training_of
from edgekd.evidence.outcome import Verdict
from edgekd.formats.method_ranking import fallback_methods, ranked_methods
from edgekd.formats.quantization_methods import methods_of
from edgekd.network.architecture import architecture_of
from edgekd.network.network import Network, as_network
from edgekd.quantization.batch_norm_folding import fold_batch_norms
from edgekd.quantization.simulation_match import sqnr_db
from edgekd.recipe.training import Optimizer, Training
from edgekd.tasks import TASKS, accuracy
from edgekd.tasks.evaluate import outputs_of
from edgekd.training.train import train

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


class Attending(nn.Module):
    """Three encoder layers over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, 64), nn.Parameter(0.02 * torch.randn(1, 8, 64))
        layer = nn.TransformerEncoderLayer(
            64, 4, 128, 0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 3, nn.LayerNorm(64), enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(self.embed(image[:, 0]) + self.place).mean(1))


KINDS: dict[str, tuple[type[nn.Module], float]] = {
    "even": (Separable, 1e-2),
    "uneven": (Separable, 1e-2),
    "residual": (Residual, 1e-2),
    "attention": (Attending, 2e-3),
}
"""By name, the network and the rate at which it learns the digits."""


def uneven(network: Network, factor: float, seed: int) -> Network:
    """`network`, its norms folded, computing the same through channels of very unequal ranges."""
    folded = fold_batch_norms(network)
    module = copy.deepcopy(folded.module)
    generator = torch.Generator().manual_seed(seed)
    layers = [each for each in module.modules() if isinstance(each, nn.Conv2d)]
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
    """The digits in a random split: 1,097 to learn from, 200 to validate on, 500 to test."""
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
        """The data's `split` under the network's names."""
        return Samples(getattr(self.data, split), ("image",))


def setting(kind: str, seed: int, epochs: int) -> Setting:
    """A network trained on its split, as `kind` says."""
    data = digits(seed)
    torch.manual_seed(seed)
    build, rate = KINDS[kind]
    network = as_network(build().eval(), {"image": data.train[0][0][None]})
    training = Training(epochs=epochs, batch_size=64, optimizer=Optimizer(learning_rate=rate))
    splits = (Samples(each, ("image",)) for each in (data.train, data.validation))
    network, _ = train(network, TASK, *splits, training, metric="accuracy", seed=seed)
    if kind == "uneven":
        network = uneven(network, FACTOR, seed)
    images = data.train.tensors[0][:CALIBRATION_COUNT]
    return Setting(network, data, tuple({"image": image[None]} for image in images), seed)


def tuned(found: Setting, format: str, rate: float, epochs: int) -> Any:
    """The network after training to be rounded as `format` rounds."""
    simulated = prepare_qat(found.network, format, found.calibration)
    training = training_of(found.network, epochs, rate)
    teacher = [(found.network, 1.0)]
    trained = train_quantized(simulated, found.data, training, teacher, seed=found.seed)
    return finish_qat(trained, found.network, format, found.calibration)


def ran(network: Network, format: str, method: str, found: Setting) -> dict[str, Any]:
    """What the int8 file of `network` gives: accuracy on both splits, and its test outputs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "file"
        artifact = convert(
            network, format, "int8", found.calibration, folder, method=method, channels_last=False
        )
        told: dict[str, Any] = {}
        for split in ("validation", "test"):
            images, labels = getattr(found.data, split).tensors
            made = run_artifact(artifact, {"image": images}, "local")
            if isinstance(made, Verdict):
                raise RuntimeError(made.detail)
            told[split] = accuracy(made.outputs["output"], labels)
            told["outputs"] = made.outputs
    return told


def best_rate(kind: str, rates: Sequence[float], epochs: int) -> float:
    """The rate of the best simulated accuracy on validation, by a seed that is not reported."""
    found = setting(kind, TUNING_SEED, epochs)
    scores = {}
    for rate in rates:
        simulated = tuned(found, "onnx", rate, epochs).simulated
        outputs = outputs_of(simulated.module, found.samples("validation"))
        scores[rate] = accuracy(outputs["output"], found.data.validation.tensors[1])
        print(f"  {kind}, rate {rate:g}: {scores[rate]:.4f} on validation", file=sys.stderr)
    return max(scores, key=lambda rate: scores[rate])


def swept(kind: str, seeds: int) -> None:
    """Prints what the simulation is worth after training at each of several rates."""
    for seed in range(TUNING_SEED, TUNING_SEED + seeds):
        found = setting(kind, seed, EPOCHS)
        test, labels = found.samples("test"), found.data.test.tensors[1]
        wanted = outputs_of(found.network.module, test)

        def figures(network: Network, wanted: Any = wanted, test: Samples = test) -> str:
            outputs = outputs_of(network.module, test)
            same = (outputs["output"].argmax(1) == wanted["output"].argmax(1)).float().mean()
            return f"{sqnr_db(wanted, outputs):5.1f} dB, {100 * same:.1f} % the same class"

        print(f"{kind}, seed {seed}: float {100 * accuracy(wanted['output'], labels):.1f} %")
        print(f"  untrained  {figures(prepare_qat(found.network, 'onnx', found.calibration))}")
        for rate in SWEPT:
            print(f"  {rate:<9g}  {figures(tuned(found, 'onnx', rate, SWEPT_EPOCHS).simulated)}")


def arms(
    found: Setting, format: str, rate: float, epochs: int, *, all_methods: bool
) -> dict[str, Any]:
    """Test accuracy of the best file rounded after training, and of the one trained for it."""
    kind = architecture_of(found.network)
    known = methods_of(format, "int8")
    methods = ranked_methods(format, "int8", kind, known)
    methods += fallback_methods(format, "int8", methods, known) if all_methods else ()
    after = {method: ran(found.network, format, method, found) for method in methods}
    chosen = max(after, key=lambda method: after[method]["validation"])
    method = method_of(found.network, format)
    assert method is not None
    trained = tuned(found, format, rate, epochs)
    during = ran(trained.network, format, method, found)
    simulated = outputs_of(trained.simulated.module, found.samples("test"))
    real = outputs_of(trained.network.module, found.samples("test"))
    return {
        "after": after[chosen]["test"],
        "after_by": chosen,
        "trained": during["test"],
        "simulation_db": sqnr_db(simulated, during["outputs"]),
        "float_db": sqnr_db(real, during["outputs"]),
    }


def study(
    kind: str, seeds: int, epochs: int, rates: Sequence[float], *, all_methods: bool
) -> dict[str, Any]:
    """Every arm's figures, by format."""
    rate = best_rate(kind, rates, epochs)
    floats: list[float] = []
    figures: dict[str, list[dict[str, Any]]] = {format: [] for format in FORMATS}
    for seed in range(seeds):
        found = setting(kind, seed, epochs)
        outputs = outputs_of(found.network.module, found.samples("test"))
        floats.append(accuracy(outputs["output"], found.data.test.tensors[1]))
        for format in FORMATS:
            made = arms(found, format, rate, epochs, all_methods=all_methods)
            figures[format].append(made)
            print(f"  {kind}, seed {seed}, {format}: {made}", file=sys.stderr)
    return {"float": floats, "rate": rate, "formats": figures}


def told(kind: str, result: dict[str, Any]) -> None:
    """Prints the table of `result`."""
    floats = result["float"]
    print(f"\n{kind}: float {_mean(floats)}, {len(floats)} seeds, test accuracy in %")
    print(f"  learning rate {result['rate']:g}")
    for format, rows in result["formats"].items():
        after, trained = ([row[name] for row in rows] for name in ("after", "trained"))
        gains = [100 * (one - other) for one, other in zip(trained, after, strict=True)]
        test = stats.ttest_1samp(gains, 0) if len(set(gains)) > 1 else None
        p = f"p {test.pvalue:.2g}" if test else "every seed the same"
        near = min(row["simulation_db"] for row in rows)
        far = max(row["float_db"] for row in rows)
        print(
            f"  {format:9} best after training {_mean(after)}   trained {_mean(trained)}   "
            f"difference {statistics.fmean(gains):+.2f}, {p}   "
            f"against the simulation at least {near:.0f} dB, against float at most {far:.0f} dB"
        )


def _mean(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.fmean(values):.2f} ± {100 * spread:.2f}"


def main() -> None:
    """Runs the study and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=tuple(KINDS))
    parser.add_argument("--ladder", action="store_true", help="all methods, not only the usual")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch, one rate")
    parser.add_argument("--rates", action="store_true", help="only what each learning rate does")
    options = parser.parse_args()
    if options.rates:
        for kind in (options.only,) if options.only else KINDS:
            swept(kind, options.seeds)
        return
    seeds, epochs, rates = options.seeds, EPOCHS, RATES
    if options.quick:
        seeds, epochs, rates = 1, 1, RATES[:1]
    start, results = time.monotonic(), {}
    for kind in (options.only,) if options.only else ("even", "uneven"):
        results[kind] = study(kind, seeds, epochs, rates, all_methods=options.ladder)
        told(kind, results[kind])
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
