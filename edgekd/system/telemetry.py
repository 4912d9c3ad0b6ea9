"""Usage reports of the libraries that edgekd calls: switched off before they are imported.

ONNX Runtime reports each session and keeps an id in the temporary folder; OpenVINO and NNCF report
each import and keep an id in the home folder; MLflow and Hugging Face Hub report too. edgekd talks
to the network only when it is asked to, so it asks these to be silent. A value that the user has
set stays.
"""

from __future__ import annotations

import os
import sys
from typing import Any, cast

SWITCHES = {
    # https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md
    "ORT_DISABLE_TELEMETRY": "1",
    # https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # https://mlflow.org/docs/latest/community/usage-tracking.html
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""By environment variable, the value that switches reports off; child processes inherit it."""

SENDERS = ("openvino_telemetry",)
"""Packages that only send reports, have no switch, and are optional for those that call them."""


def disable_telemetry() -> None:
    """Switches off the reports of libraries that are not imported yet."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    modules = cast(dict[str, Any], sys.modules)
    for name in SENDERS:
        modules.setdefault(name, None)  # Importing it now raises ImportError.
