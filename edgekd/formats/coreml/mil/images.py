"""Resizing and sampling of images, and moves between space and channels.

Source: coremltools 9.0, converters/mil/mil/ops/defs/iOS15/image_resizing.py and
tensor_transformation.py, iOS16 and iOS17 for what they change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def grid(size: int, wanted: int, mode: str) -> Tensor:
    """Where on an axis of `size` each of `wanted` points is read; see `resize_bilinear`."""
    places = torch.arange(wanted, dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if wanted == 1:
            middle = (size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0
            return torch.full((1,), middle, dtype=torch.float64)
        found = places * ((size - 1) / (wanted - 1))
    elif mode == "DEFAULT":
        found = places * (size / wanted)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / wanted
        found = 0.5 * delta + places * delta
    elif mode == "UNALIGN_CORNERS":
        found = (places + 0.5) * (size / wanted) - 0.5
    else:
        raise NotImplementedError(f"the sampling mode {mode}")
    return found.clamp(0, size - 1)


def _linear(x: Tensor, axis: int, wanted: int, mode: str) -> Tensor:
    """`x` read between its points along `axis`."""
    size = x.shape[axis]
    places = grid(size, wanted, mode)
    low = places.floor().long()
    high = (low + 1).clamp(max=size - 1)
    shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
    share = (places - low).to(x.dtype).reshape(shape)
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share


def _nearest(x: Tensor, axis: int, wanted: int) -> Tensor:
    places = (torch.arange(wanted) * x.shape[axis]) // wanted
    return x.index_select(axis, places)


def _upsample_bilinear(
    x: Tensor,
    scale_factor_height: Tensor | float = 1,
    scale_factor_width: Tensor | float = 1,
    align_corners: Any = True,
    half_pixel_centers: Any = None,
) -> Tensor:
    centred = not align_corners if half_pixel_centers is None else bool(half_pixel_centers)
    mode = "UNALIGN_CORNERS" if centred else "DEFAULT"
    if align_corners:
        mode = "STRICT_ALIGN_CORNERS"
    height = int(x.shape[-2] * float(scale_factor_height))
    return _linear(
        _linear(x, -2, height, mode), -1, int(x.shape[-1] * float(scale_factor_width)), mode
    )


def _upsample_nearest(
    x: Tensor, scale_factor_height: Tensor | float = 1, scale_factor_width: Tensor | float = 1
) -> Tensor:
    tall = _nearest(x, -2, int(x.shape[-2] * float(scale_factor_height)))
    return _nearest(tall, -1, int(x.shape[-1] * float(scale_factor_width)))


def _resize_bilinear(
    x: Tensor,
    target_size_height: Tensor | int = 1,
    target_size_width: Tensor | int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    tall = _linear(x, -2, int(target_size_height), sampling_mode)
    return _linear(tall, -1, int(target_size_width), sampling_mode)


def _resize_nearest(x: Tensor, target_size_height: Tensor, target_size_width: Tensor) -> Tensor:
    return _nearest(_nearest(x, -2, int(target_size_height)), -1, int(target_size_width))


def _resize(
    x: Tensor,
    shape: Tensor,
    resized_dims: Tensor,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    for back in range(1, int(resized_dims) + 1):
        wanted = int(shape[-back]) or x.shape[-back]
        linear = interpolation_mode == "LINEAR"
        x = _linear(x, -back, wanted, sampling_mode) if linear else _nearest(x, -back, wanted)
    return x


_PADDING = {"constant": "zeros", "border": "border", "reflection": "reflection"}


def _resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Tensor,
    coordinates_mode: str,
    align_corners: Any,
) -> Tensor:
    if coordinates_mode != "normalized_minus_one_to_one" or padding_mode not in _PADDING:
        raise NotImplementedError(f"resample with {coordinates_mode} and {padding_mode}")
    if padding_mode == "constant" and float(padding_value):
        raise NotImplementedError("resample padded with another value than 0")
    return F.grid_sample(
        x, coordinates.to(x.dtype), sampling_mode, _PADDING[padding_mode], bool(align_corners)
    )


def _crop(x: Tensor, crop_height: Tensor, crop_width: Tensor) -> Tensor:
    (top, bottom), (left, right) = (
        (int(pair[0]), int(pair[1])) for pair in (crop_height, crop_width)
    )
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def _depth_to_space(x: Tensor, block_size: Tensor) -> Tensor:
    """Channels as blocks, block indices the outer ones (as in TensorFlow, unlike pixel_shuffle)."""
    n, channels, height, width = x.shape
    size = int(block_size)
    apart = x.reshape(n, size, size, channels // size**2, height, width)
    return apart.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, height * size, width * size)


def _space_to_depth(x: Tensor, block_size: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    size = int(block_size)
    apart = x.reshape(n, channels, height // size, size, width // size, size)
    return apart.permute(0, 3, 5, 1, 2, 4).reshape(n, -1, height // size, width // size)


OPERATORS: dict[str, Callable[..., Any]] = {
    "crop": _crop,
    "depth_to_space": _depth_to_space,
    "pixel_shuffle": lambda x, upscale_factor: torch.pixel_shuffle(x, int(upscale_factor)),
    "pixel_unshuffle": lambda x, downscale_factor: torch.pixel_unshuffle(x, int(downscale_factor)),
    "resample": _resample,
    "resize": _resize,
    "resize_bilinear": _resize_bilinear,
    "resize_nearest_neighbor": _resize_nearest,
    "space_to_depth": _space_to_depth,
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": _upsample_nearest,
}
