"""An Android archive (AAR) per model, in the layout of a Maven repository.

A Gradle build adds the folder `maven/` as a repository and depends on
`implementation("GROUP:NAME:VERSION")`. The archive holds the model as an asset, its labels, and a
Java 8 class with its names, shapes and digest.

Source: https://developer.android.com/studio/projects/android-library#aar-contents and
https://maven.apache.org/repository/layout.html
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from edgekd.bundles.android_test import write_golden_test
from edgekd.bundles.archive import files_under, write_zip
from edgekd.bundles.identifiers import camel, snake, titled
from edgekd.bundles.manifest import Manifest, Model, Tensor
from edgekd.bundles.quoting import quoted_java, xml_text
from edgekd.errors import ConversionError, Fault
from edgekd.system.files import write_text
from edgekd.system.process import run_process
from edgekd.system.scratch import scratch_folder

FORMATS: tuple[str, ...] = ("litert", "onnx")
MIN_SDK = 21
DIGESTS = ("md5", "sha1", "sha256", "sha512")


def missing_requirement() -> Fault | None:
    """Report a missing Java compiler, which compiles the generated class."""
    if shutil.which("javac"):
        return None
    return Fault(
        what="An Android bundle needs a Java compiler.",
        at="bundle.kinds: android",
        got="no javac program on PATH",
        expected="a JDK of 11 or later",
        fix="install one (Debian: apt install default-jdk-headless), or remove android from kinds",
    )


def pack(bundle: Path, manifest: Manifest, out: Path) -> None:
    """Write `maven/`, and the source of an instrumented test of the golden vectors.

    Raises:
        ConversionError: the generated class does not compile.
    """
    group = manifest.android.group
    assert group is not None
    for title, model in titled(manifest, FORMATS):
        package = f"{group}.{snake(title)}"
        folder = out / "maven" / Path(*group.split(".")) / title / manifest.version
        stem = f"{title}-{manifest.version}"
        source = _class(manifest, model, package, title)
        name = f"{package.replace('.', '/')}/{camel(title)}.java"
        folder.mkdir(parents=True)
        write_zip(folder / f"{stem}-sources.jar", {name: source.encode()})
        write_zip(
            folder / f"{stem}.aar",
            _archive(bundle, manifest, model, package, _compiled(name, source)),
            stored=(".tflite", ".onnx", ".data"),
        )
        write_text(folder / f"{stem}.pom", _pom(manifest, group, title))
        write_text(folder.parent / "maven-metadata.xml", _metadata(manifest, group, title))
        for entry in [*folder.iterdir(), folder.parent / "maven-metadata.xml"]:
            for digest in DIGESTS:
                sum_ = hashlib.new(digest, entry.read_bytes()).hexdigest()
                write_text(entry.with_name(f"{entry.name}.{digest}"), sum_)
        write_golden_test(
            bundle, model, package, camel(title), out / "instrumented-test" / snake(title)
        )


def asset(manifest: Manifest, model: Model) -> str:
    """The path of the model among the app's assets."""
    return f"{snake(manifest.name)}/{model.target}/{_within(model, model.entry)}"


def _within(model: Model, path: str) -> str:
    """`path` relative to the folder of the model's files."""
    return path.removeprefix(f"models/{model.target}/")


def _archive(
    bundle: Path, manifest: Manifest, model: Model, package: str, classes: dict[str, bytes]
) -> dict[str, bytes | Path]:
    with scratch_folder() as scratch:
        jar = scratch / "classes.jar"
        write_zip(jar, classes)
        contents: dict[str, bytes | Path] = {"classes.jar": jar.read_bytes()}
    folder = f"{snake(manifest.name)}/{model.target}"
    for file in model.files:
        contents[f"assets/{folder}/{_within(model, file.path)}"] = bundle / file.path
    contents[f"assets/{folder}/manifest.json"] = bundle / "manifest.json"
    if manifest.labels:
        contents[f"assets/{folder}/labels.txt"] = bundle / "labels.txt"
    contents["AndroidManifest.xml"] = (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<manifest xmlns:android="http://schemas.android.com/apk/res/android" '
        f'package="{package}">\n'
        f'  <uses-sdk android:minSdkVersion="{MIN_SDK}"/>\n</manifest>\n'
    ).encode()
    contents["R.txt"] = b""
    return contents


def _compiled(name: str, source: str) -> dict[str, bytes]:
    """The class files of `source`, by their path."""
    with scratch_folder("javac") as scratch:
        written, classes = scratch / "source" / name, scratch / "classes"
        write_text(written, source)
        classes.mkdir()
        # --release selects what Android runs; -g:none and -proc:none make the class repeatable.
        flags = ["--release", "8", "-Xlint:-options", "-g:none", "-proc:none", "-encoding", "UTF-8"]
        done = run_process(
            ["javac", *flags, "-d", str(classes), str(written)],
            timeout_s=300,
            env={"JAVA_TOOL_OPTIONS": "", "LC_ALL": "C.UTF-8"},
        )
        if done.code != 0:
            raise ConversionError(
                Fault(
                    what="The generated class does not compile.",
                    at=name,
                    got=done.last_lines,
                    expected="a JDK that compiles for Java 8",
                    fix="use a JDK from 11 to 25, which supports --release 8",
                )
            )
        return {path: entry.read_bytes() for path, entry in files_under(classes).items()}


CLASS = """\
package {package};

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;

/** A model exported by edgekd: its inputs, its outputs and the digest of its file. */
public final class {name} {{
  public static final String NAME = {bundle};
  public static final String VERSION = {version};
  public static final String TARGET = {target};
  public static final String FORMAT = {format};
  public static final String SCHEME = {scheme};
  /** The argument of AssetManager.open. */
  public static final String ASSET = {asset};
  public static final String SHA256 = {sha256};
  public static final long SIZE_BYTES = {size}L;

  private {name}() {{}}

{tensors}
  /** The labels, in the order of the outputs; empty if the recipe has no labels. */
  public static String[] labels() {{
    String all = String.join("", {labels});
    return all.isEmpty() ? new String[0] : all.split("\\n", -1);
  }}

  /**
   * The bytes of the model, for its runtime: new Interpreter(load(assets.open(ASSET))).
   *
   * @throws IOException the file cannot be read, or is not the one that was tested.
   */
  public static ByteBuffer load(InputStream stream) throws IOException {{
    ByteArrayOutputStream read = new ByteArrayOutputStream((int) SIZE_BYTES);
    byte[] chunk = new byte[65536];
    for (int count = stream.read(chunk); count >= 0; count = stream.read(chunk)) {{
      read.write(chunk, 0, count);
    }}
    stream.close();
    byte[] bytes = read.toByteArray();
    StringBuilder sha256 = new StringBuilder();
    try {{
      for (byte b : MessageDigest.getInstance("SHA-256").digest(bytes)) {{
        sha256.append(Character.forDigit((b >> 4) & 15, 16));
        sha256.append(Character.forDigit(b & 15, 16));
      }}
    }} catch (NoSuchAlgorithmException impossible) {{
      throw new IOException(impossible);
    }}
    if (!SHA256.contentEquals(sha256)) {{
      throw new IOException(ASSET + " has sha256 " + sha256 + ", not " + SHA256);
    }}
    ByteBuffer buffer = ByteBuffer.allocateDirect(bytes.length).order(ByteOrder.nativeOrder());
    buffer.put(bytes);
    buffer.rewind();
    return buffer;
  }}
}}
"""

TENSORS = """\
  /** Names of the {role}s, in order. */
  public static String[] {role}Names() {{
    return new String[] {{{names}}};
  }}

  /** Their shapes, batch first; -1 for a dynamic dimension. */
  public static int[][] {role}Shapes() {{
    return new int[][] {{{shapes}}};
  }}

  /** Their numpy dtypes. */
  public static String[] {role}Types() {{
    return new String[] {{{types}}};
  }}

  /** Their axes, such as batch height width channels; empty if they are unknown. */
  public static String[] {role}Layouts() {{
    return new String[] {{{layouts}}};
  }}

  /** value = scale * (number - zeroPoint); 1 if they are not quantized. */
  public static float[] {role}Scales() {{
    return new float[] {{{scales}}};
  }}

  /** Their zero points; 0 if they are not quantized. */
  public static int[] {role}ZeroPoints() {{
    return new int[] {{{zeros}}};
  }}
"""

CHUNK = 8000
"""Characters per string constant; a class file allows 65,535 bytes."""


def _class(manifest: Manifest, model: Model, package: str, title: str) -> str:
    labels = "\n".join(manifest.labels)
    chunks = [labels[i : i + CHUNK] for i in range(0, len(labels), CHUNK)] or [""]
    return CLASS.format(
        package=package,
        name=camel(title),
        bundle=quoted_java(manifest.name),
        version=quoted_java(manifest.version),
        target=quoted_java(model.target),
        format=quoted_java(model.format),
        scheme=quoted_java(model.scheme),
        asset=quoted_java(asset(manifest, model)),
        sha256=quoted_java(model.entry_file.sha256),
        size=model.entry_file.size_bytes,
        labels=", ".join(map(quoted_java, chunks)),
        tensors=_tensors("input", model.inputs) + "\n" + _tensors("output", model.outputs),
    )


def _tensors(role: str, tensors: list[Tensor]) -> str:
    shapes = [", ".join(str(-1 if n is None else n) for n in tensor.shape) for tensor in tensors]
    parameters = [tensor.quantization for tensor in tensors]
    return TENSORS.format(
        role=role,
        names=", ".join(quoted_java(tensor.name) for tensor in tensors),
        shapes=", ".join(f"{{{shape}}}" for shape in shapes),
        types=", ".join(quoted_java(tensor.dtype) for tensor in tensors),
        layouts=", ".join(quoted_java(tensor.layout or "") for tensor in tensors),
        scales=", ".join(f"{entry.scale!r}f" if entry else "1f" for entry in parameters),
        zeros=", ".join(str(entry.zero_point if entry else 0) for entry in parameters),
    )


def _pom(manifest: Manifest, group: str, title: str) -> str:
    licence = manifest.licences.model
    licences = (
        f"  <licenses><license><name>{xml_text(licence)}</name></license></licenses>\n"
        if licence
        else ""
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<project xmlns="http://maven.apache.org/POM/4.0.0">\n'
        "  <modelVersion>4.0.0</modelVersion>\n"
        f"  <groupId>{xml_text(group)}</groupId>\n  <artifactId>{xml_text(title)}</artifactId>\n"
        f"  <version>{manifest.version}</version>\n  <packaging>aar</packaging>\n"
        f"  <name>{xml_text(title)}</name>\n"
        f"  <description>{xml_text(manifest.description)}</description>\n{licences}</project>\n"
    )


def _metadata(manifest: Manifest, group: str, title: str) -> str:
    version = manifest.version
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<metadata>\n'
        f"  <groupId>{xml_text(group)}</groupId>\n  <artifactId>{xml_text(title)}</artifactId>\n"
        f"  <versioning>\n    <latest>{version}</latest>\n    <release>{version}</release>\n"
        f"    <versions><version>{version}</version></versions>\n  </versioning>\n</metadata>\n"
    )
