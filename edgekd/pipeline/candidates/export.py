"""Exports the candidates of a run in worker processes; a failure is an outcome."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from edgekd.artifacts.artifact import Artifact, load_artifact
from edgekd.artifacts.quantization_params import Io
from edgekd.artifacts.quantized_fraction import little_quantized
from edgekd.artifacts.signature import Signature, TensorSpec
from edgekd.artifacts.target import Target
from edgekd.conversion.export import LOG, samples_digest
from edgekd.conversion.fp16_range import check_fp16_range
from edgekd.conversion.lint import lint
from edgekd.conversion.worker_pool import Conversion, convert_each
from edgekd.data import Inputs, single
from edgekd.devices.on_device.agent import device_facts
from edgekd.errors import EdgekdError, RefusedError
from edgekd.evidence.candidate import Candidate, NetworkRole
from edgekd.evidence.outcome import Outcome
from edgekd.formats import find_format
from edgekd.formats.capabilities import computes_fp16, has_reduced_range, io_refusal, stores_fp16
from edgekd.formats.inspection import has_graph_reader, read_graph
from edgekd.formats.method_ranking import needs_reduced_range
from edgekd.formats.options import ExportOptions
from edgekd.formats.quantization_methods import methods_of, uses_samples
from edgekd.network.network import Network, network_key
from edgekd.pipeline.candidates.state import PipelineState
from edgekd.recipe.schema import Recipe
from edgekd.system.packages import tool_versions
from edgekd.system.store import Run, copy_tree


def export_candidates(
    candidates: Sequence[Candidate], state: PipelineState, run: Run
) -> list[Candidate]:
    """`candidates`, the open ones with an artifact, or with the reason why they have none."""
    networks: dict[tuple[NetworkRole, str], tuple[Network, dict[str, Any]]] = {}
    wanted: dict[str, Conversion] = {}
    keys: dict[str, dict[str, Any]] = {}
    for candidate in candidates:
        name = _name(candidate, state.deployment(candidate).target)
        if candidate.open and name not in wanted:
            # A QAT network is trained for one format and bit width.
            of = (candidate.network, name if candidate.network == "qat" else "")
            if of not in networks:
                network = _batch_of_one(state.network(candidate))
                networks[of] = (network, network_key(network))
            network, key = networks[of]
            wanted[name] = conversion_of(candidate, state, network)
            keys[name] = _key(wanted[name], key)
    results = _converted(wanted, keys, state, run)
    return [
        _exported(
            candidate, results[_name(candidate, state.deployment(candidate).target)], state, run
        )
        if candidate.open
        else candidate
        for candidate in candidates
    ]


def conversion_of(
    candidate: Candidate, state: PipelineState, network: Network | None = None
) -> Conversion:
    """The conversion that makes the file of `candidate`.

    Args:
        network: the candidate's network with a batch of one, if it is known already.
    """
    target = state.deployment(candidate).target
    options = ExportOptions(
        scheme=candidate.scheme,
        method=candidate.method,
        excluded_operators=candidate.excluded_operators,
        reduce_range=reduces_range(target, candidate),
        opset=target.opset,
        channels_last=target.channels_last,
        io=io_of(candidate, state.recipe),
    )
    calibrated = uses_samples(candidate.format, candidate.scheme, candidate.method)
    return Conversion(
        network or _batch_of_one(state.network(candidate)),
        candidate.format,
        options,
        state.calibration if calibrated else (),
    )


def io_of(candidate: Candidate, recipe: Recipe) -> Io:
    """The input and output type of the file of `candidate`: float32 unless it is static int8."""
    refused = io_refusal(candidate.format, candidate.scheme, recipe.export.io)
    return "float32" if refused else recipe.export.io


def reduces_range(target: Target, candidate: Candidate) -> bool:
    """Whether int8 weights of `candidate` leave one bit unused, lest `target` saturate."""
    if not has_reduced_range(candidate.format, candidate.scheme):
        return True
    fact = target.facts.get("int8_instructions")
    known = fact.value if fact else None
    if known is None and target.device == "local" and target.at_hand:
        known = device_facts()["instructions"]
    return needs_reduced_range(known)


def _name(candidate: Candidate, target: Target) -> str:
    format = candidate.format if target.opset is None else f"{candidate.format}{target.opset}"
    layout = {None: "", True: "-nhwc", False: "-nchw"}[target.channels_last]
    wide = "" if reduces_range(target, candidate) else "-8-bit"
    return f"{format}{layout}-{candidate.name}{wide}"


def _key(conversion: Conversion, network: dict[str, Any]) -> dict[str, Any]:
    module, options = find_format(conversion.format), conversion.options
    methods = methods_of(conversion.format, options.scheme)
    return {
        "network": network,
        "format": conversion.format,
        "calibration": samples_digest(conversion.calibration),
        "tools": tool_versions(module.PACKAGES),
        "how": methods.get(options.method or "", module.SCHEMES[options.scheme]),
        **asdict(options),
    }


def _converted(
    wanted: dict[str, Conversion], keys: dict[str, dict[str, Any]], state: PipelineState, run: Run
) -> dict[str, Path | EdgekdError]:
    """By name, the folder of each conversion, or its error; every result is stored at once."""

    def keep(name: str, source: Path | None) -> Path:
        def move(folder: Path) -> None:
            assert source is not None, name
            shutil.copytree(source, folder, dirs_exist_ok=True)

        return run.make("export", name, keys[name], move).folder

    results: dict[str, Path | EdgekdError] = {
        name: keep(name, None) for name in wanted if run.has("export", keys[name])
    }
    todo = {name: conversion for name, conversion in wanted.items() if name not in results}
    if todo:
        run.progress("export", ", ".join(todo), 0, len(todo))
    options = state.recipe.export
    endings = convert_each(todo, processes=options.processes, timeout_s=options.timeout_s)
    for number, (name, ended) in enumerate(endings):
        run.progress("export", name, number + 1, len(todo))
        if isinstance(ended, EdgekdError):
            results[name] = ended
            continue
        _copy_log(ended / LOG, run.log)
        results[name] = keep(name, ended)
    return results


def _copy_log(source: Path, log: Path) -> None:
    """Appends a converter's output to the run's log."""
    if source.exists():
        with log.open("a", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8", errors="replace"))


def _batch_of_one(network: Network) -> Network:
    example = {name: tensor[:1] for name, tensor in network.example.items()}
    single, declared = network.like(network.module, example), network.signature

    def named(specs: Sequence[TensorSpec], known: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        pairs = zip(specs, known, strict=True)
        return tuple(replace(a, layout=b.layout, meaning=b.meaning) for a, b in pairs)

    inputs = named(single.signature.inputs, declared.inputs)
    outputs = named(single.signature.outputs, declared.outputs)
    return replace(single, signature=Signature(inputs, outputs))


def _exported(
    candidate: Candidate, result: Path | EdgekdError, state: PipelineState, run: Run
) -> Candidate:
    if isinstance(result, EdgekdError):
        fault = result.faults[0]
        return replace(
            candidate, outcome=Outcome.CONVERT_FAILED, detail=f"{fault.what} {fault.got}"
        )
    folder = run.folder / "artifacts" / candidate.target / candidate.name
    copy_tree(result, folder)
    artifact = load_artifact(folder)
    method = str(artifact.lineage["method"])
    used = artifact.lineage.get("quantizer", {}).get("method")
    usual = methods_of(candidate.format, candidate.scheme).get(used)
    return replace(
        candidate,
        artifact=artifact,
        method=used,
        detail=""
        if method == (usual or find_format(candidate.format).SCHEMES[candidate.scheme])
        else method,
        notes=(*candidate.notes, *_notes(artifact, candidate, state)),
    )


def _notes(artifact: Artifact, candidate: Candidate, state: PipelineState) -> tuple[str, ...]:
    """Notes on operators that do not run well on the target, and on low quantization coverage."""
    if not has_graph_reader(candidate.format):
        return ()
    graph = read_graph(artifact.path, candidate.format)
    findings = lint(graph, state.deployment(candidate).target, candidate.scheme)
    notes = [f"{finding.count} of {finding.operator}: {finding.why}" for finding in findings]
    coverage = little_quantized(artifact.lineage, candidate.scheme)
    return tuple([*notes, coverage] if coverage else notes)


SAMPLES = 64
"""Validation samples for the FP16 range check, if there are no calibration samples."""


def refuse_fp16_overflow(candidates: Sequence[Candidate], state: PipelineState) -> list[Candidate]:
    """`candidates`, with those in FP16 refused if their network overflows the FP16 range."""
    samples: Sequence[Inputs] = state.calibration
    refusals: dict[tuple[NetworkRole, bool], str] = {}
    judged = []
    for candidate in candidates:
        if not candidate.open or not stores_fp16(candidate.format, candidate.scheme):
            judged.append(candidate)
            continue
        if not samples:
            validation = state.samples("validation")
            samples = single(validation.take(torch.arange(min(SAMPLES, len(validation))))[0])
        key = (candidate.network, computes_fp16(candidate.format))
        if key not in refusals:
            try:
                check_fp16_range(
                    state.network(candidate), candidate.format, candidate.scheme, samples
                )
                refusals[key] = ""
            except RefusedError as error:
                refusals[key] = f"{error.faults[0].what} {error.faults[0].got}"
        why = refusals[key]
        judged.append(replace(candidate, outcome=Outcome.REFUSED, detail=why) if why else candidate)
    return judged
