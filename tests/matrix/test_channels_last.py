"""Images with their channels last: in LiteRT unless told otherwise, and the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import edgekd
from edgekd.artifacts.artifact import load_artifact
from edgekd.benchmarking.benchmark import benchmark
from edgekd.conversion.preprocessing import embed_preprocessing
from edgekd.errors import RecipeError
from edgekd.formats import FORMATS
from edgekd.formats.inspection import read_graph
from edgekd.recipe.benchmark import Protocol
from edgekd.recipe.preprocessing import Raw
from edgekd.verification.divergence import localize
from tests.support.architectures import ARCHITECTURES
from tests.support.project import assert_five_parts
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

ALL_CONVOLUTIONS = ["resnet", "resnext", "mobilenet-v2", "mobilenet-v3", "efficientnet", "densenet",
                    "vgg", "convnext", "unet"]  # fmt: skip


def made(name: str) -> tuple[edgekd.Network, list[dict[str, torch.Tensor]]]:
    trap, generator = ARCHITECTURES[name], torch.Generator().manual_seed(1)
    network = edgekd.load_network(trap.build(), example=trap.draw(1, generator))
    return network, [trap.draw(1, generator) for _ in range(8)]


@pytest.mark.parametrize("name", ALL_CONVOLUTIONS)
def test_no_transpose_is_left_in_a_convolutional_network(name: str, tmp_path: Path) -> None:
    need_modules(*FORMATS["litert"].PACKAGES)
    network, samples = made(name)
    artifact = edgekd.export(network, format="litert", out=tmp_path)
    graph = read_graph(artifact.path, "litert")
    assert artifact.signature is not None
    entry = artifact.signature.inputs[0]
    # What a U-Net gives has channels, which its users expect first; VGG flattens an
    # image, ConvNeXt one of a single place.
    assert graph.transposes == (1 if name in ("unet", "vgg", "convnext") else 0)
    assert entry.layout == "batch height width channels"
    assert entry.shape[-1] == samples[0][entry.name].shape[1]
    found = edgekd.verify(artifact, network, samples)
    assert found.outcome is edgekd.Outcome.PASSED, found.detail
    assert artifact.lineage["network_sha256"] == network.weights_digest()


@pytest.mark.parametrize("format", FORMATS)
def test_either_layout_in_every_format(format: str, tmp_path: Path) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    network, samples = made("mobilenet-v2")
    name = network.signature.input_names[0]
    for last in (True, False):
        artifact = edgekd.export(
            network, format=format, out=tmp_path / str(last), channels_last=last
        )
        assert artifact.signature is not None
        assert artifact.signature.inputs[0].shape[-1 if last else 1] == 3
        assert load_artifact(artifact.path.parent).channels_last == ((name,) if last else ())
        found = edgekd.verify(artifact, network, samples)
        assert found.outcome is edgekd.Outcome.PASSED, found.detail
        assert not [layer for layer in localize(artifact, network, samples[0]) if layer.first]
    assert artifact.lineage.get("channels_last") is None


def test_real_samples_are_timed_in_the_layout_of_the_file(tmp_path: Path) -> None:
    need_modules(*FORMATS["litert"].PACKAGES)
    network, samples = made("mobilenet-v2")
    artifact = edgekd.export(network, format="litert", out=tmp_path)
    protocol = Protocol(processes=1, runs=20, seconds=0.01)
    measured = benchmark(artifact, inputs=samples[0], protocol=protocol)
    assert len(measured.samples_ns[0]) > 0


def test_an_input_that_was_folded_keeps_the_layout_it_was_given(tmp_path: Path) -> None:
    need_modules(*FORMATS["litert"].PACKAGES)
    network, _ = made("mobilenet-v2")
    name = network.signature.input_names[0]
    for layout, axis in (("nchw", 1), ("nhwc", -1)):
        raw = Raw(dtype="float32", layout=layout)
        artifact = edgekd.export(
            embed_preprocessing(network, {name: raw}), format="litert", out=tmp_path / layout
        )
        assert artifact.signature is not None
        assert artifact.signature.inputs[0].shape[axis] == 3
        assert artifact.channels_last == ()


def test_no_image_and_free_sizes_are_told(tmp_path: Path) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    network = edgekd.load_network(torch.nn.Linear(4, 2), example=torch.ones(1, 4))
    with pytest.raises(RecipeError, match="no input is an image") as caught:
        edgekd.export(network, format="onnx", out=tmp_path, channels_last=True)
    assert_five_parts(str(caught.value))
