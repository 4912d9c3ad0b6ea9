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
from edgekd.conversion.fp16_range import COMPUTED, check_half, in_half
from edgekd.conversion.lint import lint
from edgekd.conversion.worker_pool import Conversion, convert_each
from edgekd.data import Inputs, single
from edgekd.devices.on_device.agent import device_facts
from edgekd.errors import EdgekdError, RefusedError
from edgekd.evidence.candidate import Row, Which
from edgekd.evidence.outcome import Outcome
from edgekd.formats import find_format
from edgekd.formats.inspection import READERS, read_graph
from edgekd.formats.integer_io import io_refusal
from edgekd.formats.method_ranking import weight_bits
from edgekd.formats.quantization_methods import methods_of, uses_samples
from edgekd.network.network import Network, network_key
from edgekd.pipeline.candidates.state import Work
from edgekd.recipe.schema import Recipe
from edgekd.system.packages import tool_versions
from edgekd.system.store import Run, copy_tree


def export_rows(rows: Sequence[Row], work: Work, run: Run) -> list[Row]:
    """`rows`, those that are open with an artifact, or with the reason why there is none."""
    networks: dict[tuple[Which, str], tuple[Network, dict[str, Any]]] = {}
    wanted: dict[str, Conversion] = {}
    keys: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = _name(row, work.goal(row).target)
        if row.open and name not in wanted:
            # One that was trained to be rounded is of one format, and of so many bits.
            of = (row.network, name if row.network == "quantized" else "")
            if of not in networks:
                network = _batch_of_one(work.network(row))
                networks[of] = (network, network_key(network))
            network, key = networks[of]
            wanted[name] = conversion_of(row, work, network)
            keys[name] = _key(wanted[name], key)
    made = _made(wanted, keys, work, run)
    return [
        _exported(row, made[_name(row, work.goal(row).target)], work, run) if row.open else row
        for row in rows
    ]


def conversion_of(row: Row, work: Work, network: Network | None = None) -> Conversion:
    """What has to be converted, and how, for `row`.

    Args:
        network: the row's at a batch of one, where it is there already.
    """
    target = work.goal(row).target
    return Conversion(
        network or _batch_of_one(work.network(row)),
        row.format,
        row.scheme,
        work.calibration if uses_samples(row.scheme, row.method) else (),
        opset=target.opset,
        channels_last=target.channels_last,
        method=row.method,
        keep=row.keep,
        weight_bits=bits_on(target, row),
        io=io_of(row, work.recipe),
    )


def io_of(row: Row, recipe: Recipe) -> Io:
    """What the file of `row` takes and gives: those that are not static int8 stay in float32."""
    refused = io_refusal(row.format, row.scheme, recipe.export.io)
    return "float32" if refused else recipe.export.io


NARROW = {"onnx": ("int8", "int8-dynamic"), "openvino": ("int8",)}
"""By format, the schemes whose kernels add products in 16 bits where the processor is old."""


def bits_on(target: Target, row: Row) -> int:
    """In how many bits the int8 weights of `row` are safe on `target`."""
    if row.scheme not in NARROW.get(row.format, ()):
        return 7
    fact = target.facts.get("int8_instructions")
    known = fact.value if fact else None
    if known is None and target.device == "local" and target.at_hand:
        known = device_facts()["instructions"]
    return weight_bits(known)


def _name(row: Row, target: Target) -> str:
    format = row.format if target.opset is None else f"{row.format}{target.opset}"
    layout = {None: "", True: "-nhwc", False: "-nchw"}[target.channels_last]
    wide = "-8-bit" if bits_on(target, row) == 8 else ""
    return f"{format}{layout}-{row.candidate}{wide}"


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
    wanted: dict[str, Conversion], keys: dict[str, dict[str, Any]], work: Work, run: Run
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
        run.tell("export", ", ".join(todo), 0, len(todo))
    options = work.recipe.export
    each = convert_each(todo, processes=options.processes, timeout_s=options.timeout_s)
    for number, (name, ended) in enumerate(each):
        run.tell("export", name, number + 1, len(todo))
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


def _exported(row: Row, made: Path | EdgekdError, work: Work, run: Run) -> Row:
    if isinstance(made, EdgekdError):
        fault = made.faults[0]
        return replace(row, outcome=Outcome.CONVERT_FAILED, detail=f"{fault.what} {fault.got}")
    place = run.folder / "artifacts" / row.target / row.candidate
    copy_tree(made, place)
    artifact = load_artifact(place)
    how = str(artifact.lineage["method"])
    used = artifact.lineage.get("quantizer", {}).get("method")
    usual = methods_of(row.format, row.scheme).get(used)
    return replace(
        row,
        artifact=artifact,
        method=used,
        detail="" if how == (usual or find_format(row.format).SCHEMES[row.scheme]) else how,
        notes=(*row.notes, *_notes(artifact, row, work)),
    )


def _notes(artifact: Artifact, row: Row, work: Work) -> tuple[str, ...]:
    """What of the file will not run well on its target, and how little of it is quantized, in
    sentences."""
    if row.format not in READERS:
        return ()
    graph = read_graph(artifact.path, row.format)
    found = lint(graph, work.goal(row).target, row.scheme)
    told = [f"{entry.count} of {entry.operator}: {entry.why}" for entry in found]
    little = little_quantized(artifact.lineage, row.scheme)
    return tuple([*told, little] if little else told)


SEEN = 64
"""Validation samples whose activations are held against float16, where none calibrate."""


def refused_in_half(rows: Sequence[Row], work: Work) -> list[Row]:
    """`rows`, those in half precision refused where their network has numbers beyond float16."""
    samples: Sequence[Inputs] = work.calibration
    found: dict[tuple[Which, bool], str] = {}
    judged = []
    for row in rows:
        if not row.open or not in_half(row.format, row.scheme):
            judged.append(row)
            continue
        if not samples:
            validation = work.samples("validation")
            samples = single(validation.take(torch.arange(min(SEEN, len(validation))))[0])
        key = (row.network, row.format in COMPUTED)
        if key not in found:
            try:
                check_half(work.network(row), row.format, row.scheme, samples)
                found[key] = ""
            except RefusedError as error:
                found[key] = f"{error.faults[0].what} {error.faults[0].got}"
        why = found[key]
        judged.append(replace(row, outcome=Outcome.REFUSED, detail=why) if why else row)
    return judged
