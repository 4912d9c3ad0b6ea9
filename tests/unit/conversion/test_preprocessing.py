"""Preprocessing folded into a network: the same figures from raw images, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from edgekd import Data, load_network
from edgekd.conversion.preprocessing import embed_preprocessing, unprepared, unprepared_data
from edgekd.errors import RecipeError
from edgekd.recipe.preprocessing import Raw
from tests.support.project import assert_five_parts

RGB = Raw(scale=1 / 255, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def network() -> Any:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    return load_network(module, example={"image": torch.zeros(1, 3, 8, 8)})


def prepared(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (RGB.mean, RGB.std))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_raw_images_give_what_prepared_ones_gave(dtype: Any) -> None:
    images = torch.randint(0, 256, (6, 8, 8, 3), dtype=torch.uint8)
    plain = network()
    made = embed_preprocessing(
        plain, {"image": RGB.model_copy(update={"dtype": dtype})}, "probabilities"
    )
    spec = made.signature.inputs[0]
    assert (spec.shape, spec.dtype) == ((1, 8, 8, 3), dtype)
    assert spec.layout == "batch height width channels"
    wanted = plain({"image": prepared(images)})["output"].softmax(1)
    found = made({"image": images.to(getattr(torch, dtype))})["output"]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert made.lineage["folded"]["outputs"] == "probabilities"


def test_what_was_prepared_is_taken_back_exactly() -> None:
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    assert torch.equal(unprepared({"image": prepared(images)}, {"image": RGB})["image"], images)


class Slow(Dataset):  # type: ignore[type-arg]
    """Items that are made one by one, as dicts."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return {"image": self.images[index]}, index


def test_both_kinds_of_data_give_raw_images() -> None:
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    ready, labels = prepared(images), torch.arange(4)
    data = Data(
        train=TensorDataset(ready, labels),
        validation=Slow(ready),
        test=TensorDataset(ready, labels),
        unlabeled=TensorDataset(ready),
    )
    found = unprepared_data(data, ("image",), {"image": RGB})
    assert torch.equal(found.train[2][0], images[2])
    assert int(found.train[2][1]) == 2
    assert torch.equal(found.validation[3][0]["image"], images[3])
    assert found.validation[3][1] == 3
    assert found.unlabeled is not None
    assert torch.equal(found.unlabeled[1][0], images[1])


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"photo": RGB}, "image"),
        ({"image": Raw(mean=[0.5, 0.5])}, "one for all"),
        ({"image": Raw(scale=1 / 255, mean=[0.0], std=[1.0])}, "0 to 255"),
    ],
)
def test_what_does_not_fit_is_told(inputs: dict[str, Raw], told: str) -> None:
    plain = network()
    example = {"image": prepared(torch.zeros(1, 8, 8, 3))}
    with pytest.raises(RecipeError, match=told) as raised:
        embed_preprocessing(load_network(plain.module, example=example), inputs)
    assert_five_parts(str(raised.value))


def test_channels_last_is_of_images() -> None:
    flat = load_network(nn.Linear(4, 2), example={"x": torch.zeros(1, 4)})
    with pytest.raises(RecipeError, match='layout = "same"'):
        embed_preprocessing(flat, {"x": Raw()})
    made = embed_preprocessing(
        flat, {"x": Raw(layout="same", dtype="float32", mean=[1.0], std=[2.0])}
    )
    found = made({"x": torch.full((1, 4), 3.0)})["output"]
    torch.testing.assert_close(found, flat({"x": torch.ones(1, 4)})["output"])
