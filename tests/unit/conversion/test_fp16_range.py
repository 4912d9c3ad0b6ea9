"""Numbers beyond float16: named with their place before a file in half precision is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edgekd
from edgekd.conversion.fp16_range import LARGEST, check_fp16_range
from edgekd.errors import RefusedError
from edgekd.formats import FORMATS
from tests.support.project import MODELS, Project, assert_five_parts, tiny_recipe
from tests.support.skips import need_modules

EXAMPLE = {"input": torch.ones(1, 4)}


def network(*layers: nn.Module) -> edgekd.Network:
    torch.manual_seed(0)
    return edgekd.load_network(nn.Sequential(*layers), example=EXAMPLE)


def test_the_largest_number_is_that_of_float16() -> None:
    assert torch.finfo(torch.float16).max == LARGEST == 65504


@pytest.mark.parametrize(("format", "scheme"), [("litert", "fp16"), ("coreml", "int8")])
def test_a_weight_beyond_float16_is_named(format: str, scheme: str) -> None:
    large = network(nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        large.module[1].weight[0, 0] = 7e4  # type: ignore[index, operator]
    with pytest.raises(RefusedError, match=r"network, 1\.weight") as caught:
        check_fp16_range(large, format, scheme, [EXAMPLE])
    assert "largest 70000" in str(caught.value)
    assert_five_parts(str(caught.value))
    check_fp16_range(large, format, "fp32", [EXAMPLE])


def test_a_layer_beyond_float16_is_named_where_the_file_computes_in_it() -> None:
    wide = network(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        wide.module[0].weight.fill_(60000.0)  # type: ignore[index, operator, union-attr]
    samples = [{"input": torch.zeros(1, 4)}, EXAMPLE]
    with pytest.raises(RefusedError, match="module 0") as caught:
        check_fp16_range(wide, "onnx", "fp16", samples)
    assert "for sample 1" in str(caught.value)
    assert_five_parts(str(caught.value))
    check_fp16_range(wide, "onnx", "fp16", samples[:1])
    check_fp16_range(
        wide, "openvino", "fp16", samples
    )  # Its weights are widened before they are used.


def test_batch_norm_statistics_are_no_weights_of_a_file() -> None:
    norm = nn.BatchNorm1d(4)
    assert norm.running_var is not None
    norm.running_var.fill_(1e6)
    check_fp16_range(network(norm, nn.Linear(4, 2)), "onnx", "fp16", [EXAMPLE])


class Masked(nn.Module):
    """A mask of minus infinity, as attention has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0, -1e9]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.masked_fill(self.mask.bool(), -torch.inf)


def test_a_mask_of_minus_infinity_is_one_in_float16_too() -> None:
    check_fp16_range(network(Masked(), nn.Softmax(1), nn.Linear(4, 2)), "onnx", "fp16", [EXAMPLE])


def test_export_refuses_it(tmp_path: Path) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    large = network(nn.Linear(4, 2))
    with torch.no_grad():
        large.module[0].bias[0] = -1e6  # type: ignore[index, operator, union-attr]
    with pytest.raises(RefusedError, match=r"0\.bias"):
        edgekd.export(large, format="onnx", scheme="fp16", out=tmp_path)
    assert not (tmp_path / "onnx-fp16").exists()


LARGE = """

def student():
    import torch
    module = net(6)
    with torch.no_grad():
        module[3].weight[0, 0] = 1e6
    return module
"""


def test_in_a_run_its_row_is_refused_and_the_others_go_on(
    project: Project, edgekd_cli: Any
) -> None:
    need_modules(*FORMATS["onnx"].PACKAGES)
    (project.folder / "models.py").write_text(MODELS + LARGE)
    document = tiny_recipe()
    del document["distill"], document["teacher"]
    document["quantize"] = {"schemes": ["fp32", "fp16"]}
    document["accept"] = {"max_drop": 1.0, "min_agreement": 0.0}
    said = edgekd_cli(
        "run", project.write(document), "--out", project.folder / "runs", "--until", "export",
        "--json",
    )  # fmt: skip
    fp32, fp16 = said.json["rows"]
    assert fp32["artifact"] is not None
    assert fp16["outcome"] == "refused"
    assert "3.weight" in fp16["detail"]
