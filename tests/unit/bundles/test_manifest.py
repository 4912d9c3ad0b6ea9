"""A manifest that an earlier edgekd wrote."""

from __future__ import annotations

import json
from pathlib import Path

from edgekd.bundles.manifest import MANIFEST, read_manifest
from edgekd.system.files import write_json
from tests.support.bundles import written


def test_the_former_name_of_a_qat_network_is_still_read(tmp_path: Path) -> None:
    bundle, _ = written(tmp_path)
    document = json.loads((bundle / MANIFEST).read_text())
    document["models"][0]["network"] = "quantized"
    write_json(bundle / MANIFEST, document)
    assert read_manifest(bundle).models[0].network == "qat"
