"""An int8 file gives what its simulation gives: both round at the same places, alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgekd.conversion.export import convert
from edgekd.devices.execution import run_artifact
from edgekd.distillation.qat import method_of, prepare_qat
from edgekd.evidence.outcome import Verdict
from edgekd.formats import find_format
from edgekd.formats.options import ExportOptions
from edgekd.network.network import as_network, call
from edgekd.quantization.batch_norm_folding import fold_batch_norms
from edgekd.verification.simulation_match import capped_sqnr_db, mismatch
from tests.support.architectures import ARCHITECTURES
from tests.support.models import TRAPS
from tests.support.skips import need_modules

pytestmark = pytest.mark.converter

NETWORKS = {**TRAPS, **ARCHITECTURES}
SEVEN = [
    ("onnx", "residual"),
    ("onnx", "attention"),
    ("onnx", "depthwise"),
    ("openvino", "concat"),
    ("openvino", "two-inputs"),
    ("litert", "residual"),
    ("litert", "concat"),
    ("litert", "depthwise"),
]
EIGHT = [("onnx", "concat"), ("openvino", "residual")]


@pytest.mark.parametrize(
    ("format", "name", "bits"),
    [*((*each, 7) for each in SEVEN), *((*each, 8) for each in EIGHT)],
)
def test_a_file_is_nearer_to_its_simulation_than_to_its_network(
    format: str, name: str, bits: int, tmp_path: Path
) -> None:
    need_modules(*find_format(format).PACKAGES)
    trap = NETWORKS[name]
    inputs = trap.draw(64, torch.Generator().manual_seed(9))
    network = as_network(trap.build(), trap.draw(1, torch.Generator().manual_seed(1)))
    samples = [trap.draw(1, torch.Generator().manual_seed(seed)) for seed in range(32)]
    simulated = prepare_qat(network, format, samples, reduce_range=bits == 7)
    method = method_of(network, format)
    artifact = convert(
        fold_batch_norms(network),
        format,
        samples,
        tmp_path / "file",
        ExportOptions(scheme="int8", method=method, reduce_range=bits == 7, channels_last=False),
    )
    ran = run_artifact(artifact, inputs, "local")
    assert not isinstance(ran, Verdict), ran
    with torch.no_grad():
        real, rounded = call(network.module, inputs), call(simulated.module, inputs)
    near, why = mismatch(ran.outputs, rounded, real)
    assert why is None
    # The simulation explains more than nine tenths of the error's power, or half of it in
    # OpenVINO, whose sums of two int8 tensors round once more.
    least = 3 if (format, name) == ("openvino", "residual") else 5
    assert near > capped_sqnr_db(real, ran.outputs) + least
