"""A Swift package with the model as a resource, an accessor, and a test of the golden vectors.

Source: https://developer.apple.com/documentation/xcode/bundling-resources-with-a-swift-package
"""

from __future__ import annotations

import math
import shutil
import struct
from pathlib import Path

from edgekd.bundles.archive import files_under, write_zip
from edgekd.bundles.identifiers import camel, rows, titled
from edgekd.bundles.manifest import Manifest, Model, Tensor, entry_fault
from edgekd.bundles.quoting import quoted_swift
from edgekd.errors import RecipeError
from edgekd.system.files import path_digest, write_json, write_text

FORMATS: tuple[str, ...] = ("coreml",)


def pack(bundle: Path, manifest: Manifest, out: Path) -> None:
    """Write a package per model, and an archive of each with its checksum.

    The checksum is the archive's sha256, as from `swift package compute-checksum`.
    """
    archives = []
    for title, model in titled(manifest, FORMATS):
        name = camel(title)
        folder = out / name
        _write_package(bundle, manifest, model, name, folder)
        archive = out / f"{name}-{manifest.version}.zip"
        contents = {f"{name}/{path}": entry for path, entry in files_under(folder).items()}
        write_zip(archive, dict(contents))
        archives.append(
            {
                "name": name,
                "version": manifest.version,
                "archive": archive.name,
                "checksum": path_digest(archive),
            }
        )
    write_json(out / "packages.json", archives)


PACKAGE = """\
// swift-tools-version:5.7
import PackageDescription

let package = Package(
  name: "{name}",
  platforms: [.iOS(.v16), .macOS(.v13)],
  products: [.library(name: "{name}", targets: ["{name}"])],
  targets: [
    .target(name: "{name}", resources: [.copy("Resources")]),
    .testTarget(name: "{name}Tests", dependencies: ["{name}"], resources: [.copy("Golden")]),
  ]
)
"""

ACCESSOR = """\
import CoreML
import Foundation

/// A model exported by edgekd: its inputs and outputs, and how to load it.
public enum {name} {{
  public static let name = {bundle}
  public static let version = {version}
  public static let target = {target}
  public static let scheme = {scheme}
  public static let labels: [String] = [
{labels}
  ]
  public static let inputs: [Tensor] = [
{inputs}
  ]
  public static let outputs: [Tensor] = [
{outputs}
  ]

  /// One input or output: its shape, batch first, its numpy dtype, and its axes and meaning,
  /// if they are known.
  public struct Tensor {{
    public let name: String
    public let shape: [Int?]
    public let type: String
    public let layout: String?
    public let meaning: String?
  }}

  /// The model's URL in this package.
  public static var url: URL {{
    Bundle.module.url(forResource: {file}, withExtension: nil)!
  }}

  /// Compiles and loads the model; keep the result.
  public static func load(configuration: MLModelConfiguration = .init()) throws -> MLModel {{
    try MLModel(contentsOf: MLModel.compileModel(at: url), configuration: configuration)
  }}
}}
"""

TESTS = """\
import CoreML
import XCTest

@testable import {name}

/// Runs the golden vectors: the outputs must equal those from when the model was bundled.
final class {name}Tests: XCTestCase {{
  /// Values as 64-bit floats, whatever the model's own type is.
  func golden(_ file: String) throws -> [Double] {{
    let url = Bundle.module.url(forResource: "Golden/\\(file)", withExtension: nil)!
    return try Data(contentsOf: url).withUnsafeBytes {{ Array($0.bindMemory(to: Double.self)) }}
  }}

  func testEveryOutputIsWhatItWasWhenBundled() throws {{
    let model = try {name}.load()
    let inputs: [(String, [NSNumber], MLMultiArrayDataType, String)] = [
{inputs}
    ]
    let outputs: [(String, String, Double)] = [
{outputs}
    ]
    for sample in 0..<{count} {{
      var given: [String: MLFeatureValue] = [:]
      for (name, shape, type, file) in inputs {{
        let all = try golden(file)
        let size = all.count / {count}
        let array = try MLMultiArray(shape: shape, dataType: type)
        for i in 0..<size {{ array[i] = NSNumber(value: all[sample * size + i]) }}
        given[name] = MLFeatureValue(multiArray: array)
      }}
      let found = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: given))
      for (name, file, tolerance) in outputs {{
        let all = try golden(file)
        let size = all.count / {count}
        let array = try XCTUnwrap(found.featureValue(for: name)?.multiArrayValue)
        XCTAssertEqual(array.count, size)
        for i in 0..<size {{
          XCTAssertEqual(array[i].doubleValue, all[sample * size + i], accuracy: tolerance)
        }}
      }}
    }}
  }}
}}
"""

TYPES = {"float16": ".float16", "float32": ".float32", "float64": ".double"}
"""Swift's names of Core ML's tensor types; integers are .int32."""
CODES = {
    "bool": "?", "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B",
    "uint16": "H", "uint32": "I", "uint64": "Q", "float16": "e", "float32": "f", "float64": "d",
}  # fmt: skip
"""The `struct` format characters of the dtypes of golden vectors."""


def _write_package(bundle: Path, manifest: Manifest, model: Model, name: str, folder: Path) -> None:
    sources, tests = folder / "Sources" / name, folder / "Tests" / f"{name}Tests"
    resources, golden = sources / "Resources", tests / "Golden"
    file = model.entry.rpartition("/")[2]
    if not (bundle / model.entry).is_dir():
        raise RecipeError(entry_fault(model, "a folder: a Core ML package"))
    shutil.copytree(bundle / model.entry, resources / file)
    shutil.copyfile(bundle / "manifest.json", resources / "manifest.json")
    write_text(folder / "Package.swift", PACKAGE.format(name=name))
    accessor = ACCESSOR.format(
        name=name,
        file=quoted_swift(f"Resources/{file}"),
        bundle=quoted_swift(manifest.name),
        version=quoted_swift(manifest.version),
        target=quoted_swift(model.target),
        scheme=quoted_swift(model.scheme),
        labels=rows(map(quoted_swift, manifest.labels)),
        inputs=rows(map(_tensor, model.inputs)),
        outputs=rows(map(_tensor, model.outputs)),
    )
    write_text(sources / f"{name}.swift", accessor)
    golden.mkdir(parents=True)
    inputs, outputs = [], []
    for number, tensor in enumerate(model.inputs):
        file = f"input_{number}.bin"
        _widen(bundle / model.golden.inputs[tensor.name], tensor, golden / file)
        shape = _sizes(bundle / model.golden.inputs[tensor.name], tensor, model.golden.count)
        given = f"{quoted_swift(tensor.name)}, [{shape}], {TYPES.get(tensor.dtype, '.int32')}"
        inputs.append(f'({given}, "{file}")')
    for number, tensor in enumerate(model.outputs):
        file, expected = f"output_{number}.bin", model.golden.outputs[tensor.name]
        _widen(bundle / expected.path, tensor, golden / file)
        outputs.append(f'({quoted_swift(tensor.name)}, "{file}", {expected.max_abs_error})')
    test = TESTS.format(
        name=name,
        count=model.golden.count,
        inputs=rows(inputs, "      "),
        outputs=rows(outputs, "      "),
    )
    write_text(tests / f"{name}Tests.swift", test)


def _widen(source: Path, tensor: Tensor, target: Path) -> None:
    """Write a golden vector as 64-bit floats, which represent all of Core ML's types."""
    values = struct.iter_unpack(f"<{CODES[tensor.dtype]}", source.read_bytes())
    target.write_bytes(b"".join(struct.pack("<d", *value) for value in values))


def _sizes(source: Path, tensor: Tensor, count: int) -> str:
    """The shape of one sample; a dynamic dimension has the golden vector's size."""
    known = math.prod(size for size in tensor.shape[1:] if size)
    length = source.stat().st_size // struct.calcsize(CODES[tensor.dtype]) // count
    return ", ".join(["1", *(str(size or length // known) for size in tensor.shape[1:])])


def _tensor(tensor: Tensor) -> str:
    shape = ", ".join("nil" if size is None else str(size) for size in tensor.shape)
    name, kind = quoted_swift(tensor.name), quoted_swift(tensor.dtype)
    layout, meaning = (
        "nil" if text is None else quoted_swift(text) for text in (tensor.layout, tensor.meaning)
    )
    return (
        f"Tensor(name: {name}, shape: [{shape}], type: {kind}, "
        f"layout: {layout}, meaning: {meaning})"
    )
