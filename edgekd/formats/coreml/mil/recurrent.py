"""The recurrent layers that converters write as one operator.

`gru` is none of them: the PyTorch frontend writes a loop instead, and the definition leaves open
where the reset gate is applied.
Source: coremltools 9.0, converters/mil/mil/ops/defs/iOS15/recurrent.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ACTIVATIONS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


def _lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: Any = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    **others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """All or the last hidden states (time, batch, features), and the last hidden and cell state."""
    if others or direction not in ("forward", "bidirectional"):
        raise NotImplementedError(f"an LSTM with {sorted(others) or direction}")
    gates = ACTIVATIONS[recurrent_activation], ACTIVATIONS[cell_activation], ACTIVATIONS[activation]
    size = weight_hh.shape[1]
    ways = [(x, weight_ih, weight_hh, bias)]
    if direction == "bidirectional":
        assert weight_ih_back is not None
        assert weight_hh_back is not None
        ways.append((x.flip(0), weight_ih_back, weight_hh_back, bias_back))
    sequences, hidden, cells = [], [], []
    for number, (steps, from_input, from_state, offset) in enumerate(ways):
        place = slice(number * size, (number + 1) * size)
        h, c = initial_h[:, place], initial_c[:, place]
        outputs = []
        for step in steps @ from_input.T + (offset if offset is not None else 0):
            i, f, o, z = (step + h @ from_state.T).chunk(4, -1)
            c = gates[0](f) * c + gates[0](i) * gates[1](z)
            h = gates[0](o) * gates[2](c)
            outputs.append(h)
        sequence = torch.stack(outputs)
        sequences.append(sequence.flip(0) if number else sequence)
        hidden.append(h)
        cells.append(c)
    last = torch.cat(hidden, -1)
    whole = torch.cat(sequences, -1) if output_sequence else last[None]
    return whole, last, torch.cat(cells, -1)


def _rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: Any = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """All or the last hidden states (time, batch, features), and the last one."""
    if direction != "forward":
        raise NotImplementedError(f"an RNN with {direction}")
    h, outputs = initial_h, []
    for step in x @ weight_ih.T + (bias if bias is not None else 0):
        h = ACTIVATIONS[activation](step + h @ weight_hh.T)
        outputs.append(h)
    return (torch.stack(outputs) if output_sequence else h[None]), h


OPERATORS: dict[str, Callable[..., Any]] = {"lstm": _lstm, "rnn": _rnn}
