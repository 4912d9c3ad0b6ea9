"""A Swift package with the model as a resource, an accessor, and a test of the golden vectors.

Source: https://developer.apple.com/documentation/xcode/bundling-resources-with-a-swift-package
"""

from __future__ import annotations

import shutil
from pathlib import Path

from edgekd.bundles.archive import files_under, write_zip
from edgekd.bundles.identifiers import camel, rows, swift_quoted, titled
from edgekd.bundles.manifest import Manifest, Model, Tensor
from edgekd.errors import Fault
from edgekd.store import path_digest, write_json, write_text

FORMATS: tuple[str, ...] = ("coreml",)


def lacks() -> Fault | None:
    """Nothing is needed."""
    return None


def pack(bundle: Path, manifest: Manifest, out: Path) -> None:
    """Writes a package per model, and the same as an archive with its checksum.

    The checksum is the archive's sha256, which is what `swift package compute-checksum` gives.
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
  platforms: [.iOS(.v15), .macOS(.v12)],
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

/// A model made by edgekd; what it takes and gives, and how it is loaded.
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

  /// One input or output: its shape, batch first, and its type as numpy names it.
  public struct Tensor {{
    public let name: String
    public let shape: [Int?]
    public let type: String
  }}

  /// Where the model lies in this package.
  public static var url: URL {{
    Bundle.module.url(forResource: "Resources/{file}", withExtension: nil)!
  }}

  /// The model, compiled on first use; keep it.
  public static func load(configuration: MLModelConfiguration = .init()) throws -> MLModel {{
    try MLModel(contentsOf: MLModel.compileModel(at: url), configuration: configuration)
  }}
}}
"""

TESTS = """\
import CoreML
import XCTest

@testable import {name}

/// Runs the golden vectors: what the model gave when it was bundled, it must give here.
final class {name}Tests: XCTestCase {{
  func golden(_ file: String) throws -> [Float] {{
    let url = Bundle.module.url(forResource: "Golden/\\(file)", withExtension: nil)!
    return try Data(contentsOf: url).withUnsafeBytes {{ Array($0.bindMemory(to: Float.self)) }}
  }}

  func testEveryOutputIsWhatItWasWhenBundled() throws {{
    let model = try {name}.load()
    let inputs: [(String, [NSNumber], String)] = [
{inputs}
    ]
    let outputs: [(String, String, Float)] = [
{outputs}
    ]
    for sample in 0..<{count} {{
      var given: [String: MLFeatureValue] = [:]
      for (name, shape, file) in inputs {{
        let all = try golden(file)
        let size = all.count / {count}
        let array = try MLMultiArray(shape: shape, dataType: .float32)
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
          XCTAssertEqual(array[i].floatValue, all[sample * size + i], accuracy: tolerance)
        }}
      }}
    }}
  }}
}}
"""


def _write_package(bundle: Path, manifest: Manifest, model: Model, name: str, folder: Path) -> None:
    sources, tests = folder / "Sources" / name, folder / "Tests" / f"{name}Tests"
    resources, golden = sources / "Resources", tests / "Golden"
    file = model.entry.rpartition("/")[2]
    shutil.copytree(bundle / model.entry, resources / file)
    shutil.copyfile(bundle / "manifest.json", resources / "manifest.json")
    write_text(folder / "Package.swift", PACKAGE.format(name=name))
    accessor = ACCESSOR.format(
        name=name,
        file=file,
        bundle=swift_quoted(manifest.name),
        version=swift_quoted(manifest.version),
        target=swift_quoted(model.target),
        scheme=swift_quoted(model.scheme),
        labels=rows(map(swift_quoted, manifest.labels)),
        inputs=rows(map(_tensor, model.inputs)),
        outputs=rows(map(_tensor, model.outputs)),
    )
    write_text(sources / f"{name}.swift", accessor)
    golden.mkdir(parents=True)
    inputs, outputs = [], []
    for number, tensor in enumerate(model.inputs):
        shutil.copyfile(bundle / model.golden.inputs[tensor.name], golden / f"input_{number}.bin")
        shape = ", ".join(str(size or 1) for size in tensor.shape)
        inputs.append(f'({swift_quoted(tensor.name)}, [{shape}], "input_{number}.bin")')
    for number, (output, expected) in enumerate(model.golden.outputs.items()):
        shutil.copyfile(bundle / expected.path, golden / f"output_{number}.bin")
        outputs.append(f'({swift_quoted(output)}, "output_{number}.bin", {expected.max_abs_error})')
    if all(tensor.dtype == "float32" for tensor in (*model.inputs, *model.outputs)):
        test = TESTS.format(
            name=name,
            count=model.golden.count,
            inputs=rows(inputs, "      "),
            outputs=rows(outputs, "      "),
        )
        write_text(tests / f"{name}Tests.swift", test)
    else:
        write_text(tests / f"{name}Tests.swift", _loads(name))


def _loads(name: str) -> str:
    """A test that only loads: Core ML reads whole numbers as Int32, golden vectors are int64."""
    return (
        f"import XCTest\n\n@testable import {name}\n\nfinal class {name}Tests: XCTestCase {{\n"
        f"  func testItLoads() throws {{\n    _ = try {name}.load()\n  }}\n}}\n"
    )


def _tensor(tensor: Tensor) -> str:
    shape = ", ".join("nil" if size is None else str(size) for size in tensor.shape)
    name, kind = swift_quoted(tensor.name), swift_quoted(tensor.dtype)
    return f"Tensor(name: {name}, shape: [{shape}], type: {kind})"
