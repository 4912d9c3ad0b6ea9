"""Bundles: the manifest and its faults, packages, signatures, comparisons."""

from __future__ import annotations

import io
import json
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import torch
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from edgekd.bundles import BUNDLES, android, folder, identifiers, quoting
from edgekd.bundles import golden_vectors as golden
from edgekd.bundles import pack as packing
from edgekd.bundles.archive import files_under, write_zip
from edgekd.bundles.diff import Tolerance, compare, failure
from edgekd.bundles.integrity import integrity
from edgekd.bundles.manifest import MANIFEST, Model, Quantization, json_schema, read_manifest
from edgekd.errors import BudgetMissedError, ConversionError, DisagreementError, RecipeError
from edgekd.evidence.candidate import Candidate
from edgekd.evidence.outcome import Outcome
from edgekd.network.preprocessing import NHWC
from edgekd.recipe.bundle import Android, Preprocessing
from edgekd.recipe.preprocessing import Raw
from edgekd.report.junit import cases, junit, summary
from edgekd.system.files import path_digest, write_json
from edgekd.system.packages import need
from tests.support.bundles import LABELS, model, written
from tests.support.project import assert_five_parts
from tests.support.skips import need_program


def test_a_bundle_is_intact_and_its_manifest_follows_its_schema(tmp_path: Path) -> None:
    bundle, manifest = written(tmp_path)
    assert integrity(bundle) == []
    assert read_manifest(bundle) == manifest
    document = json.loads((bundle / MANIFEST).read_text())
    schema = json.loads((bundle / "manifest.schema.json").read_text())
    assert schema == json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    assert (bundle / "labels.txt").read_text().splitlines() == LABELS
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=bundle, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_the_component_list_is_valid_cyclonedx(tmp_path: Path) -> None:
    bundle, _ = written(tmp_path)
    text = (bundle / "components.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = {entry["name"]: entry for entry in json.loads(text)["components"]}
    assert found["key-spotter-phone-onnx"]["licenses"] == [{"expression": "Apache-2.0"}]
    assert found["training data"]["licenses"] == [{"license": {"name": "what the owner says"}}]
    # A name that only resembles an SPDX identifier is a plain name.
    assert folder._licensed("Proprietary") == {"licenses": [{"license": {"name": "Proprietary"}}]}
    assert folder._licensed("mit or apache-2.0") == {
        "licenses": [{"expression": "MIT OR Apache-2.0"}]
    }


def test_the_card_lists_the_inputs_of_each_model(tmp_path: Path) -> None:
    made = model(tmp_path / "key-spotter-1.2.3", "onnx")
    other = model(tmp_path / "key-spotter-1.2.3", "litert")
    last = other.inputs[0].model_copy(update={"shape": [1, 2, 3, 1], "layout": NHWC})
    bundle, _ = written(
        tmp_path, (), models=[made, *_with(other, inputs=[last])],
        folded={"image": Raw(dtype="uint8", scale=0.5)},
    )  # fmt: skip
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "On phone-onnx:\n\n- input image: 1 x 1 x 2 x 3 float32\n" in card
    assert "On phone-litert:\n\n- input image: 1 x 2 x 3 x 1 float32, batch height width" in card
    assert "value = 0.5 * (number - -3)" in card
    assert "- preprocessing embedded in the file, of image: scale 0.5" in card


def leaves(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The key paths of the values in a document."""
    if isinstance(document, dict):
        return [
            leaf
            for key, value in document.items()
            for leaf in [(*path, key), *leaves(value, (*path, key))]
        ]
    if isinstance(document, list) and document:
        return leaves(document[0], (*path, 0))
    return []


OPEN = ("tools", "teacher", "student", "left_out")
"""Tables with arbitrary keys."""


def test_every_missing_or_wrong_field_is_reported(tmp_path: Path) -> None:
    bundle, _ = written(tmp_path, preprocessing={"image": Preprocessing(mean=[0.5], std=[2.0])})
    whole = json.loads((bundle / MANIFEST).read_text())
    jsonschema_of = jsonschema.Draft202012Validator(json_schema())
    tried = 0
    for path in leaves(whole):
        if any(step in OPEN for step in path[:-1]) or path[-1] in OPEN:
            continue
        for value in (None, [], {"no": "such"}, -1.5, "../../etc/passwd"):
            document = json.loads(json.dumps(whole))
            table = document
            for step in path[:-1]:
                table = table[step]
            if value is None:
                del table[path[-1]]
            else:
                table[path[-1]] = value
            if not jsonschema_of.is_valid(document):
                tried += 1
                write_json(bundle / MANIFEST, document)
                with pytest.raises(RecipeError) as raised:
                    read_manifest(bundle)
                assert_five_parts(str(raised.value))
                if path != ("schema_version",):
                    assert MANIFEST in str(raised.value)
                    assert "edgekd run RECIPE" in str(raised.value)
    assert tried > 100


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../x", "a\\..\\x", "C:/x", "", "a//b", "./a"]
)
def test_no_path_leads_out_of_a_bundle(tmp_path: Path, path: str) -> None:
    bundle, _ = written(tmp_path)
    for keys in (("models", 0, "entry"), ("models", 0, "files", 0, "path"),
                  ("other_files", 0, "path"), ("models", 0, "golden", "inputs", "image"),
                  ("models", 0, "golden", "outputs", "scores", "path")):  # fmt: skip
        document = json.loads((bundle / MANIFEST).read_text())
        at = document
        for step in keys[:-1]:
            at = at[step]
        at[keys[-1]] = path
        write_json(tmp_path / "other" / MANIFEST, document)
        with pytest.raises(RecipeError, match="inside the bundle"):
            read_manifest(tmp_path / "other")


def test_a_manifest_of_a_later_edgekd_or_in_another_form_is_refused(tmp_path: Path) -> None:
    bundle, _ = written(tmp_path)
    document = json.loads((bundle / MANIFEST).read_text())
    write_json(bundle / MANIFEST, {**document, "schema_version": 2, "new": {}})
    with pytest.raises(RecipeError, match="later edgekd"):
        read_manifest(bundle)
    for text in ("", "[]", "{", '{"schema_version": "1"}', '{"schema_version": true}', "\xff",
                 "[" * 100_000, '{"schema_version": 1, "models": NaN}'):  # fmt: skip
        (bundle / MANIFEST).write_text(text, encoding="latin-1")
        with pytest.raises(RecipeError, match="not a bundle"):
            read_manifest(bundle)


NAMED = {
    ("models", 0, "target"): ["../../x", "/etc/x", "a b", 'a"; x', "", ".."],
    ("android", "group"): ["../x", "/etc/x", "com;x", "Com.x", "com..x", "com x"],
    ("models", 0, "inputs", 0, "dtype"): ["object", "S8", "float33"],
    ("models", 0, "inputs", 0, "shape"): [[-1, 2], ["1"], [1.5]],
    ("models", 0, "evidence", "agreement", "metric"): ["0.9", [1]],
    ("models", 0, "evidence", "measurement"): [3, {"p50_ms": "fast"}],
    ("models", 0, "evidence", "evidence"): ["trust me"],
}


@pytest.mark.parametrize("keys", NAMED, ids=lambda keys: str(keys[-1]))
def test_text_that_becomes_a_path_or_code_must_be_a_name(
    tmp_path: Path, keys: tuple[Any, ...], edgekd_cli: Any
) -> None:
    bundle, _ = written(tmp_path)
    whole = json.loads((bundle / MANIFEST).read_text())
    for value in NAMED[keys]:
        document = json.loads(json.dumps(whole))
        at = document
        for step in keys[:-1]:
            at = at[step]
        at[keys[-1]] = value
        write_json(bundle / MANIFEST, document)
        result = edgekd_cli("bundle", bundle)
        assert result.code == 2, value
        assert_five_parts(result.err)


def test_a_package_is_written_only_into_an_empty_folder(tmp_path: Path, edgekd_cli: Any) -> None:
    bundle, _ = written(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    for out in (tmp_path / "home", tmp_path / "home" / "thesis.txt"):
        result = edgekd_cli("bundle", bundle, "--kind", "linux", "--out", out)
        assert result.code == 2
        assert_five_parts(result.err)
        assert "needs an empty folder" in result.err
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("group", [None, "../x", "Com.x", "com.int.x"])
def test_a_group_that_maven_or_java_refuses_is_refused(
    tmp_path: Path, edgekd_cli: Any, group: str | None
) -> None:
    bundle, _ = written(tmp_path, android=Android())
    need_program("javac")
    args = ["--group", group] if group else []
    result = edgekd_cli("bundle", bundle, "--kind", "android", "--out", tmp_path / "o", *args)
    assert result.code == 2
    assert_five_parts(result.err)
    assert (group or "nothing") in result.err
    assert not (tmp_path / "o").exists()


def _change(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


DAMAGES = {
    "a model": lambda bundle: _change(bundle / "models/phone-onnx/model.onnx"),
    "truncated": lambda bundle: (bundle / "models/phone-onnx/model.onnx").write_bytes(b"a"),
    "a golden vector": lambda bundle: _change(bundle / "golden/phone-onnx/0.bin"),
    "labels": lambda bundle: _change(bundle / "labels.txt"),
    "checksums": lambda bundle: _change(bundle / "SHA256SUMS"),
    "no checksums": lambda bundle: (bundle / "SHA256SUMS").unlink(),
    "a file gone": lambda bundle: (bundle / "MODEL_CARD.md").unlink(),
    "a file more": lambda bundle: (bundle / "models/phone-onnx/more.py").write_text("print()"),
    "a link": lambda bundle: (bundle / "link").symlink_to("/etc/passwd"),
    "a pipe": lambda bundle: os.mkfifo(bundle / "golden" / "pipe"),
    "a linked folder": lambda bundle: (bundle / "golden/l").symlink_to("/etc"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_differences_from_the_manifest_are_found(tmp_path: Path, damage: str) -> None:
    bundle, _ = written(tmp_path)
    DAMAGES[damage](bundle)
    faults = integrity(bundle)
    assert faults
    for fault in faults:
        assert_five_parts(str(fault))
    for use in (packing.check, lambda folder: packing.pack(folder, "linux")):
        with pytest.raises(RecipeError, match="does not match its manifest"):
            use(bundle)


def _with(model: Model, **changed: Any) -> list[Model]:
    return [model.model_copy(update=changed)]


CONTRADICTIONS = {
    "entry models/phone-onnx/other.onnx": lambda m: _with(m, entry="models/phone-onnx/other.onnx"),
    "entry models/phone-onnx,": lambda m: _with(m, entry="models/phone-onnx"),
    "golden inputs image": lambda m: _with(
        m, inputs=[m.inputs[0].model_copy(update={"name": "other"})]
    ),
    "golden vector labels.txt": lambda m: _with(
        m, golden=m.golden.model_copy(update={"inputs": {"image": "labels.txt"}})
    ),
    "size_bytes 3": lambda m: _with(m, size_bytes=3),
    "2 models of phone-onnx": lambda m: [m, m],
    "file models/phone-onnx/model.onnx": lambda m: _with(m, target="tv"),
}


@pytest.mark.parametrize("contradiction", CONTRADICTIONS)
def test_contradictions_in_a_manifest_are_found(tmp_path: Path, contradiction: str) -> None:
    made = model(tmp_path / "key-spotter-1.2.3", "onnx")
    bundle, _ = written(tmp_path, (), models=CONTRADICTIONS[contradiction](made))
    faults = integrity(bundle)
    assert any(contradiction.rstrip(",") in fault.got for fault in faults), faults
    for fault in faults:
        assert_five_parts(str(fault))


def test_a_model_of_an_unknown_format_is_not_run(tmp_path: Path, edgekd_cli: Any) -> None:
    made = model(tmp_path / "key-spotter-1.2.3", "onnx")
    bundle, _ = written(tmp_path, (), models=_with(made, format="caffe"))
    result = edgekd_cli("bundle", bundle, "--check")
    assert result.code == 0
    assert "phone-onnx: unavailable" in result.out
    assert "no format caffe here" in result.out


def test_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        bundle, manifest = written(tmp_path / name)
        for kind in ("swift", "linux", "folder"):
            (bundle.parent / kind).mkdir()
            BUNDLES[kind].pack(bundle, manifest, bundle.parent / kind)
        found.append(path_digest(bundle.parent))
    assert found[0] == found[1]


def test_files_to_be_mapped_are_stored_uncompressed(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {"b.tflite": b"x" * 100, "a.txt": b"y" * 100}, [".tflite"])
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        kinds = {info.filename: info.compress_type for info in archive.infolist()}
        assert kinds == {"a.txt": zipfile.ZIP_DEFLATED, "b.tflite": zipfile.ZIP_STORED}
        assert archive.testzip() is None


def test_names_in_generated_code_are_valid_identifiers(tmp_path: Path) -> None:
    assert identifiers.camel("key-spotter.v2") == "KeySpotterV2"
    assert identifiers.camel("3d_net") == "Model3dNet"
    assert identifiers.snake("3D-Net") == "model_3d_net"
    _bundle, manifest = written(tmp_path)
    twins = [
        manifest.models[0].model_copy(update={"target": target}) for target in ("a-b", "a.b", "A_B")
    ]
    found = identifiers.titled(manifest.model_copy(update={"models": twins}), ["litert"])
    titles = [title for title, _ in found]
    assert len({identifiers.snake(title) for title in titles}) == 3
    assert len({identifiers.camel(title).lower() for title in titles}) == 3
    # Reserved words cannot be names of Java packages or Python modules.
    assert identifiers.snake("native") == "model_native"
    assert identifiers.snake("lambda") == "model_lambda"


def test_strings_in_generated_code_are_escaped() -> None:
    nasty = 'a"b\\(x)\n\r\t??/*/ü\u2028\x07'
    assert quoting.quoted_swift(nasty).count('"') - quoting.quoted_swift(nasty).count('\\"') == 2
    assert "\\\\(x)" in quoting.quoted_swift(nasty)
    assert quoting.quoted_c(nasty).isascii()
    assert "??" not in quoting.quoted_c(nasty)
    assert quoting.quoted_java(nasty).isascii()


def test_a_c_compiler_reads_the_strings_back(tmp_path: Path) -> None:
    bundle, manifest = written(tmp_path)
    out = tmp_path / "linux"
    out.mkdir()
    BUNDLES["linux"].pack(bundle, manifest, out)
    source = (
        '#include <stdio.h>\n#include "key_spotter.h"\n'
        "int main(void) { for (int i = 0; i < KEY_SPOTTER_LABEL_COUNT; i++) "
        "puts(key_spotter_labels[i]); return 0; }\n"
    )
    (tmp_path / "main.c").write_text(source)
    include = out / "key-spotter-1.2.3" / "include"
    args = ["-std=c99", "-trigraphs", "-Wall", "-Werror", f"-I{include}"]
    subprocess.run(
        [need_program("gcc"), *args, str(tmp_path / "main.c"), "-o", str(tmp_path / "main")],
        check=True,
    )
    result = subprocess.run([str(tmp_path / "main")], capture_output=True, check=True)
    assert result.stdout.decode().splitlines() == LABELS


def test_the_swift_package_is_consistent(tmp_path: Path) -> None:
    """There is no Swift compiler here: the test only compares the parts with each other."""
    bundle, manifest = written(tmp_path)
    out = tmp_path / "swift"
    out.mkdir()
    BUNDLES["swift"].pack(bundle, manifest, out)
    home = out / "KeySpotter"
    package = (home / "Package.swift").read_text()
    for name in ("KeySpotter", "KeySpotterTests"):
        assert f'name: "{name}"' in package
    accessor = (home / "Sources/KeySpotter/KeySpotter.swift").read_text()
    for text in (
        accessor,
        package,
        (home / "Tests/KeySpotterTests/KeySpotterTests.swift").read_text(),
    ):
        for left, right in ("{}", "[]", "()"):
            assert text.count(left) == text.count(right)
    resources = home / "Sources/KeySpotter/Resources"
    assert (resources / "model.mlpackage/Manifest.json").is_file()
    assert 'forResource: "Resources/model.mlpackage"' in accessor
    for file in ("input_0.bin", "output_0.bin"):
        assert (home / "Tests/KeySpotterTests/Golden" / file).stat().st_size > 0
    packages = json.loads((out / "packages.json").read_text())
    assert packages[0]["checksum"] == path_digest(out / packages[0]["archive"])
    with zipfile.ZipFile(out / packages[0]["archive"]) as archive:
        assert set(archive.namelist()) == {f"KeySpotter/{name}" for name in files_under(home)}


def test_a_signature_covers_all_files_and_one_key(tmp_path: Path, edgekd_cli: Any) -> None:
    openssl = need_program("openssl")
    for name in ("ours", "theirs"):
        key, pub = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        subprocess.run([openssl, "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
        subprocess.run([openssl, "pkey", "-in", key, "-pubout", "-out", pub], check=True)
    bundle, _ = written(tmp_path)
    unsigned = edgekd_cli("bundle", bundle, "--verify", tmp_path / "ours.pub")
    assert unsigned.code == 2
    assert edgekd_cli("bundle", bundle, "--sign", tmp_path / "ours.pem").code == 0
    result = edgekd_cli("bundle", bundle, "--verify", tmp_path / "ours.pub", "--json")
    assert (result.code, result.json["signature"]) == (0, "valid")
    # OpenSSL agrees that it is an Ed25519 signature of the manifest.
    raw = tmp_path / "raw.sig"
    import base64

    raw.write_bytes(base64.b64decode((bundle / "manifest.json.sig").read_text()))
    args = ["pkeyutl", "-verify", "-pubin", "-inkey", tmp_path / "ours.pub", "-rawin", "-sigfile"]
    subprocess.run([openssl, *args, raw, "-in", bundle / MANIFEST], check=True)
    for bad in ("theirs.pub", "ours.pem", "none.pub"):
        refused = edgekd_cli("bundle", bundle, "--verify", tmp_path / bad)
        assert refused.code == 2
        assert_five_parts(refused.err)
        assert ("not signed by this key" if bad == "theirs.pub" else "public key") in refused.err
    ec = tmp_path / "ec.pem"
    args = ["ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", ec]
    subprocess.run([openssl, *args], check=True)
    for bad in ("ours.pub", "none.pem", "ec.pem"):
        refused = edgekd_cli("bundle", bundle, "--sign", tmp_path / bad)
        assert refused.code == 2
        assert_five_parts(refused.err)
        assert "The private key cannot be used" in refused.err
    _change(bundle / "labels.txt")
    changed = edgekd_cli("bundle", bundle, "--verify", tmp_path / "ours.pub")
    assert changed.code == 2
    assert "does not match its manifest" in changed.err
    (bundle / "manifest.json.sig").write_text("no base64")
    assert edgekd_cli("bundle", bundle, "--verify", tmp_path / "ours.pub").code == 2


def _worse(**changed: Any) -> dict[str, Any]:
    evidence: dict[str, Any] = {
        "evidence": "device",
        "agreement": {"metric": 0.9, "top1_agreement_frac": 0.99},
        "measurement": {"p50_ms": 2.0, "p90_ms": 3.0},
    }
    for key, value in changed.items():
        if key == "evidence":
            evidence[key] = value
        else:
            evidence["agreement" if key in evidence["agreement"] else "measurement"][key] = value
    return evidence


REGRESSIONS: dict[str, tuple[dict[str, Any], type[Exception] | None]] = {
    "the same": ({}, None),
    "a little worse": (_worse(metric=0.897, p90_ms=3.2), None),
    "less accurate": (_worse(metric=0.88), DisagreementError),
    "agrees less": (_worse(top1_agreement_frac=0.9), DisagreementError),
    "no metric": (_worse(metric=None), DisagreementError),
    "slower": (_worse(p90_ms=4.0), BudgetMissedError),
    "slower and less accurate": (_worse(p90_ms=4.0, metric=0.5), DisagreementError),
    "slower, but elsewhere": (_worse(p90_ms=9.0, p50_ms=9.0, evidence="host"), None),
}


@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_worse_release_is_reported(tmp_path: Path, name: str) -> None:
    old, _ = written(tmp_path / "old", ("onnx",))
    parent = tmp_path / "new"
    evidence, error = REGRESSIONS[name]
    changed = model(
        parent / "key-spotter-1.2.3", "onnx", **({"evidence": evidence} if evidence else {})
    )
    new, _ = written(parent, (), models=[changed])
    found = failure(compare(old, new, Tolerance()), new)
    assert (None if found is None else type(found)) is error


def test_interface_changes_are_reported(tmp_path: Path, edgekd_cli: Any) -> None:
    old, _manifest = written(tmp_path / "old", ("onnx", "litert"))
    parent = tmp_path / "new"
    other = model(parent / "key-spotter-1.2.3", "onnx", size_bytes=9000)
    other = other.model_copy(
        update={"inputs": [other.inputs[0].model_copy(update={"shape": [1, 1, 4, 3]})]}
    )
    new, _ = written(parent, (), models=[other], labels=["cat"])
    result = edgekd_cli("diff", old, new, "--json")
    assert result.code == 7
    worse = {(c["target"], c["figure"]) for c in result.json["changes"] if c["worse"]}
    assert worse == {
        ("(all)", "labels"),
        ("phone-onnx", "inputs"),
        ("phone-onnx", "size_bytes"),
        ("phone-litert", "model"),
    }
    assert_five_parts(result.err)
    plain = edgekd_cli("diff", old, new)
    assert plain.code == 7
    assert "WORSE" in plain.out
    assert edgekd_cli("diff", old, tmp_path / "nothing").code == 2
    assert edgekd_cli("diff", old, old).code == 0


def _changed(parent: Path, **update: Any) -> Path:
    """A bundle whose first input is changed."""
    made = model(parent / "key-spotter-1.2.3", "onnx")
    first = made.inputs[0].model_copy(update=update)
    return written(parent, (), models=_with(made, inputs=[first]))[0]


@pytest.mark.parametrize(
    "update",
    [
        {"dtype": "uint8"},
        {"layout": NHWC},
        {"meaning": "probabilities"},
        {"quantization": Quantization(scale=0.1, zero_point=0)},
        {"shape": [None, 1, 2, 3]},
    ],
    ids=lambda update: next(iter(update)),
)
def test_changes_of_an_inputs_meaning_are_reported(tmp_path: Path, update: dict[str, Any]) -> None:
    old, _ = written(tmp_path / "old", ("onnx",))
    found = compare(old, _changed(tmp_path / "new", **update), Tolerance())
    worse = [change for change in found if change.worse]
    assert [change.figure for change in worse] == ["inputs"]
    assert worse[0].before != worse[0].after


def test_changed_labels_and_preprocessing_are_reported_by_their_difference(tmp_path: Path) -> None:
    old, _ = written(tmp_path / "old", ("onnx",), preprocessing={"image": Preprocessing()})
    new, _ = written(
        tmp_path / "new",
        ("onnx",),
        labels=["cat", "dog", *LABELS[2:]],
        preprocessing={"image": Preprocessing(mean=[0.5])},
        folded={"image": Raw(scale=0.5)},
    )
    found = {change.figure: change for change in compare(old, new, Tolerance()) if change.worse}
    assert set(found) == {"labels", "preprocessing", "folded"}
    assert found["labels"].after == "4: [1] 'dog'"
    assert found["preprocessing"].after == "image: mean [0.5]"
    assert isinstance(failure(list(found.values()), new), DisagreementError)


def test_the_end_of_routing_is_an_interface_change(tmp_path: Path) -> None:
    routed = {
        "threshold": 0.8, "why": "kept over 0.8", "agreement": 0.99, "confidence": 0.95,
        "calibration_count": 100, "test_count": 100, "curve": [],
    }  # fmt: skip
    made = model(tmp_path / "old" / "key-spotter-1.2.3", "onnx", routing=routed)
    old, _ = written(tmp_path / "old", (), models=[made])
    new, _ = written(tmp_path / "new", ("onnx",))
    for before, after in ((old, new), (new, old)):
        worse = [change for change in compare(before, after, Tolerance()) if change.worse]
        assert [change.figure for change in worse] == ["routing"]


def test_latencies_of_different_devices_are_not_compared(tmp_path: Path) -> None:
    def measured(parent: Path, p50_ms: float, processor: str) -> Path:
        figures = {"p50_ms": p50_ms, "p90_ms": p50_ms, "device": {"processor": processor}}
        made = model(
            parent / "key-spotter-1.2.3", "onnx", evidence={**_worse(), "measurement": figures}
        )
        return written(parent, (), models=[made])[0]

    old = measured(tmp_path / "old", 1.0, "A")
    same = compare(old, measured(tmp_path / "same", 9.0, "A"), Tolerance())
    assert isinstance(failure(same, old), BudgetMissedError)
    other = compare(old, measured(tmp_path / "other", 9.0, "B"), Tolerance())
    assert failure(other, old) is None
    note = next(change.told for change in other if change.figure == "p50_ms")
    assert note == "not compared: device, A before, device, B now"


def test_nan_and_infinity_must_be_the_same_again(tmp_path: Path) -> None:
    """A mask of minus infinity must neither allow everything nor fail every check."""
    outputs = {"scores": torch.tensor([[1.0, -torch.inf], [torch.nan, 2.0]])}
    made = golden.write(tmp_path, {"image": torch.zeros(2, 1)}, outputs, "phone", "fp32")
    spec = {"name": "scores", "shape": [1, 2], "dtype": "float32"}
    judged = model(
        tmp_path,
        "onnx",
        golden=made.model_dump(),
        outputs=[spec],
        inputs=[{**spec, "name": "image"}],
    )
    assert 0 < made.outputs["scores"].max_abs_error < 0.1
    assert golden.differences(tmp_path, judged, outputs) == []
    for value in (torch.inf, torch.nan, 3.0):
        other = {"scores": outputs["scores"].clone()}
        other["scores"][0, 1] = value
        assert golden.differences(tmp_path, judged, other)


def test_junit_and_the_summary_list_every_candidate() -> None:
    rows = [
        Candidate("phone", "litert", "fp32", Outcome.PASSED),
        Candidate("phone", "litert", "int8", Outcome.DISAGREES, "SQNR is <10 dB> & \x00 bad"),
        Candidate("board", "onnx", "fp32", Outcome.OVER_BUDGET, "p90 is 9 ms"),
        Candidate("tv", "onnx", "fp32", Outcome.UNAVAILABLE, "no device"),
    ]
    text = junit('a "run"', cases(rows, {"phone": True, "board": True, "tv": False}))
    root = ElementTree.parse(io.StringIO(text)).getroot()
    counts = {s.get("name"): (s.get("failures"), s.get("skipped")) for s in root}
    assert counts == {"phone": ("0", "1"), "board": ("1", "0"), "tv": ("0", "1")}
    plain = summary("edgekd benchmark", None, rows, {})
    assert "| target | scheme | outcome | bytes | p50 ms | p90 ms |" in plain
    assert "- board fp32: p90 is 9 ms" in plain
    text = summary("a|b", "accuracy", rows, {"phone": ("fp32", "it pays")})
    assert "a\\|b" in text
    assert "| phone | fp32 | passed |" in text
    assert text.count("| yes |") == 1


def test_an_unknown_kind_or_a_kind_without_models_is_refused(
    tmp_path: Path, edgekd_cli: Any
) -> None:
    bundle, _ = written(tmp_path, ("onnx",))
    for kind in ("ipa", "swift"):
        result = edgekd_cli("bundle", bundle, "--kind", kind)
        assert result.code == 2
        assert_five_parts(result.err)
    result = edgekd_cli("bundle", bundle, "--kind", "linux", "--out", tmp_path / "out", "--json")
    assert result.code == 0
    assert (tmp_path / "out" / "key_spotter-1.2.3-py3-none-any.whl").is_file()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("{}")
    result = edgekd_cli("bundle", tmp_path / "run")
    assert result.code == 2
    assert "add [bundle]" in result.err
    (tmp_path / "run" / "recipe.toml").write_text('name = "x"\n[bundle]\nkinds = ["folder"]\n')
    result = edgekd_cli("bundle", tmp_path / "run")
    assert result.code == 2
    assert_five_parts(result.err)
    assert "without a model that ships" in result.err


def test_an_android_package_needs_a_java_compiler(
    tmp_path: Path, edgekd_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, _ = written(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = edgekd_cli("bundle", bundle, "--kind", "android")
    assert result.code == 4
    assert_five_parts(result.err)
    assert "default-jdk-headless" in result.err


def test_a_generated_class_that_does_not_compile_is_reported() -> None:
    need_program("javac")
    with pytest.raises(ConversionError, match="does not compile") as raised:
        android._compiled("a/B.java", "package a; class B { int x = ; }")
    assert_five_parts(str(raised.value))
    assert "illegal start of expression" in str(raised.value)


def test_a_model_without_a_runtime_here_is_unavailable(
    tmp_path: Path, edgekd_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: str) -> None:
        need("no_such_package", extra="coreml")

    monkeypatch.setattr("edgekd.devices.execution.reference_evaluator", absent)
    bundle, _ = written(tmp_path, ("coreml",))
    result = edgekd_cli("bundle", bundle, "--check")
    assert result.code == 0
    assert "phone-coreml: unavailable" in result.out
    assert "pip install" in result.out
