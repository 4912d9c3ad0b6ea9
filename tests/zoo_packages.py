"""Architectures that packages bring, small and without their weights: timm's and transformers'."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from models import Trap
from torch import Tensor, nn
from zoo import Pair, pair, stirred

_SCHEMAS: list[torch.library.Library] = []


def import_timm() -> Any:
    """timm, also beside a torchvision of another build than torch.

    PyPI's torchvision is built for CUDA: beside torch for the CPU its operators do not load, and
    its import then fails on the two that it describes itself ("operator torchvision::nms does not
    exist"). Declaring them, without any code, is enough: timm's networks use neither. Not needed
    with a torchvision from https://download.pytorch.org/whl/cpu.

    Raises:
        ImportError: timm or torchvision is not installed.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [each for each in sys.modules if each.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _SCHEMAS.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in ("nms", "qnms"):
            _SCHEMAS[-1].define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
    import timm

    return timm


def _from_timm(name: str, **options: Any) -> nn.Module:
    return stirred(import_timm().create_model(name, pretrained=False, num_classes=10, **options))


TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def bert() -> nn.Module:
    """BERT with a classifier."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(**TINY, vocab_size=100, max_position_embeddings=32, num_labels=5)
    return stirred(BertForSequenceClassification(config))


def distilbert() -> nn.Module:
    """DistilBERT with a class for every token."""
    from transformers import DistilBertConfig, DistilBertForTokenClassification

    config = DistilBertConfig(
        vocab_size=100, dim=64, n_layers=2, n_heads=4, hidden_dim=128, num_labels=5
    )
    return stirred(DistilBertForTokenClassification(config))


def segformer() -> nn.Module:
    """SegFormer: a class for every fourth row and column."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 48, 64],
        num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=32,
        num_labels=5,
    )
    return stirred(SegformerForSemanticSegmentation(config))


def vit() -> nn.Module:
    """A vision transformer with a classifier."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(**TINY, image_size=32, patch_size=8, num_labels=5)
    return stirred(ViTForImageClassification(config))


def _tokens(count: int, dice: torch.Generator) -> dict[str, Tensor]:
    lengths = torch.randint(4, 17, (count, 1), generator=dice)
    return {
        "input_ids": torch.randint(0, 100, (count, 16), generator=dice),
        "attention_mask": (torch.arange(16)[None] < lengths).long(),
    }


def _image(name: str, size: int) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    return lambda count, dice: {name: torch.randn(count, 3, size, size, generator=dice)}


SWIN = {"depths": (1, 2), "embed_dim": 24, "num_heads": (1, 2)}
TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "mobilenetv3_small_050": (64, {}),
    "mobilenetv4_conv_small_050": (64, {}),
    "tf_efficientnet_b0": (64, {}),
    "efficientnet_lite0": (64, {}),
    "resnet10t": (64, {}),
    "regnetx_002": (64, {}),
    "ghostnet_050": (64, {}),
    "semnasnet_075": (64, {}),
    "mnasnet_small": (64, {}),
    "tinynet_e": (64, {}),
    "lcnet_035": (64, {}),
    "repvgg_a0": (64, {}),
    "hgnetv2_b0": (64, {}),
    "starnet_s050": (64, {}),
    "convnext_atto": (64, {}),
    "convnextv2_atto": (64, {}),
    "poolformer_s12": (64, {}),
    "vit_tiny_patch16_224": (64, {"img_size": 64}),
    "deit_tiny_distilled_patch16_224": (64, {"img_size": 64}),
    "swin_tiny_patch4_window7_224": (64, {"img_size": 64, "window_size": 4, **SWIN}),
    "mobilevit_xxs": (64, {}),
    "edgenext_xx_small": (64, {}),
    "fastvit_t8": (64, {}),
    "levit_128s": (64, {"img_size": 64}),
    "efficientformerv2_s0": (64, {"img_size": 64}),
    "efficientvit_m0": (64, {"img_size": 64}),
    "dla46_c": (64, {}),
}

CASES: dict[str, Trap] = {
    **{
        f"timm-{name}": Trap(functools.partial(_from_timm, name, **options), _image("x", size))
        for name, (size, options) in TIMM.items()
    },
    "transformers-bert": Trap(bert, _tokens),
    "transformers-distilbert": Trap(distilbert, _tokens),
    "transformers-segformer": Trap(segformer, _image("pixel_values", 64)),
    "transformers-vit": Trap(vit, _image("pixel_values", 32)),
}

PACKAGES: dict[str, Callable[[], Pair]] = {
    name: functools.partial(pair, trap) for name, trap in CASES.items()
}
