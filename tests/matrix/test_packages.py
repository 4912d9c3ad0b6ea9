"""Architectures of timm and transformers in every format: fp32, equal to PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import edgekd
from edgekd.artifacts.scheme import SCHEMES
from edgekd.errors import ConversionError, RecipeError
from edgekd.formats import FORMATS
from tests.support import model_packages as zoo_packages
from tests.support.models import Trap
from tests.support.project import assert_five_parts
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

# What pnnx 20261020 has no layer of ncnn for.
NOT_IN_NCNN = {
    "bert": "Tensor.index",
    "distilbert": "Tensor.index",
    "vit_tiny": "torch.unbind",
    "deit_tiny_distilled": "torch.unbind",
    "swin_tiny": "torch.unbind",
}


@pytest.fixture(scope="module", autouse=True)
def timm() -> Iterator[None]:
    """timm can be imported here, and no other test finds the folder it lies in."""
    before = list(sys.path)
    if zoo_packages.TIMM_FOLDER.is_dir():
        sys.path.append(str(zoo_packages.TIMM_FOLDER))
    need_modules("timm", "torchvision")
    zoo_packages.import_timm()
    yield
    sys.path[:] = before


NETWORKS: dict[str, Trap] = {**zoo_packages.TIMM, **zoo_packages.TRANSFORMERS}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_an_architecture_of_a_package_is_the_same_in_every_format(
    name: str, format: str, tmp_path: Path
) -> None:
    need_modules(*FORMATS[format].PACKAGES)
    trap, generator = NETWORKS[name], torch.Generator().manual_seed(1)
    network = edgekd.load_network(trap.build(), example=trap.draw(1, generator))
    if format == "ncnn" and name in NOT_IN_NCNN:
        with pytest.raises(ConversionError, match=NOT_IN_NCNN[name]):
            edgekd.export(network, format=format, out=tmp_path)
        return
    artifact = edgekd.export(network, format=format, out=tmp_path)
    found = edgekd.verify(artifact, network, [trap.draw(1, generator) for _ in range(8)])
    assert found.outcome is edgekd.Outcome.PASSED, found.detail
    assert found.sqnr_db >= SCHEMES["fp32"].sqnr_floor_db
    assert found.top1_agreement_frac in (1.0, None)
    assert artifact.lineage["method"] == FORMATS[format].SCHEMES["fp32"], "by the first way"


def test_timm_s_names_and_transformers_folders_are_references(tmp_path: Path) -> None:
    network = edgekd.load_network("timm:lcnet_035", example={"x": torch.zeros(1, 3, 32, 32)})
    assert network.signature.outputs[0].shape == (1, 1000)
    from transformers import BertConfig, BertModel

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**shape, intermediate_size=16, vocab_size=8)).save_pretrained(tmp_path)
    ids = {"input_ids": torch.zeros(1, 4, dtype=torch.int64)}
    network = edgekd.load_network(f"hf:{tmp_path}", example=ids)
    assert network.signature.output_names == ["last_hidden_state", "pooler_output"]
    with pytest.raises(RecipeError, match="create_model failed") as caught:
        edgekd.load_network("timm:resnet19", example={"x": torch.zeros(1, 3, 32, 32)})
    assert_five_parts(str(caught.value))
