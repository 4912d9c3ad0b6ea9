"""Exports the candidates of the pipeline, each in a worker process, with its failures as rows."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgekd.artifacts.artifact import Artifact, load_artifact
from edgekd.artifacts.quantization_params import Io
from edgekd.artifacts.quantized_fraction import little_quantized
from edgekd.artifacts.signature import Signature, TensorSpec
from edgekd.artifacts.target import Target
from edgekd.conversion.export import LOG, samples_digest
from edgekd.conversion.fp16_range import COMPUTED, check_fp16_range, stores_fp16
from edgekd.conversion.lint import lint
from edgekd.conversion.worker_pool import Conversion, convert_each
from edgekd.data import Inputs, single
from edgekd.devices.on_device.agent import device_facts
from edgekd.errors import EdgekdError, RefusedError
from edgekd.evidence.candidate import Candidate, NetworkRole
from edgekd.evidence.outcome import Outcome
from edgekd.formats import find_format
from edgekd.formats.inspection import READERS, read_graph
from edgekd.formats.integer_io import io_refusal
from edgekd.formats.method_ranking import weight_bits
from edgekd.formats.quantization_methods import methods_of, uses_samples
from edgekd.network.network import Network, network_key
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.recipe.schema import Recipe
from edgekd.system.packages import tool_versions
from edgekd.system.store import Run, copy_tree


def export_candidates(
    candidates: Sequence[Candidate], state: PipelineState, run: Run
) -> list[Candidate]:
    """`candidates`, those that are open with an artifact, or with the reason why there is none."""
    networks: dict[tuple[NetworkRole, str], tuple[Network, dict[str, Any]]] = {}
    wanted: dict[str, Conversion] = {}
    keys: dict[str, dict[str, Any]] = {}
    for candidate in candidates:
        name = _name(candidate, state.deployment(candidate).target)
        if candidate.open and name not in wanted:
            # One that was trained to be rounded is of one format, and of so many bits.
            of = (candidate.network, name if candidate.network == "qat" else "")
            if of not in networks:
                network = _batch_of_one(state.network(candidate))
                networks[of] = (network, network_key(network))
            network, key = networks[of]
            wanted[name] = conversion_of(candidate, state, network)
            keys[name] = _key(wanted[name], key)
    made = _made(wanted, keys, state, run)
    return [
        _exported(candidate, made[_name(candidate, state.deployment(candidate).target)], state, run)
        if candidate.open
        else candidate
        for candidate in candidates
    ]


def conversion_of(
    candidate: Candidate, state: PipelineState, network: Network | None = None
) -> Conversion:
    """What has to be converted, and how, for `candidate`.

    Args:
        network: the row's at a batch of one, where it is there already.
    """
    target = state.deployment(candidate).target
    return Conversion(
        network or _batch_of_one(state.network(candidate)),
        candidate.format,
        candidate.scheme,
        state.calibration if uses_samples(candidate.scheme, candidate.method) else (),
        opset=target.opset,
        channels_last=target.channels_last,
        method=candidate.method,
        keep=candidate.keep,
        weight_bits=bits_on(target, candidate),
        io=io_of(candidate, state.recipe),
    )


def io_of(candidate: Candidate, recipe: Recipe) -> Io:
    """The input and output type of the file of `candidate`: float32 unless it is static int8."""
    refused = io_refusal(candidate.format, candidate.scheme, recipe.export.io)
    return "float32" if refused else recipe.export.io


NARROW = {"onnx": ("int8", "int8-dynamic"), "openvino": ("int8",)}
"""By format, the schemes whose kernels add products in 16 bits where the processor is old."""


def bits_on(target: Target, candidate: Candidate) -> int:
    """In how many bits the int8 weights of `candidate` are safe on `target`."""
    if candidate.scheme not in NARROW.get(candidate.format, ()):
        return 7
    fact = target.facts.get("int8_instructions")
    known = fact.value if fact else None
    if known is None and target.device == "local" and target.at_hand:
        known = device_facts()["instructions"]
    return weight_bits(known)


def _name(candidate: Candidate, target: Target) -> str:
    format = candidate.format if target.opset is None else f"{candidate.format}{target.opset}"
    layout = {None: "", True: "-nhwc", False: "-nchw"}[target.channels_last]
    wide = "-8-bit" if bits_on(target, candidate) == 8 else ""
    return f"{format}{layout}-{candidate.name}{wide}"


def _key(conversion: Conversion, network: dict[str, Any]) -> dict[str, Any]:
    module = find_format(conversion.format)
    methods = methods_of(conversion.format, conversion.scheme)
    return {
        "network": network,
        "format": conversion.format,
        "scheme": conversion.scheme,
        "calibration": samples_digest(conversion.calibration),
        "tools": tool_versions(module.PACKAGES),
        "how": methods.get(conversion.method or "", module.SCHEMES[conversion.scheme]),
        **conversion.settings,
    }


def _made(
    wanted: dict[str, Conversion], keys: dict[str, dict[str, Any]], state: PipelineState, run: Run
) -> dict[str, Path | EdgekdError]:
    """The folder of each that is wanted, or why there is none; each is kept as soon as it is
    there."""

    def keep(name: str, source: Path | None) -> Path:
        def move(folder: Path) -> None:
            assert source is not None, name
            shutil.copytree(source, folder, dirs_exist_ok=True)

        return run.make("export", name, keys[name], move).folder

    made: dict[str, Path | EdgekdError] = {
        name: keep(name, None) for name in wanted if run.has("export", keys[name])
    }
    todo = {name: conversion for name, conversion in wanted.items() if name not in made}
    if todo:
        run.progress("export", ", ".join(todo), 0, len(todo))
    options = state.recipe.export
    each = convert_each(todo, processes=options.processes, timeout_s=options.timeout_s)
    for number, (name, ended) in enumerate(each):
        run.progress("export", name, number + 1, len(todo))
        if isinstance(ended, EdgekdError):
            made[name] = ended
            continue
        _copy_log(ended / LOG, run.log)
        made[name] = keep(name, ended)
    return made


def _copy_log(source: Path, log: Path) -> None:
    """Adds what a converter printed to the run's log."""
    if source.exists():
        with log.open("a", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8", errors="replace"))


def _batch_of_one(network: Network) -> Network:
    example = {name: tensor[:1] for name, tensor in network.example.items()}
    made, told = network.like(network.module, example), network.signature

    def named(specs: Sequence[TensorSpec], known: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        pairs = zip(specs, known, strict=True)
        return tuple(replace(a, layout=b.layout, meaning=b.meaning) for a, b in pairs)

    inputs = named(made.signature.inputs, told.inputs)
    return replace(made, signature=Signature(inputs, named(made.signature.outputs, told.outputs)))


def _exported(
    candidate: Candidate, made: Path | EdgekdError, state: PipelineState, run: Run
) -> Candidate:
    if isinstance(made, EdgekdError):
        fault = made.faults[0]
        return replace(
            candidate, outcome=Outcome.CONVERT_FAILED, detail=f"{fault.what} {fault.got}"
        )
    place = run.folder / "artifacts" / candidate.target / candidate.name
    copy_tree(made, place)
    artifact = load_artifact(place)
    how = str(artifact.lineage["method"])
    used = artifact.lineage.get("quantizer", {}).get("method")
    usual = methods_of(candidate.format, candidate.scheme).get(used)
    return replace(
        candidate,
        artifact=artifact,
        method=used,
        detail=""
        if how == (usual or find_format(candidate.format).SCHEMES[candidate.scheme])
        else how,
        notes=(*candidate.notes, *_notes(artifact, candidate, state)),
    )


def _notes(artifact: Artifact, candidate: Candidate, state: PipelineState) -> tuple[str, ...]:
    """What of the file will not run well on its target, and how little of it is quantized, in
    sentences."""
    if candidate.format not in READERS:
        return ()
    graph = read_graph(artifact.path, candidate.format)
    found = lint(graph, state.deployment(candidate).target, candidate.scheme)
    told = [f"{entry.count} of {entry.operator}: {entry.why}" for entry in found]
    little = little_quantized(artifact.lineage, candidate.scheme)
    return tuple([*told, little] if little else told)


SEEN = 64
"""Validation samples whose activations are held against float16, where none calibrate."""


def refuse_fp16_overflow(candidates: Sequence[Candidate], state: PipelineState) -> list[Candidate]:
    """`candidates`, with those in FP16 refused if their network overflows the FP16 range."""
    samples: Sequence[Inputs] = state.calibration
    found: dict[tuple[NetworkRole, bool], str] = {}
    judged = []
    for candidate in candidates:
        if not candidate.open or not stores_fp16(candidate.format, candidate.scheme):
            judged.append(candidate)
            continue
        if not samples:
            validation = state.samples("validation")
            samples = single(validation.take(torch.arange(min(SEEN, len(validation))))[0])
        key = (candidate.network, candidate.format in COMPUTED)
        if key not in found:
            try:
                check_fp16_range(
                    state.network(candidate), candidate.format, candidate.scheme, samples
                )
                found[key] = ""
            except RefusedError as error:
                found[key] = f"{error.faults[0].what} {error.faults[0].got}"
        why = found[key]
        judged.append(replace(candidate, outcome=Outcome.REFUSED, detail=why) if why else candidate)
    return judged
