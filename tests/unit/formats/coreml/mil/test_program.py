"""The reference evaluator's operators against PyTorch's own, and its reading of packed weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekd.formats.coreml.mil.compressed import lut_to_dense, quantize, sparse_to_dense
from edgekd.formats.coreml.mil.program import OPERATORS
from edgekd.formats.coreml.mil.values import METADATA, SENTINEL, Weights, unpacked

DICE = torch.Generator().manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=DICE)


def whole(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


IMAGE, WEIGHT = draw(2, 4, 9, 11), draw(6, 2, 3, 3)
UP = draw(4, 3, 3, 3)

CASES: dict[str, tuple[str, dict[str, Any], Tensor]] = {
    "conv": (
        "conv",
        {"x": IMAGE, "weight": WEIGHT, "strides": whole(2, 1), "pad_type": "custom",
         "pad": whole(1, 1, 2, 2), "dilations": whole(1, 2), "groups": torch.tensor(2)},
        F.conv2d(IMAGE, WEIGHT, None, (2, 1), (1, 2), (1, 2), 2),
    ),
    "conv, same": (
        "conv",
        {"x": IMAGE, "weight": WEIGHT, "pad_type": "same", "groups": torch.tensor(2)},
        F.conv2d(IMAGE, WEIGHT, None, 1, "same", 1, 2),
    ),
    "conv_transpose": (
        "conv_transpose",
        {"x": IMAGE, "weight": UP, "strides": whole(2, 2), "pad_type": "custom",
         "pad": whole(1, 1, 1, 1)},
        F.conv_transpose2d(IMAGE, UP, None, 2, 1),
    ),
    "conv_transpose, output padding": (
        "conv_transpose",
        {"x": IMAGE, "weight": UP, "strides": whole(2, 2), "pad_type": "custom",
         "pad": whole(1, 0, 1, 0), "output_shape": whole(2, 3, 18, 22)},
        F.conv_transpose2d(IMAGE, UP, None, 2, 1, 1),
    ),
    "max_pool, ceiling": (
        "max_pool",
        {"x": IMAGE, "kernel_sizes": whole(3, 3), "strides": whole(2, 2), "pad_type": "custom",
         "pad": whole(1, 1, 1, 1), "ceil_mode": torch.tensor(True)},
        F.max_pool2d(IMAGE, 3, 2, 1, ceil_mode=True),
    ),
    "avg_pool, without edges": (
        "avg_pool",
        {"x": IMAGE, "kernel_sizes": whole(3, 3), "strides": whole(2, 2), "pad_type": "custom",
         "pad": whole(1, 1, 1, 1), "exclude_padding_from_average": torch.tensor(True)},
        F.avg_pool2d(IMAGE, 3, 2, 1, count_include_pad=False),
    ),
    "layer_norm": (
        "layer_norm",
        {"x": IMAGE, "axes": whole(-1), "gamma": draw(11)[:0].new_ones(11) * 2},
        F.layer_norm(IMAGE, (11,), torch.full((11,), 2.0)),
    ),
    "upsample_bilinear, corners": (
        "upsample_bilinear",
        {"x": IMAGE, "scale_factor_height": torch.tensor(2), "scale_factor_width":
         torch.tensor(3), "align_corners": torch.tensor(True)},
        F.interpolate(IMAGE, (18, 33), mode="bilinear", align_corners=True),
    ),
    "resize_bilinear, centres": (
        "resize_bilinear",
        {"x": IMAGE, "target_size_height": torch.tensor(5), "target_size_width":
         torch.tensor(20), "sampling_mode": "UNALIGN_CORNERS"},
        F.interpolate(IMAGE, (5, 20), mode="bilinear", align_corners=False),
    ),
    "pad, reflected": (
        "pad",
        {"x": IMAGE, "pad": whole(2, 1, 3, 0), "mode": "reflect"},
        F.pad(IMAGE, (3, 0, 2, 1), mode="reflect"),
    ),
    "pad, replicated": (
        "pad",
        {"x": IMAGE, "pad": whole(0, 2, 1, 1), "mode": "replicate"},
        F.pad(IMAGE, (1, 1, 0, 2), mode="replicate"),
    ),
    "slice_by_index": (
        "slice_by_index",
        {"x": IMAGE, "begin": whole(0, -3, 8, 1), "end": whole(0, 0, 0, -1),
         "stride": whole(1, 1, -3, 2), "begin_mask": torch.tensor([True, False, False, False]),
         "end_mask": torch.tensor([True, True, False, False]),
         "squeeze_mask": torch.tensor([True, False, False, False])},
        IMAGE[0, -3:].flip(1)[:, 0:8:3, 1:-1:2],
    ),
    "gather": (
        "gather",
        {"x": IMAGE, "indices": whole(3, -1, 0), "axis": torch.tensor(1)},
        IMAGE[:, [3, -1, 0]],
    ),
    "gather, by batch": (
        "gather",
        {"x": IMAGE, "indices": torch.tensor([[0, 2], [3, 1]]), "axis": torch.tensor(1),
         "batch_dims": torch.tensor(1)},
        torch.stack([IMAGE[0, [0, 2]], IMAGE[1, [3, 1]]]),
    ),
    "scatter_nd": (
        "scatter_nd",
        {"data": torch.zeros(3, 4), "indices": torch.tensor([[0, 1], [2, 3], [0, 1]]),
         "updates": torch.tensor([1.0, 2.0, 3.0]), "mode": "add"},
        torch.tensor([[0, 4.0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2.0]]),
    ),
    "cumsum, reversed, exclusive": (
        "cumsum",
        {"x": torch.tensor([1.0, 2, 3]), "exclusive": torch.tensor(True),
         "reverse": torch.tensor(True)},
        torch.tensor([5.0, 3, 0]),
    ),
    "reduce_argmax": ("reduce_argmax", {"x": IMAGE, "axis": torch.tensor(1)}, IMAGE.argmax(1)),
    "gelu, tanh": (
        "gelu",
        {"x": IMAGE, "mode": "TANH_APPROXIMATION"},
        F.gelu(IMAGE, approximate="tanh"),
    ),
    "band_part": (
        "band_part",
        {"x": IMAGE, "lower": torch.tensor(-1), "upper": torch.tensor(0)},
        IMAGE.tril(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_what_pytorch_does(name: str) -> None:
    operator, inputs, expected = CASES[name]
    found = OPERATORS[operator](**inputs)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_lstm_of_both_ways_is_pytorchs_with_its_gates_in_another_order() -> None:
    torch.manual_seed(0)
    layer = nn.LSTM(3, 4, bidirectional=True)
    x = draw(5, 2, 3)
    expected, (h, c) = layer(x)

    def ordered(tensor: Tensor) -> Tensor:  # PyTorch: i f g o; MIL: i f o g
        i, f, g, o = tensor.detach().chunk(4)
        return torch.cat([i, f, o, g])

    def weights(suffix: str) -> list[Tensor]:
        bias = getattr(layer, f"bias_ih_l0{suffix}") + getattr(layer, f"bias_hh_l0{suffix}")
        names = (f"weight_ih_l0{suffix}", f"weight_hh_l0{suffix}")
        return [ordered(getattr(layer, name)) for name in names] + [ordered(bias)]

    (ih, hh, bias), (ih_back, hh_back, bias_back) = weights(""), weights("_reverse")
    zeros = torch.zeros(2, 8)
    whole_sequence, last, cell = OPERATORS["lstm"](
        x=x, initial_h=zeros, initial_c=zeros, weight_ih=ih, weight_hh=hh, bias=bias,
        weight_ih_back=ih_back, weight_hh_back=hh_back, bias_back=bias_back,
        direction="bidirectional", output_sequence=torch.tensor(True),
    )  # fmt: skip
    torch.testing.assert_close(whole_sequence, expected)
    torch.testing.assert_close(last, torch.cat(tuple(h), -1))
    torch.testing.assert_close(cell, torch.cat(tuple(c), -1))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_numbers_of_few_bits_are_unpacked_lowest_bits_first(bits: int) -> None:
    numbers = [int(n) for n in torch.randint(0, 2**bits, (11,), generator=DICE)]
    joined = sum(number << (bits * place) for place, number in enumerate(numbers))
    content = joined.to_bytes(math.ceil(11 * bits / 8), "little")
    packed = torch.tensor(list(content), dtype=torch.uint8)
    assert unpacked(packed, bits, 11).tolist() == numbers


def test_compressed_weights_are_unfolded() -> None:
    table = torch.tensor([1.0, 5.0, 9.0, 13.0])
    packed = torch.tensor([0b11_10_01_00], dtype=torch.uint8)
    assert lut_to_dense(packed, table, shape=whole(2, 2)).tolist() == [[1, 5], [9, 13]]
    tables = torch.tensor([1.0, 5, 9, 13, 2, 10, 18, 26]).reshape(2, 1, 4, 1)
    indices = torch.tensor([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3]).reshape(6, 2)
    # The first example of iOS 18's constexpr_lut_to_dense.
    assert lut_to_dense(indices, tables).tolist() == [
        [9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]
    ]  # fmt: skip
    mask = torch.tensor([0b0101], dtype=torch.uint8)
    assert sparse_to_dense(torch.tensor([7.0, 8.0]), mask, whole(4)).tolist() == [7, 0, 8, 0]
    steps = quantize(torch.tensor([0.5, 1.5, 2.5, 900.0]), torch.tensor(1.0), "int8")
    assert steps.tolist() == [0, 2, 2, 127], "halves to even, then clipped"


def test_a_weight_file_that_is_not_whole_is_told(tmp_path: Path) -> None:
    head = METADATA.pack(SENTINEL, 2, 8, 64, 0)
    (tmp_path / "weight.bin").write_bytes(head.ljust(64, b"\0") + b"12345678")
    weights = Weights(tmp_path)
    assert weights.read("@model_path/weight.bin", 0) == b"12345678"
    with pytest.raises(ValueError, match="has no whole tensor at 8"):
        weights.read("@model_path/weight.bin", 8)
    with pytest.raises(ValueError, match="ends before its tensor"):
        weights.read("@model_path/weight.bin", 70)
    with pytest.raises(ValueError, match="outside the package"):
        weights.read("@model_path/../secret", 0)
