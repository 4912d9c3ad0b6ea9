"""Write the network as a file of each target's format, in each precision it takes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgekd.artifact import Artifact, load_artifact
from edgekd.conversion import LOG, samples_digest
from edgekd.conversions import Conversion, convert_each
from edgekd.data import Inputs, single
from edgekd.errors import EdgekdError, RefusedError
from edgekd.evidence import Outcome, Row, Which
from edgekd.formats import find_format
from edgekd.graph import READERS, read_graph
from edgekd.lint import lint
from edgekd.need import tool_versions
from edgekd.network import Network
from edgekd.overflow import COMPUTED, check_half, in_half
from edgekd.scheme import SCHEMES
from edgekd.signature import Signature, TensorSpec
from edgekd.store import Run, copy_tree
from edgekd.target import Target
from edgekd.trained import network_key
from edgekd.work import Work


def step(work: Work, run: Run) -> Work:
    """The work with an artifact, or a reason why there is none, for every open row."""
    work = replace(work, rows=tuple(_held_to_half(work)))
    networks: dict[Which, tuple[Network, dict[str, Any]]] = {}
    wanted: dict[str, Conversion] = {}
    keys: dict[str, dict[str, Any]] = {}
    for row in work.rows:
        target = work.goal(row).target
        if row.open and _name(row, target) not in wanted:
            if row.network not in networks:
                network = _batch_of_one(work.network(row))
                networks[row.network] = (network, network_key(network))
            network, key = networks[row.network]
            samples = work.calibration if SCHEMES[row.scheme].calibrated else ()
            name, own = _name(row, target), (target.opset, target.channels_last)
            wanted[name] = Conversion(network, row.format, row.scheme, samples, *own)
            keys[name] = _key(wanted[name], key)
    made = _made(wanted, keys, work, run)
    rows = [
        _exported(row, made[_name(row, work.goal(row).target)], work, run) if row.open else row
        for row in work.rows
    ]
    return replace(work, rows=tuple(rows))


SEEN = 64
"""Validation samples whose activations are held against float16, where none calibrate."""


def _held_to_half(work: Work) -> Iterator[Row]:
    """The rows; of a network with numbers beyond float16 those in half precision are refused."""
    samples: Sequence[Inputs] = work.calibration
    found: dict[tuple[Which, bool], str] = {}
    for row in work.rows:
        if not row.open or not in_half(row.format, row.scheme):
            yield row
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
        yield replace(row, outcome=Outcome.REFUSED, detail=why) if why else row


def _name(row: Row, target: Target) -> str:
    format = row.format if target.opset is None else f"{row.format}{target.opset}"
    layout = {None: "", True: "-nhwc", False: "-nchw"}[target.channels_last]
    return f"{format}{layout}-{row.candidate}"


def _key(conversion: Conversion, network: dict[str, Any]) -> dict[str, Any]:
    module = find_format(conversion.format)
    return {
        "network": network,
        "format": conversion.format,
        "scheme": conversion.scheme,
        "calibration": samples_digest(conversion.calibration),
        "tools": tool_versions(module.PACKAGES),
        "method": module.SCHEMES[conversion.scheme],
        "opset": conversion.opset,
        "channels_last": conversion.channels_last,
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
    method = str(artifact.lineage["method"])
    usual = find_format(row.format).SCHEMES[row.scheme]
    return replace(
        row,
        artifact=artifact,
        detail="" if method == usual else method,
        notes=(*row.notes, *_notes(artifact, row, work)),
    )


def _notes(artifact: Artifact, row: Row, work: Work) -> tuple[str, ...]:
    """What of the file will not run well on its target, in sentences."""
    if row.format not in READERS:
        return ()
    graph = read_graph(artifact.path, row.format)
    found = lint(graph, work.goal(row).target, row.scheme)
    return tuple(f"{entry.count} of {entry.operator}: {entry.why}" for entry in found)
