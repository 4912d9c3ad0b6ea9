"""A CMake package for boards, with the models and a header, and a Python wheel of the models.

Source: https://cmake.org/cmake/help/latest/manual/cmake-packages.7.html and
https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import base64
import hashlib
import shutil
from pathlib import Path

from edgekd.bundles.archive import write_zip
from edgekd.bundles.identifiers import snake, titled
from edgekd.bundles.manifest import Manifest, Model, Tensor
from edgekd.bundles.quoting import metadata_line, quoted_c, quoted_cmake
from edgekd.system.files import write_text

FORMATS: tuple[str, ...] = ("litert", "onnx", "openvino", "ncnn")


def pack(bundle: Path, manifest: Manifest, out: Path) -> None:
    """Write the CMake package `NAME-VERSION/` and the wheel."""
    models = [model for model in manifest.models if model.format in FORMATS]
    prefix = out / f"{manifest.name}-{manifest.version}"
    share = prefix / "share" / manifest.name
    for model in models:
        for file in model.files:
            target = share / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / file.path, target)
    shutil.copyfile(bundle / "manifest.json", share / "manifest.json")
    write_text(prefix / "include" / f"{snake(manifest.name)}.h", _header(manifest))
    cmake = prefix / "lib" / "cmake" / manifest.name
    write_text(cmake / f"{manifest.name}Config.cmake", _config(manifest))
    write_text(
        cmake / f"{manifest.name}ConfigVersion.cmake",
        VERSION.format(version=manifest.version, major=manifest.version.partition(".")[0]),
    )
    _write_wheel(bundle, manifest, models, out)


CONFIG = """\
# A model exported by edgekd. Target: {name}::model, with the header. Variables:
# {prefix}_MODELS_DIR, and {prefix}_MODEL_<TITLE>, the file that a runtime loads.
get_filename_component({prefix}_PREFIX "${{CMAKE_CURRENT_LIST_DIR}}/../../.." ABSOLUTE)
set({prefix}_MODELS_DIR "${{{prefix}_PREFIX}}/share/{name}/models")
{models}
if(NOT TARGET {name}::model)
  add_library({name}::model INTERFACE IMPORTED)
  set_target_properties({name}::model PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${{{prefix}_PREFIX}}/include")
endif()
# Copies the models beside a target's program: {prefix}_install(DESTINATION share/app)
function({prefix}_install)
  install(DIRECTORY "${{{prefix}_MODELS_DIR}}" ${{ARGN}})
endfunction()
"""

VERSION = """\
set(PACKAGE_VERSION "{version}")
# Another major version may have other inputs or outputs.
if(PACKAGE_VERSION VERSION_LESS PACKAGE_FIND_VERSION
   OR (PACKAGE_FIND_VERSION AND NOT PACKAGE_FIND_VERSION_MAJOR EQUAL {major}))
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
"""


def _config(manifest: Manifest) -> str:
    prefix = snake(manifest.name)
    lines = []
    for title, model in titled(manifest, FORMATS):
        path = quoted_cmake(f"/share/{manifest.name}/{model.entry}").removeprefix('"')
        variable = f"{prefix}_MODEL_{snake(title).upper()}"
        lines.append(f'set({variable} "${{{prefix}_PREFIX}}{path})')
    return CONFIG.format(name=manifest.name, prefix=prefix, models="\n".join(lines))


def _header(manifest: Manifest) -> str:
    guard = f"{snake(manifest.name).upper()}_H"
    lines = [
        "/* A model exported by edgekd: its inputs and outputs. Shapes are batch first, -1 for a",
        "   dynamic dimension; value = scale * (number - zero_point) if the scale is not 0. */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
    ]
    base = snake(manifest.name).upper()
    lines += [
        f"#define {base}_NAME {quoted_c(manifest.name)}",
        f"#define {base}_VERSION {quoted_c(manifest.version)}",
        f"#define {base}_LABEL_COUNT {len(manifest.labels)}",
        f"static const char *const {snake(manifest.name)}_labels[] = {{",
        *(f"  {quoted_c(label)}," for label in manifest.labels),
        "  0",
        "};",
    ]
    for title, model in titled(manifest, FORMATS):
        name = snake(title)
        # With one model its title is the bundle's name, whose macros are above.
        upper = f"{name.upper()}_MODEL"
        entry = model.entry_file
        lines += [
            "",
            f"#define {upper}_TARGET {quoted_c(model.target)}",
            f"#define {upper}_FORMAT {quoted_c(model.format)}",
            f"#define {upper}_SCHEME {quoted_c(model.scheme)}",
            f"#define {upper}_PATH {quoted_c(f'share/{manifest.name}/{model.entry}')}",
            f"#define {upper}_SHA256 {quoted_c(entry.sha256)}",
            f"#define {upper}_BYTES {entry.size_bytes}L",
        ]
        for role, tensors in (("INPUT", model.inputs), ("OUTPUT", model.outputs)):
            lines.append(f"#define {upper}_{role}_COUNT {len(tensors)}")
            for number, tensor in enumerate(tensors):
                lines += _constants(f"{upper}_{role}_{number}", tensor)
    return "\n".join([*lines, "", f"#endif /* {guard} */", ""])


def _constants(name: str, tensor: Tensor) -> list[str]:
    quantization = tensor.quantization
    shape = ", ".join(str(-1 if size is None else size) for size in tensor.shape)
    return [
        f"#define {name}_NAME {quoted_c(tensor.name)}",
        f"#define {name}_TYPE {quoted_c(tensor.dtype)}",
        f"#define {name}_RANK {len(tensor.shape)}",
        f"#define {name}_SHAPE {{{shape}}}",
        f"#define {name}_LAYOUT {quoted_c(tensor.layout or '')}",
        f"#define {name}_MEANING {quoted_c(tensor.meaning or '')}",
        f"#define {name}_SCALE {quantization.scale if quantization else 0.0!r}",
        f"#define {name}_ZERO_POINT {quantization.zero_point if quantization else 0}",
    ]


MODULE = '''\
"""A model exported by edgekd: `manifest()` describes it, `path(target)` is its file."""

import hashlib
import json
from pathlib import Path

HERE = Path(__file__).parent


def manifest():
    """The contents of `manifest.json`."""
    return json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))


def path(target=None):
    """The file that the target's runtime loads; without a target, that of the only model.

    Raises ValueError if there is no such model, or a file is not the one that was tested.
    """
    models = manifest()["models"]
    matching = [model for model in models if target in (None, model["target"])]
    if len(matching) != 1:
        raise ValueError("a target of " + ", ".join(model["target"] for model in models))
    for file in matching[0]["files"]:
        sha256 = hashlib.sha256((HERE / file["path"]).read_bytes()).hexdigest()
        if sha256 != file["sha256"]:
            raise ValueError(file["path"] + " is not the file that was tested")
    return HERE / matching[0]["entry"]
'''


def _write_wheel(bundle: Path, manifest: Manifest, models: list[Model], out: Path) -> None:
    """Write the wheel, which holds the models that Linux runs and their golden vectors."""
    package = snake(manifest.name)
    stem = f"{package}-{manifest.version}"
    contents: dict[str, bytes | Path] = {f"{package}/__init__.py": MODULE.encode()}
    kept = {file.path for model in models for file in model.files}
    for model in models:
        kept |= {*model.golden.inputs.values()}
        kept |= {expected.path for expected in model.golden.outputs.values()}
    for path in kept:
        contents[f"{package}/{path}"] = bundle / path
    others = [file for file in manifest.other_files if file.path in kept]
    shipped = manifest.model_copy(update={"models": models, "other_files": others})
    text = shipped.model_dump_json(indent=2, exclude=shipped.unwritten)
    contents[f"{package}/manifest.json"] = f"{text}\n".encode()
    summary = metadata_line(manifest.description or f"A {manifest.task} model")
    info = f"{stem}.dist-info"
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {package.replace('_', '-')}",
        f"Version: {manifest.version}",
        f"Summary: {summary}",
        "Requires-Python: >=3.8",
    ]
    if manifest.licences.model:
        lines.append(f"License: {metadata_line(manifest.licences.model)}")
    contents[f"{info}/METADATA"] = ("\n".join(lines) + "\n").encode()
    contents[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: edgekd\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = []
    for name in sorted(contents):
        content = contents[name]
        data = content if isinstance(content, bytes) else content.read_bytes()
        sha = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={sha},{len(data)}")
    record.append(f"{info}/RECORD,,")
    contents[f"{info}/RECORD"] = ("\n".join(record) + "\n").encode()
    write_zip(out / f"{stem}-py3-none-any.whl", contents)
