"""Results as text: what the command line prints, as lines and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

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


def before_table(result: RunResult) -> Iterator[str]:
    """What was used again, and the teacher and student."""
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
                "a file, of which only the outputs are known"
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
    """What was taken out, what could not be, and who profits."""
    where = f" on {pruning.target}" if pruning.target else ""
    yield (
        f"pruned ({pruning.method}): {pruning.kept_frac:.3f} of the {pruning.measure}{where} is "
        f"left, of {pruning.keep:g} asked for; {pruning.trial_count} candidates tried"
    )
    if pruning.zero_frac and pruning.profits:
        yield f"  {pruning.zero_frac:.3f} of its weights are zero; the shapes are as they were"
    yield from (f"  {name}: {told}" for name, told in pruning.profits.items())
    if pruning.widths:
        told = [f"{name} {wide} -> {narrow}" for name, (wide, narrow) in pruning.widths.items()]
        more = f" and {len(told) - 6} more" if len(told) > 6 else ""
        yield f"  channels: {', '.join(told[:6])}{more}"
    for gone in pruning.removed:
        yield from (f"  {path}: blocks {', '.join(names)} went" for path, names in gone["blocks"])
        yield from (f"  {path}: {len(heads)} heads went" for path, heads in gone["heads"])
    stay = [f"{each['layer']} ({each['reason']})" for each in pruning.untouched]
    if stay:
        more = f" and {len(stay) - 4} more" if len(stay) > 4 else ""
        yield f"  stays: {'; '.join(stay[:4])}{more}"


def table(result: RunResult) -> Table:
    """Targets by schemes."""
    from rich.table import Table
    from rich.text import Text

    names = ["target", "scheme", "outcome", result.metric, "agree", "SQNR dB", "bytes"]
    names += ["zipped"] * bool(result.pruning) + ["p50 ms"]
    counted = any(row.instructions for row in result.rows)
    made = Table(title=Text(f"{result.name}: {result.folder}"), title_justify="left")
    unpruned = ["time / unpruned"] * bool(result.pruning)
    names += ["p90 ms", "time / fp32", *unpruned, *["instructions"] * counted, "ships"]
    for name in names:
        made.add_column(name, justify="left" if name in LEFT else "right")
    last = None
    for row in result.rows:
        if last not in (None, row.target):
            made.add_section()
        choice = result.chosen.get(row.target)
        ships = "ships" if choice and choice.ships(row) else ""
        cells = _cells(row, pruned=bool(result.pruning))
        cells += [f"{row.instructions:,}" if row.instructions else ""] * counted
        made.add_row(row.target if row.target != last else "", *cells, ships)
        last = row.target
    return made


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
    """What ships and why, why the others do not, and where the evidence is."""
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
        yield f"  {target}: other ways to quantize, no better than those: {count}"
    yield from _routes(result)
    timed = [row.measurement for row in result.rows if row.measurement]
    if any(each.quick for each in timed):
        yield 'timed by the quick protocol, a first impression: benchmark.protocol = "thorough"'
    for kind, place in result.bundles.items():
        yield f"bundle for the app build, {kind}: {place}"
    evidence = result.folder / "result.json"
    picture = result.folder / "report.html"
    if picture.exists():
        yield f"the report, for a browser: {picture}"
    if result.until:
        yield f"stopped after {result.until}"
    elif result.passed:
        yield f"every required target passed; the evidence: {evidence}"
    else:
        yield f"not every required target passed; the evidence: {evidence}"
    yield f"next: {_after_run(result)}"


def _after_run(result: RunResult) -> str:
    """What to do when a run has ended."""
    if result.until:
        return "go on without --until: nothing is done twice"
    if not result.passed:
        return (
            "what to change is told below, target by target; then run it again: only what changed"
        )
    if not result.bundles:
        return (
            'add [bundle] kinds = ["folder"] to the recipe and run it again: nothing is done twice'
        )
    return f"edgekd bundle {result.folder} --check"


def route_lines(result: RunResult) -> Iterator[str]:
    """The thresholds, and where they are written."""
    yield from _routes(result)
    if not result.routes:
        yield "nothing ships, so there is nothing to route"
    yield f"the curves: {result.folder / 'route'}; in its report and bundle too"


def _routes(result: RunResult) -> Iterator[str]:
    for name, found in result.routes.items():
        yield f"{name} routes: {found.why}"
        if found.threshold is not None:
            agreeing = found.test_agreement_frac
            yield (
                f"  on test it keeps {found.test_kept_frac:.1%} of {found.test_count}, of which "
                + (f"{agreeing:.2%} agree with the teacher" if agreeing is not None else "none is")
            )


def layer_lines(layers: Sequence[DivergingLayer]) -> Iterator[str]:
    """The layers of a network beside what a file computes for them."""
    wide = max((len(layer.module) for layer in layers), default=0)
    for layer in layers:
        told = "joined with others" if layer.sqnr_db is None else f"{layer.sqnr_db:6.1f} dB"
        mark = "  <- first to diverge" if layer.first else ""
        # LiteRT names a tensor after every module around it.
        name = (layer.tensor or "").rpartition("/")[2]
        yield f"{layer.module:{wide}}  {layer.kind:18} {told:>18}  {name}{mark}".rstrip()


def noise_lines(layers: Sequence[LayerNoise]) -> Iterator[str]:
    """What a quantized file did to each layer."""
    wide = max((len(layer.module) for layer in layers), default=0)
    for layer in layers:
        told = "joined with others" if layer.sqnr_db is None else f"{layer.sqnr_db:6.1f} dB"
        line = f"{layer.module:{wide}}  {layer.kind:18} {told:>18}"
        line += f"  {layer.low:9.3g} to {layer.high:9.3g}"
        if layer.saturated_frac and layer.saturated_frac > 5e-5:
            line += f"  {100 * layer.saturated_frac:.2f} % cut off at {layer.file_low:.3g}"
            line += f" and {layer.file_high:.3g}"
        if layer.outliers:
            named = [f"{i} (x{ratio:.0f})" for i, ratio in list(layer.outliers.items())[:4]]
            more = f" and {len(layer.outliers) - 4} more" if len(layer.outliers) > 4 else ""
            line += f"  channels that stand out: {', '.join(named)}{more}"
        yield line.rstrip()


def changes_table(changes: Sequence[Change]) -> Table:
    """What differs between two bundles, figure by figure."""
    from rich.table import Table

    made = Table(title_justify="left")
    for name in ("target", "figure", "before", "after", "change", ""):
        made.add_column(name, justify="left" if name in ("target", "figure", "") else "right")
    last = None
    for change in changes:
        a, b = change.before, change.after
        grown = ""
        if isinstance(a, int | float) and isinstance(b, int | float):
            share = change.kind == "cost" and a
            grown = f"{b / a - 1:+.1%}" if share else f"{b - a:+.4f}"
        told = [f"{x:,}" if isinstance(x, int) else f"{x:.4f}" if isinstance(x, float) else x or "-"
                for x in (a, b)]  # fmt: skip
        end = ("WORSE" if change.worse else "") + (f" {change.told}" if change.told else "")
        made.add_row(
            change.target if change.target != last else "", change.figure, *told, grown, end.strip()
        )
        last = change.target
    return made


def held_lines(place: str, manifest: Manifest) -> Iterator[str]:
    """What the bundle in `place` holds."""
    yield f"{manifest.name} {manifest.version}  {place}"
    for model in manifest.models:
        yield f"  {model.target}  {model.scheme}  {model.size_bytes:,} bytes"
        yield f"    {model.entry}: {model.why}"
    yield from (f"  {name}: none: {why}" for name, why in manifest.left_out.items())


def target_line(target: Target) -> str:
    """A target in a list."""
    return (
        f"{target.name:29} {target.format:9} {' '.join(target.schemes):16} {target.description}"
    ).rstrip()


def target_lines(target: Target, schemes: Sequence[str]) -> Iterator[str]:
    """A target with its facts and their sources."""
    yield f"  machine {target.machine}, {target.threads} thread(s), {target.accelerator}"
    yield f"  device  {target.device or 'none at hand: give one in the recipe'}"
    yield from (f"  connect {line}" for line in _connection(target))
    for scheme in schemes:
        reason = target.refusal(scheme)
        if reason:
            yield f"  refuses {scheme}: {reason}"
    for name, fact in target.facts.items():
        yield f"  {name}: {fact.value}"
        yield f"      source: {fact.source}{f', {fact.date}' if fact.date else ''}"


def _connection(target: Target) -> Iterator[str]:
    """How a device of this kind is reached, from the recipe and the command line."""
    runtime = {"litert": "ai-edge-litert", "coreml": "coremltools", "onnx": "onnxruntime"}
    wants = f"Python 3.8 or later with numpy and {runtime.get(target.format, target.format)}"
    if target.connection == "local":
        yield 'nothing to do: device = "local" is this machine'
    elif target.connection == "ssh" and target.accelerator == "gpu":
        yield 'device = "ssh://USER@HOST?trtexec=/usr/src/tensorrt/bin/trtexec", which builds'
        yield "and times an engine there; or ?providers=tensorrt,cuda, where ONNX Runtime has them"
        yield "a key that needs no password, and Python 3.6 or later there"
    elif target.connection == "ssh":
        yield f'device = "ssh://USER@HOST", a key that needs no password, and there {wants}:'
        yield f"edgekd devices setup ssh://USER@HOST --target {target.name} [--wheels DIR] puts it"
    elif target.connection == "adb":
        yield 'device = "adb://SERIAL?benchmark_model=FILE", SERIAL of adb devices, FILE being'
        yield f"LiteRT's benchmark_model for Android here, or ?python=PATH there: {wants}"
        yield "&cores=big takes its fastest cores"
    else:
        yield "no way from here: the reference evaluator computes its files, nothing times them;"
        yield 'device = "imported://FILE.json" holds figures that Xcode showed (docs/devices.md)'
    if target.emulated:
        yield f'without it, device = "emulated://{target.emulated}" verifies, and times nothing'


def artifact_lines(artifact: Artifact) -> Iterator[str]:
    """A file that was written: by which way, what is in it, and what it takes and gives."""
    from edgekd.artifacts.quantized_fraction import little_quantized

    yield f"{artifact.path}  {artifact.size_bytes} bytes  sha256 {artifact.sha256}"
    made = artifact.lineage
    count = sum(made["operators"].values()) if "operators" in made else None
    graph = "" if count is None else f": {count} operators, {made['transposes']} transposes"
    yield f"  by {made['method']}{graph}"
    little = little_quantized(made, artifact.scheme or "")
    if little:
        yield f"  {little}"
    if artifact.signature is not None:
        inputs = ", ".join(map(_tensor, artifact.signature.inputs))
        yield f"  takes {inputs}; gives {', '.join(map(_tensor, artifact.signature.outputs))}"


def _tensor(spec: TensorSpec) -> str:
    shape = "x".join("?" if size is None else str(size) for size in spec.shape)
    layout = f" ({spec.layout})" if spec.layout else ""
    return f"{spec.name} {shape} {spec.dtype}{layout}"


def agreement_lines(found: Agreement) -> Iterator[str]:
    """An agreement, and what the runtime says of how it computed, in two lines."""
    top1, error = found.top1_agreement_frac, found.max_abs_error
    yield (
        f"{found.outcome.value}: SQNR {found.sqnr_db:.1f} dB"
        f"{'' if top1 is None else f'  top-1 agreement {top1:.4f}'}  largest error "
        f"{'not finite' if error is None else f'{error:.3g}'}  on {found.sample_count} samples"
    )
    facts = found.runtime
    told = [f"{facts.get('runtime')} {facts.get('version')}"]
    if "delegated" in facts:
        told.append(f"{facts['delegated']} of {facts['operators']} operators by XNNPACK")
    if "precision" in facts:
        told.append(f"computed in {facts['precision']}")
    if facts.get("default_precision", facts.get("precision")) != facts.get("precision"):
        told.append(f"where its default would be {facts['default_precision']}")
    yield f"  by {', '.join(told)}"
