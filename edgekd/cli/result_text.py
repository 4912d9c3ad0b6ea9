"""Results as text: the lines and tables that the command line prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgekd.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

    from edgekd.artifacts.artifact import Artifact
    from edgekd.artifacts.signature import TensorSpec
    from edgekd.artifacts.target import Target
    from edgekd.bundles.diff import Change
    from edgekd.bundles.manifest import Manifest
    from edgekd.evidence.agreement import Agreement
    from edgekd.evidence.candidate import Candidate
    from edgekd.pipeline.candidates.state import Pruning, Scored
    from edgekd.pipeline.result import RunResult
    from edgekd.verification.divergence import DivergingLayer
    from edgekd.verification.layer_sensitivity import LayerNoise

LEFT = ("target", "scheme", "outcome", "ships")
"""The columns of the table that are aligned on the left."""

FUSED = "fused with others"
"""Shown instead of a figure: the file has no tensor of the layer's own."""


def before_table(result: RunResult) -> Iterator[str]:
    """What was reused, and the scores of teacher and student."""
    if result.reused:
        counts: dict[str, int] = {}
        for name in result.reused:
            stage = name.partition("/")[0]
            counts[stage] = counts.get(stage, 0) + 1
        yield "reused from earlier runs: " + ", ".join(f"{k} ({n})" for k, n in counts.items())
    named = "pruned student" if result.pruning else "student"
    scores = {"teacher": result.teacher, "unpruned student": result.unpruned, named: result.student}
    for role, score in scores.items():
        if score:
            size = (
                "a file whose size in parameters is unknown"
                if score.parameters is None
                else f"{score.parameters:,} parameters, {score.macs:,} MACs"
            )
            yield f"{role}: {result.metric} {score.metric:.4f} on test, {size}"
            if score.teacher_agreement is not None:
                yield f"  {result.agreed} as its teacher: {score.teacher_agreement:.4f}"
            worst = _worst_slice(score, result)
            if worst is not None:
                yield f"  worst slice, {worst}: {result.metric} {score.slices[worst]:.4f}"
    if result.pruning:
        yield from _pruning_lines(result.pruning)


def _worst_slice(score: Scored, result: RunResult) -> str | None:
    known = {name: value for name, value in score.slices.items() if value is not None}
    pick = max if result.smaller_is_better else min
    return pick(known, key=lambda name: known[name]) if known else None


def _pruning_lines(pruning: Pruning) -> Iterator[str]:
    """What was removed, what could not be removed, and which targets profit."""
    where = f" on {pruning.target}" if pruning.target else ""
    yield (
        f"pruned ({pruning.method}): {pruning.kept_frac:.3f} of the {pruning.measure}{where} is "
        f"left, {pruning.keep:g} was requested; {pruning.trial_count} candidates tried"
    )
    if pruning.zero_frac and pruning.profits:
        yield f"  {pruning.zero_frac:.3f} of the weights are zero; the shapes are unchanged"
    yield from (f"  {name}: {profit}" for name, profit in pruning.profits.items())
    if pruning.widths:
        widths = [f"{name} {wide} -> {narrow}" for name, (wide, narrow) in pruning.widths.items()]
        more = f" and {len(widths) - 6} more" if len(widths) > 6 else ""
        yield f"  channels: {', '.join(widths[:6])}{more}"
    for removal in pruning.removed:
        for path, names in removal["blocks"]:
            yield f"  {path}: removed the blocks {', '.join(names)}"
        for path, heads in removal["heads"]:
            yield f"  {path}: removed {len(heads)} heads"
    kept = [f"{entry['layer']} ({entry['reason']})" for entry in pruning.untouched]
    if kept:
        more = f" and {len(kept) - 4} more" if len(kept) > 4 else ""
        yield f"  not pruned: {'; '.join(kept[:4])}{more}"


def table(result: RunResult) -> Table:
    """The candidates of every target with their outcomes and figures."""
    from rich.table import Table
    from rich.text import Text

    names = ["target", "scheme", "outcome", result.metric, "agree", "SQNR dB", "bytes"]
    names += ["zipped"] * bool(result.pruning) + ["p50 ms"]
    counted = any(row.instructions for row in result.rows)
    shown = Table(title=Text(f"{result.name}: {result.folder}"), title_justify="left")
    unpruned = ["time / unpruned"] * bool(result.pruning)
    names += ["p90 ms", "time / fp32", *unpruned, *["instructions"] * counted, "ships"]
    for name in names:
        shown.add_column(name, justify="left" if name in LEFT else "right")
    last = None
    for row in result.rows:
        if last not in (None, row.target):
            shown.add_section()
        choice = result.chosen.get(row.target)
        ships = "ships" if choice and choice.ships(row) else ""
        cells = _cells(row, pruned=bool(result.pruning))
        cells += [f"{row.instructions:,}" if row.instructions else ""] * counted
        target = row.target if row.target != last else ""
        shown.add_row(*map(printable, (target, *cells, ships)))
        last = row.target
    return shown


def _cells(row: Candidate, *, pruned: bool) -> list[str]:
    agreement, measurement = row.agreement, row.measurement
    agreed = agreement.task_agreement if agreement else None
    metric = agreement.metric if agreement else None
    ratio = measurement.ratio if measurement else None
    unpruned = measurement.unpruned_ratio if measurement else None
    zipped = row.artifact.zipped_bytes if row.artifact else None
    return [
        row.name,
        row.outcome.value if row.outcome else "",
        f"{metric:.4f}" if metric is not None else "",
        f"{agreed:.4f}" if agreed is not None else "",
        agreement.sqnr_text if agreement else "",
        f"{row.artifact.size_bytes:,}" if row.artifact else "",
        *([f"{zipped:,}" if zipped else ""] if pruned else []),
        f"{measurement.percentile_ms(0.5).value:.4f}" if measurement else "",
        f"{measurement.percentile_ms(0.9).value:.4f}" if measurement else "",
        f"{ratio.value:.2f}" if ratio else "",
        *([f"{unpruned.value:.2f}" if unpruned else ""] if pruned else []),
    ]


def after_table(result: RunResult) -> Iterator[str]:
    """What ships and why, why other candidates do not, and where the evidence is."""
    from edgekd.pipeline.stages.choose import BEATEN

    for name, choice in result.chosen.items():
        yield f"{name}: {choice.why}"
    for row in result.rows:
        if row.detail and not row.detail.startswith(BEATEN):
            yield f"  {row.target} {row.name}: {row.detail}"
        if result.chosen and row.target in result.chosen and result.chosen[row.target].ships(row):
            for note in row.notes:
                yield f"  {row.target} {row.name}, which ships: {note}"
    beaten = Counter(row.target for row in result.rows if row.detail.startswith(BEATEN))
    for target, count in beaten.items():
        yield f"  {target}: other quantized candidates that were no better: {count}"
    yield from _routes(result)
    timed = [row.measurement for row in result.rows if row.measurement]
    if any(each.quick for each in timed):
        yield 'measured with the quick protocol; reliable: benchmark.protocol = "thorough"'
    for kind, path in result.bundles.items():
        yield f"bundle for the app build, {kind}: {path}"
    evidence = result.folder / "result.json"
    page = result.folder / "report.html"
    if page.exists():
        yield f"report for a browser: {page}"
    if result.until:
        yield f"stopped after {result.until}"
    elif result.passed:
        yield f"every required target passed; the evidence: {evidence}"
    else:
        yield f"not every required target passed; the evidence: {evidence}"
    yield f"next: {_after_run(result)}"


def _after_run(result: RunResult) -> str:
    """The next step after a run."""
    if result.until:
        return "run it again without --until; it continues and repeats nothing"
    if not result.passed:
        return "apply a fix below and run it again; it redoes only what depends on the change"
    if not result.bundles:
        return 'add [bundle] kinds = ["folder"] to the recipe and run it again; it repeats nothing'
    return f"edgekd bundle {result.folder} --check"


def route_lines(result: RunResult) -> Iterator[str]:
    """The thresholds of the model cascade, and where they are written."""
    yield from _routes(result)
    if not result.routes:
        yield "no file ships, so there is no threshold"
    yield f"the curves: {result.folder / 'route'}; also in the report and the bundle"


def _routes(result: RunResult) -> Iterator[str]:
    for name, routing in result.routes.items():
        yield f"{name} routes: {routing.why}"
        if routing.threshold is not None:
            agreeing = routing.test_agreement_frac
            agree = "" if agreeing is None else f"; {agreeing:.2%} of them agree with the teacher"
            kept = f"{routing.test_kept_frac:.1%} of {routing.test_count} answers"
            yield f"  on the test split the device keeps {kept}{agree}"


def layer_lines(layers: Sequence[DivergingLayer]) -> Iterator[str]:
    """The layers of a network with their SQNR in a file."""
    width = max((len(layer.module) for layer in layers), default=0)
    for layer in layers:
        sqnr = FUSED if layer.sqnr_db is None else f"{layer.sqnr_db:6.1f} dB"
        mark = "  <- first to diverge" if layer.first else ""
        # LiteRT names a tensor after every module around it.
        name = (layer.tensor or "").rpartition("/")[2]
        yield f"{layer.module:{width}}  {layer.kind:18} {sqnr:>18}  {name}{mark}".rstrip()


def noise_lines(layers: Sequence[LayerNoise]) -> Iterator[str]:
    """The layers of a network with their quantization error in a file."""
    width = max((len(layer.module) for layer in layers), default=0)
    for layer in layers:
        sqnr = FUSED if layer.sqnr_db is None else f"{layer.sqnr_db:6.1f} dB"
        line = f"{layer.module:{width}}  {layer.kind:18} {sqnr:>18}"
        line += f"  {layer.low:9.3g} to {layer.high:9.3g}"
        if layer.saturated_frac and layer.saturated_frac > 5e-5:
            line += f"  {100 * layer.saturated_frac:.2f} % clipped at {layer.file_low:.3g}"
            line += f" and {layer.file_high:.3g}"
        if layer.outliers:
            named = [f"{i} (x{ratio:.0f})" for i, ratio in list(layer.outliers.items())[:4]]
            more = f" and {len(layer.outliers) - 4} more" if len(layer.outliers) > 4 else ""
            line += f"  outlier channels: {', '.join(named)}{more}"
        yield line.rstrip()


def changes_table(changes: Sequence[Change]) -> Table:
    """The figures of two bundles and how they changed."""
    from rich.table import Table

    shown = Table(title_justify="left")
    for name in ("target", "figure", "before", "after", "change", ""):
        shown.add_column(name, justify="left" if name in ("target", "figure", "") else "right")
    last = None
    for change in changes:
        a, b = change.before, change.after
        grown = ""
        if isinstance(a, int | float) and isinstance(b, int | float):
            relative = change.kind == "cost" and a
            grown = f"{b / a - 1:+.1%}" if relative else f"{b - a:+.4f}"
        figures = [_figure(a), _figure(b)]
        end = ("WORSE" if change.worse else "") + (f" {change.told}" if change.told else "")
        target = change.target if change.target != last else ""
        shown.add_row(*map(printable, (target, change.figure, *figures, grown, end.strip())))
        last = change.target
    return shown


def _figure(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if isinstance(value, float) else str(value or "-")


def manifest_lines(path: str, manifest: Manifest) -> Iterator[str]:
    """The contents of the bundle at `path`."""
    yield f"{manifest.name} {manifest.version}  {path}"
    for model in manifest.models:
        yield f"  {model.target}  {model.scheme}  {model.size_bytes:,} bytes"
        yield f"    {model.entry}: {model.why}"
    yield from (f"  {name}: no model: {why}" for name, why in manifest.left_out.items())


def target_line(target: Target) -> str:
    """One line of the list of targets."""
    return (
        f"{target.name:29} {target.format:9} {' '.join(target.schemes):16} {target.description}"
    ).rstrip()


def target_lines(target: Target, schemes: Sequence[str]) -> Iterator[str]:
    """A target with its facts and their sources."""
    yield f"  machine {target.machine}, {target.threads} thread(s), {target.accelerator}"
    yield f"  device  {target.device or 'none; give one in the recipe'}"
    yield from (f"  connect {line}" for line in _connection(target))
    absent = [scheme for scheme in schemes if scheme not in target.schemes]
    if absent:
        yield f"  refuses {', '.join(absent)}"
    yield from (f"  refuses {scheme}: {why}" for scheme, why in target.refuses.items())
    for name, fact in target.facts.items():
        yield f"  {name}: {fact.value}"
        yield f"      source: {fact.source}{f', {fact.date}' if fact.date else ''}"


def _connection(target: Target) -> Iterator[str]:
    """How a recipe or a command reaches a device of this kind."""
    python = f"Python 3.8 or later with numpy and the {target.format} runtime"
    if target.connection == "local":
        yield 'no setup is needed: device = "local" is this machine'
    elif target.connection == "ssh" and target.accelerator == "gpu":
        yield 'device = "ssh://USER@HOST?trtexec=/usr/src/tensorrt/bin/trtexec" builds and times an'
        yield "engine there; ?providers=tensorrt,cuda uses the providers of its ONNX Runtime"
        yield "needed: an SSH key without a passphrase, and Python 3.6 or later on the board"
    elif target.connection == "ssh":
        yield 'device = "ssh://USER@HOST"'
        yield f"needed: an SSH key without a passphrase, and on the board {python}"
        yield f"edgekd devices setup ssh://USER@HOST --target {target.name} [--wheels DIR]"
        yield "installs the runtime on the board"
    elif target.connection == "adb":
        yield 'device = "adb://SERIAL?benchmark_model=FILE"; adb devices lists the serial numbers'
        yield "FILE is LiteRT's benchmark_model for Android, on this machine"
        yield "&cores=big uses the fastest cores of the phone"
        yield f"or ?python=PATH, on the phone: {python}"
    else:
        yield "no connection: a reference evaluator verifies the files and measures no latency"
        yield 'device = "imported://FILE.json" reads figures that Xcode showed (docs/devices.md)'
    if target.emulated:
        yield f'without a board: device = "emulated://{target.emulated}" verifies, without latency'


def artifact_lines(artifact: Artifact) -> Iterator[str]:
    """An exported file: its conversion path, its operators, its inputs and outputs."""
    from edgekd.artifacts.quantized_fraction import little_quantized

    yield f"{artifact.path}  {artifact.size_bytes} bytes  sha256 {artifact.sha256}"
    lineage = artifact.lineage
    count = sum(lineage["operators"].values()) if "operators" in lineage else None
    graph = "" if count is None else f": {count} operators, {lineage['transposes']} transposes"
    yield f"  by {lineage['method']}{graph}"
    little = little_quantized(lineage, artifact.scheme or "")
    if little:
        yield f"  {little}"
    if artifact.signature is not None:
        inputs = ", ".join(map(_tensor, artifact.signature.inputs))
        outputs = ", ".join(map(_tensor, artifact.signature.outputs))
        yield f"  inputs: {inputs}; outputs: {outputs}"


def _tensor(spec: TensorSpec) -> str:
    shape = "x".join("?" if size is None else str(size) for size in spec.shape)
    layout = f" ({spec.layout})" if spec.layout else ""
    return f"{spec.name} {shape} {spec.dtype}{layout}"


def agreement_lines(agreement: Agreement) -> Iterator[str]:
    """An agreement, and the runtime that computed it, in two lines."""
    top1, error = agreement.top1_agreement_frac, agreement.max_abs_error
    yield (
        f"{agreement.outcome.value}: SQNR {agreement.sqnr_db:.1f} dB"
        f"{'' if top1 is None else f'  top-1 agreement {top1:.4f}'}  largest error "
        f"{'not finite' if error is None else f'{error:.3g}'}  on {agreement.sample_count} samples"
    )
    facts = agreement.runtime
    parts = [f"{facts.get('runtime')} {facts.get('version')}"]
    if "delegated" in facts:
        parts.append(f"{facts['delegated']} of {facts['operators']} operators by XNNPACK")
    if "precision" in facts:
        parts.append(f"computed in {facts['precision']}")
    if facts.get("default_precision", facts.get("precision")) != facts.get("precision"):
        parts.append(f"the default is {facts['default_precision']}")
    yield f"  by {', '.join(parts)}"
