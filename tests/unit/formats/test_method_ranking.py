"""Which methods are tried of which networks, on which processors, and in what ranges."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import edgekd
from edgekd.artifacts.scheme import SCHEMES
from edgekd.evidence.candidate import Candidate
from edgekd.formats import FORMATS
from edgekd.formats.capabilities import member
from edgekd.formats.method_ranking import (
    fallback_methods,
    needs_reduced_range,
    ranked_methods,
    share_trials,
)
from edgekd.formats.onnx.quantize import least_error
from edgekd.network.architecture import Architecture, architecture_of
from edgekd.pipeline.candidates.mixed_precision import grouped
from tests.support.models import TRAPS

WORDS = {
    "residual": "convolutional",
    "depthwise": "depthwise",
    "concat": "convolutional",
    "shared-weights": "dense",
    "two-inputs": "dense",
    "attention": "attention",
    "signal": "convolutional",
    "recurrent": "recurrent",
}
KINDS = [
    Architecture(),
    *(Architecture(**{name: True}) for name in Architecture.__dataclass_fields__),
]
TABLES = [(name, scheme) for name, module in FORMATS.items() for scheme in module.METHODS]


@pytest.mark.parametrize("name", TRAPS)
def test_a_networks_kind_is_found_from_what_it_computes(name: str) -> None:
    trap = TRAPS[name]
    example = trap.draw(1, torch.Generator().manual_seed(0))
    assert architecture_of(edgekd.load_network(trap.build(), example=example)).family == WORDS[name]


def test_a_softmax_at_the_end_is_no_attention() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
    network = edgekd.load_network(module, example=torch.zeros(1, 4))
    assert architecture_of(network) == Architecture()


@pytest.mark.parametrize("key", TABLES, ids="-".join)
def test_a_format_has_the_methods_that_are_tried(key: tuple[str, str]) -> None:
    format, scheme = key
    methods = FORMATS[format].METHODS[scheme]
    assert scheme in SCHEMES
    assert FORMATS[format].SCHEMES[scheme] == next(iter(methods.values()))
    assert len(set(methods.values())) == len(methods), "each is told apart"
    for kind in KINDS:
        tried = ranked_methods(format, scheme, kind, methods)
        assert 1 <= len(tried) <= 12
        assert set(tried) <= set(methods)
        assert not set(fallback_methods(format, scheme, tried, methods)) & set(tried)


@pytest.mark.parametrize("format", FORMATS)
def test_rankings_and_fallbacks_name_methods_that_exist(format: str) -> None:
    for scheme, words in member(format, "RANKING", {}).items():
        ranked = {name for names in words.values() for name in names}
        assert ranked <= set(FORMATS[format].METHODS[scheme])
    for scheme, names in member(format, "FALLBACKS", {}).items():
        assert set(names) <= set(FORMATS[format].METHODS[scheme])


def test_every_scheme_has_its_first_method_however_few_are_wanted() -> None:
    methods = {"int8": ("a", "b", "c"), "int8-dynamic": ("d",), "int4-weights": ("e", "f")}
    assert share_trials(methods, 0) == {"int8": ["a"], "int8-dynamic": ["d"], "int4-weights": ["e"]}
    assert share_trials(methods, 4) == {
        "int8": ["a", "b"],
        "int8-dynamic": ["d"],
        "int4-weights": ["e"],
    }
    assert share_trials(methods, 12) == {name: list(each) for name, each in methods.items()}


def test_eight_bits_of_weight_are_used_where_they_cannot_saturate() -> None:
    for instructions in (["avx2", "avx512_vnni"], ["asimddp"]):
        assert not needs_reduced_range(instructions)
    for instructions in (None, [], ["avx2"]):
        assert needs_reduced_range(instructions)


def test_rows_of_one_scheme_are_told_apart_by_name() -> None:
    first = Candidate("board", "onnx", "int8", method="min-max")
    other = Candidate("board", "onnx", "int8", method="mse", beside=True)
    kept = replace(other, excluded_operators=("conv", "head"))
    assert [row.name for row in (first, other, kept)] == [
        "int8", "int8.mse", "int8.mse.keep-2",
    ]  # fmt: skip
    assert {row.first_of() for row in (first, other, kept)} == {"int8"}
    assert kept.first_of(scheme="fp32", network="unpruned") == "unpruned-fp32"


def quantized(values: np.ndarray, low: float, high: float) -> np.ndarray:
    step = (high - low) / 255
    return np.round((np.clip(values, low, high) - low) / step) * step + low


@pytest.mark.parametrize("outliers", [0, 3])
def test_the_range_of_least_error_is_no_worse_than_the_whole(outliers: int) -> None:
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(size=1_000_000), 12.0 * np.ones(outliers)])
    counts, edges = np.histogram(values, 2048)
    low, high = (float(end) for end in least_error(counts, edges, values.min(), values.max()))
    whole = float(values.min()), float(values.max())
    ours, theirs = (((quantized(values, *ends) - values) ** 2).sum() for ends in
                    ((low, high), whole))  # fmt: skip
    assert whole[0] <= low < high <= whole[1]
    assert ours <= 1.01 * theirs
    if outliers:
        assert high < whole[1]


def test_what_is_never_negative_keeps_zero_as_its_least() -> None:
    counts, edges = np.histogram(np.abs(np.random.default_rng(0).normal(size=999)), 64, (-4, 4))
    assert float(least_error(counts, edges, 0.0, 4.0)[0]) == 0.0


def test_neighbours_are_grouped_evenly_and_none_is_lost() -> None:
    layers = [f"layer-{number}" for number in range(50)]
    groups = grouped(layers, 24)
    assert [name for group in groups for name in group] == layers
    assert len(groups) <= 24
    assert grouped(layers[:3]) == [("layer-0",), ("layer-1",), ("layer-2",)]


def test_core_ml_weights_of_two_sizes_are_tried_both_ways() -> None:
    methods = FORMATS["coreml"].METHODS["int8"]
    for widths, both in (((8, 64, 128), True), ((64, 128), False), ((8, 64), False)):
        layers = (nn.Linear(ins, outs) for ins, outs in itertools.pairwise(widths))
        network = edgekd.load_network(nn.Sequential(*layers), example=torch.zeros(1, widths[0]))
        tried = ranked_methods("coreml", "int8", architecture_of(network), methods)
        assert ("large-weights" in tried) is both
