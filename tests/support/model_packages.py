"""Small architectures of timm and transformers, without pretrained weights."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.model_zoo import randomized
from tests.support.models import Trap

TIMM_FOLDER = Path(sys.prefix) / "timm"
"""Where `make` installs timm and torchvision without their dependencies; see `import_timm`."""
_SCHEMAS: list[torch.library.Library] = []


def import_timm() -> Any:
    """Import timm, even beside a torchvision of another build than torch.

    PyPI's torchvision is built for CUDA: beside torch for the CPU its operators do not load, and
    its import fails on the two that it declares itself ("operator torchvision::nms does not
    exist"). Declaring them without an implementation is enough, since timm's networks use neither.
    transformers fails likewise beside such a torchvision, which therefore has its own folder. This
    is not needed with a torchvision from https://download.pytorch.org/whl/cpu.

    Raises:
        ImportError: timm or torchvision is not installed.
    """
    if TIMM_FOLDER.is_dir() and str(TIMM_FOLDER) not in sys.path:
        sys.path.append(str(TIMM_FOLDER))
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _SCHEMAS.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in ("nms", "qnms"):
            _SCHEMAS[-1].define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
    import timm

    return timm


def _from_timm(name: str, **options: Any) -> nn.Module:
    return randomized(import_timm().create_model(name, pretrained=False, num_classes=10, **options))


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
    return randomized(BertForSequenceClassification(config))


def distilbert() -> nn.Module:
    """DistilBERT, classifying every token."""
    from transformers import DistilBertConfig, DistilBertForTokenClassification

    config = DistilBertConfig(
        vocab_size=100, dim=64, n_layers=2, n_heads=4, hidden_dim=128, num_labels=5
    )
    return randomized(DistilBertForTokenClassification(config))


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
    return randomized(SegformerForSemanticSegmentation(config))


def vit() -> nn.Module:
    """A vision transformer with a classifier."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(**TINY, image_size=32, patch_size=8, num_labels=5)
    return randomized(ViTForImageClassification(config))


def _tokens(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    lengths = torch.randint(4, 17, (count, 1), generator=generator)
    return {
        "input_ids": torch.randint(0, 100, (count, 16), generator=generator),
        "attention_mask": (torch.arange(16)[None] < lengths).long(),
    }


def _image(name: str, size: int) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    return lambda count, generator: {name: torch.randn(count, 3, size, size, generator=generator)}


def _timm(name: str, **options: Any) -> Trap:
    return Trap(functools.partial(_from_timm, name, **options), _image("x", 64))


# Deep architectures have few blocks here: the operators are the same.
TIMM = {
    "mobilenetv3_small_050": _timm("mobilenetv3_small_050"),
    "mobilenetv4_conv_small_050": _timm("mobilenetv4_conv_small_050"),
    "tinynet_e": _timm("tinynet_e"),
    "lcnet_035": _timm("lcnet_035"),
    "mnasnet_small": _timm("mnasnet_small"),
    "semnasnet_075": _timm("semnasnet_075"),
    "ghostnet_050": _timm("ghostnet_050"),
    "resnet10t": _timm("resnet10t"),
    "regnetx_002": _timm("regnetx_002"),
    "repvgg_a0": _timm("repvgg_a0"),
    "starnet_s050": _timm("starnet_s050"),
    "convnext_atto": _timm("convnext_atto", depths=(1, 1, 2, 1)),
    "vit_tiny": _timm("vit_tiny_patch16_224", img_size=64, depth=3),
    "deit_tiny_distilled": _timm("deit_tiny_distilled_patch16_224", img_size=64, depth=3),
    "swin_tiny": _timm(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        window_size=4,
        depths=(1, 2),
        embed_dim=24,
        num_heads=(1, 2),
    ),
}

# Architectures with few new operators: for tools/export_matrix.py, not for every test run.
MORE = {
    name: _timm(name)
    for name in ("tf_efficientnet_b0", "efficientnet_lite0", "mobilevit_xxs", "hgnetv2_b0",
                 "poolformer_s12", "convnextv2_atto", "edgenext_xx_small", "fastvit_t8",
                 "efficientvit_m0", "dla46_c")
} | {name: _timm(name, img_size=64) for name in ("levit_128s", "efficientformerv2_s0")}  # fmt: skip

TRANSFORMERS = {
    "bert": Trap(bert, _tokens),
    "distilbert": Trap(distilbert, _tokens),
    "segformer": Trap(segformer, _image("pixel_values", 64)),
    "vit": Trap(vit, _image("pixel_values", 32)),
}

CASES: dict[str, Trap] = {
    **{f"timm-{name}": trap for name, trap in {**TIMM, **MORE}.items()},
    **{f"transformers-{name}": trap for name, trap in TRANSFORMERS.items()},
}
