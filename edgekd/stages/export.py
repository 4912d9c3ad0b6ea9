"""Write the network as a file of each target's format, in each precision it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, load_artifact
from edgekd.conversion import LOG, convert, samples_digest
from edgekd.errors import EdgekdError
from edgekd.evidence import Outcome, Row, Which
from edgekd.formats import find_format
from edgekd.graph import READERS, read_graph
from edgekd.lint import lint
from edgekd.need import tool_versions
from edgekd.network import Network, as_network
from edgekd.scheme import SCHEMES
from edgekd.store import Run, copy_tree
from edgekd.trained import network_key
from edgekd.work import Work


def step(work: Work, run: Run) -> Work:
    """The work with an artifact, or a reason why there is none, for every open row."""
    rows = []
    networks: dict[Which, tuple[Network, dict[str, Any]]] = {}
    for number, row in enumerate(work.rows):
        if not row.open:
            rows.append(row)
            continue
        run.tell("export", f"{row.target} {row.candidate}", number + 1, len(work.rows))
        if row.network not in networks:
            network = _batch_of_one(work.network(row))
            networks[row.network] = (network, network_key(network))
        rows.append(_exported(row, work, *networks[row.network], run))
    return replace(work, rows=tuple(rows))


def _copy_log(source: Path, log: Path) -> None:
    """Adds what a converter printed to the run's log."""
    if source.exists():
        with log.open("a", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8", errors="replace"))


def _batch_of_one(network: Network) -> Network:
    example = {name: tensor[:1] for name, tensor in network.example.items()}
    return as_network(network.module, example, network.lineage)


def _exported(row: Row, work: Work, network: Network, key: Any, run: Run) -> Row:
    calibrated = SCHEMES[row.scheme].calibrated
    samples = work.calibration if calibrated else ()
    depends_on = {
        "network": key,
        "format": row.format,
        "scheme": row.scheme,
        "calibration": samples_digest(samples),
        "tools": tool_versions(find_format(row.format).PACKAGES),
        "method": find_format(row.format).SCHEMES[row.scheme],
    }
    name = f"{row.format}-{row.candidate}"

    def make(folder: Path) -> None:
        try:
            convert(network, row.format, row.scheme, samples, folder)
        finally:
            _copy_log(folder / LOG, run.log)

    try:
        made = run.make("export", name, depends_on, make)
    except EdgekdError as error:
        fault = error.faults[0]
        return replace(row, outcome=Outcome.CONVERT_FAILED, detail=f"{fault.what} {fault.got}")
    place = run.folder / "artifacts" / row.target / row.candidate
    copy_tree(made.folder, place)
    artifact = load_artifact(place)
    method = str(artifact.lineage["method"])
    usual = find_format(row.format).SCHEMES[row.scheme]
    return replace(
        row,
        artifact=artifact,
        detail="" if method == usual else method,
        notes=_notes(artifact, row, work),
    )


def _notes(artifact: Artifact, row: Row, work: Work) -> tuple[str, ...]:
    """What of the file will not run well on its target, in sentences."""
    if row.format not in READERS:
        return ()
    graph = read_graph(artifact.path, row.format)
    found = lint(graph, work.goal(row).target, row.scheme)
    return tuple(f"{entry.count} of {entry.operator}: {entry.why}" for entry in found)
