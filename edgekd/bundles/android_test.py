"""The Java source of an Android instrumented test of a model's golden vectors.

Source: https://ai.google.dev/edge/litert/android and
https://onnxruntime.ai/docs/api/java/ai/onnxruntime/package-summary.html
"""

from __future__ import annotations

import shutil
from pathlib import Path

from edgekd.bundles.manifest import Model
from edgekd.bundles.quoting import quoted_java
from edgekd.system.files import write_text

TEST = """\
package {package};

import static org.junit.Assert.assertEquals;

import androidx.test.platform.app.InstrumentationRegistry;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.HashMap;
import java.util.Map;
import org.junit.Test;
{imports}

/** Runs the golden vectors on the phone; put java/ and assets/ under src/androidTest. */
public final class {name}GoldenTest {{
  private static final int COUNT = {count};

  private static ByteBuffer golden(String file, int sample) throws IOException {{
    ByteArrayOutputStream all = new ByteArrayOutputStream();
    try (InputStream stream =
        InstrumentationRegistry.getInstrumentation().getContext().getAssets().open(file)) {{
      byte[] chunk = new byte[65536];
      for (int count = stream.read(chunk); count >= 0; count = stream.read(chunk)) {{
        all.write(chunk, 0, count);
      }}
    }}
    int size = all.size() / COUNT;
    ByteBuffer buffer = ByteBuffer.allocateDirect(size).order(ByteOrder.LITTLE_ENDIAN);
    buffer.put(all.toByteArray(), sample * size, size);
    buffer.rewind();
    return buffer;
  }}

  private static double value(ByteBuffer from, String type) {{
    switch (type) {{
      case "float32":
        return from.getFloat();
      case "float64":
        return from.getDouble();
      case "int64":
        return from.getLong();
      case "int32":
        return from.getInt();
      case "int16":
        return from.getShort();
      case "uint8":
        return from.get() & 255;
      default:
        return from.get();
    }}
  }}

  @Test
  public void everyOutputIsWhatItWasWhenBundled() throws Exception {{
    String[] files = {{{files}}};
    double[] tolerances = {{{tolerances}}};
    String[] outputs = {name}.outputNames();
    String[] types = {name}.outputTypes();
    ByteBuffer model =
        {name}.load(
            InstrumentationRegistry.getInstrumentation()
                .getTargetContext()
                .getAssets()
                .open({name}.ASSET));
{load}
    for (int sample = 0; sample < COUNT; sample++) {{
{run}
      for (int i = 0; i < outputs.length; i++) {{
        ByteBuffer expected = golden(files[i], sample);
        ByteBuffer got = results.get(outputs[i]).order(ByteOrder.LITTLE_ENDIAN);
        got.rewind();
        assertEquals(expected.capacity(), got.capacity());
        while (expected.hasRemaining()) {{
          assertEquals(value(expected, types[i]), value(got, types[i]), tolerances[i]);
        }}
      }}
    }}
  }}
}}
"""

LITERT = (
    "import org.tensorflow.lite.Interpreter;",
    "    Interpreter interpreter = new Interpreter(model);",
    """\
      Map<String, Object> inputs = new HashMap<>();
{inputs}
      Map<String, ByteBuffer> results = new HashMap<>();
      for (int i = 0; i < outputs.length; i++) {{
        results.put(outputs[i], ByteBuffer.allocateDirect(golden(files[i], sample).capacity()));
      }}
      interpreter.runSignature(inputs, new HashMap<String, Object>(results));""",
    "      inputs.put({name}, golden({file}, sample));",
)

ONNX = (
    """\
import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtSession;""",
    """\
    byte[] bytes = new byte[model.remaining()];
    model.get(bytes);
    OrtEnvironment environment = OrtEnvironment.getEnvironment();
    OrtSession session = environment.createSession(bytes);""",
    """\
      Map<String, OnnxTensor> inputs = new HashMap<>();
{inputs}
      Map<String, ByteBuffer> results = new HashMap<>();
      OrtSession.Result result = session.run(inputs);
      for (String output : outputs) {{
        results.put(output, ((OnnxTensor) result.get(output).get()).getByteBuffer());
      }}""",
    """\
      inputs.put(
          {name},
          OnnxTensor.createTensor(
              environment,
              golden({file}, sample),
              new long[] {{{shape}}},
              OnnxJavaType.{type}));""",
)

JAVA = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "float32": "FLOAT",
    "float64": "DOUBLE",
}
"""ONNX Runtime's Java names for the types that Java has, exactly or nearly."""


FORMATS = {"litert": LITERT, "onnx": ONNX}
"""By format, the Java code that imports, loads, runs and fills in its runtime."""


def write_golden_test(bundle: Path, model: Model, package: str, name: str, out: Path) -> None:
    """Write the test of the class `name`, and the files that it reads, into `out`.

    Nothing is written for a model with types that Java lacks, with several files, or with dynamic
    dimensions.
    """
    tensors = (*model.inputs, *model.outputs)
    if (
        any(tensor.dtype not in JAVA or None in tensor.shape[1:] for tensor in tensors)
        or any(tensor.shape[:1] not in ([1], [None]) for tensor in tensors)
        or len(model.files) > 1
    ):
        return
    golden, assets = model.golden, out / "assets"
    assets.mkdir(parents=True)
    imports, load, run, put = FORMATS[model.format]
    inputs, outputs = [], []
    for number, tensor in enumerate(model.inputs):
        file = f"input_{number}.bin"
        shutil.copyfile(bundle / golden.inputs[tensor.name], assets / file)
        shape = ", ".join(str(size or 1) for size in tensor.shape)
        inputs.append(
            put.format(
                name=quoted_java(tensor.name),
                file=quoted_java(file),
                shape=shape,
                type=JAVA[tensor.dtype],
            )
        )
    for number, tensor in enumerate(model.outputs):
        outputs.append(f"output_{number}.bin")
        shutil.copyfile(bundle / golden.outputs[tensor.name].path, assets / outputs[-1])
    source = TEST.format(
        package=package,
        name=name,
        count=golden.count,
        imports=imports,
        files=", ".join(map(quoted_java, outputs)),
        tolerances=", ".join(
            repr(golden.outputs[tensor.name].max_abs_error) for tensor in model.outputs
        ),
        load=load,
        run=run.format(inputs="\n".join(inputs)),
    )
    write_text(out / "java" / package.replace(".", "/") / f"{name}GoldenTest.java", source)
