"""The program that runs artifacts where they are: on this host, or sent to a board as it is.

Standard library, numpy and one runtime; Python 3.8 and later. It reads a job, runs or times the
artifacts it names, and writes a report, all in one folder:

    python agent.py FOLDER      FOLDER/job.json -> FOLDER/report.json, FOLDER/outputs-NAME.npz

The monotonic clock is read around one inference: from input tensors that are in place to output
tensors that are there, as benchmark_model and benchmark_app do it. Python's part of it is the one
call into the runtime.
"""

import json
import os
import platform
import random
import sys
import time
import traceback
from pathlib import Path

VERSION = 1


class Unavailable(Exception):
    """This machine has no runtime for the artifact."""


class OnnxRuntime:
    """An ONNX file in ONNX Runtime's CPU execution provider."""

    def __init__(self, path, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        wanted = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(path, options, providers=wanted)
        self.inputs = [(i.name, i.shape, i.type[7:-1]) for i in self.session.get_inputs()]
        self.outputs = [entry.name for entry in self.session.get_outputs()]
        providers = self.session.get_providers()
        self.facts = {
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "providers": providers,
        }
        missing = [name for name in wanted if name not in providers]
        self.fell_back = "%s is not used" % missing[0] if missing else None

        self.binding = self.session.io_binding()
        for name in self.outputs:
            self.binding.bind_output(name)

    def put(self, feed):
        for name, value in feed.items():
            self.binding.bind_cpu_input(name, value)

    def invoke(self):
        self.session.run_with_iobinding(self.binding)

    def take(self):
        return self.binding.copy_outputs_to_cpu()


class OpenVino:
    """An OpenVINO model on the CPU plugin: in float32, or in bf16 where the file is made for it."""

    def __init__(self, path, threads):
        import openvino

        core, place = openvino.Core(), ["edgekd", "precision"]
        model = core.read_model(path)
        asked = str(model.get_rt_info(place).value) if model.has_rt_info(place) else "f32"
        config = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Without it the plugin quietly computes in bf16 or fp16 where the CPU can.
            "INFERENCE_PRECISION_HINT": asked,
        }
        compiled = core.compile_model(model, "CPU", config)
        self.request = compiled.create_infer_request()
        self.inputs = [
            (entry.get_any_name(), _static(entry.partial_shape), entry.element_type.to_dtype().name)
            for entry in compiled.inputs
        ]
        self.outputs = [entry.get_any_name() for entry in compiled.outputs]
        self.free = {name for name, shape, _ in self.inputs if None in shape}
        self.tensor = openvino.Tensor
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.facts = {
            "runtime": "openvino",
            "version": openvino.__version__.split("-")[0],
            "precision": precision,
            "devices": [str(name) for name in compiled.get_property("EXECUTION_DEVICES")],
        }
        self.fell_back = None if precision == asked else "computed in " + precision

    def put(self, feed):
        for name, value in feed.items():
            if name in self.free:
                self.request.set_tensor(name, self.tensor(value))
            else:
                self.request.get_tensor(name).data[...] = value

    def invoke(self):
        self.request.infer(share_outputs=True)

    def take(self):
        return [tensor.data.copy() for tensor in self.request.output_tensors]


class LiteRt:
    """A TFLite file in LiteRT's interpreter, by XNNPACK where it takes the operators."""

    def __init__(self, path, threads):
        from ai_edge_litert import interpreter

        self.interpreter = interpreter.Interpreter(model_path=path, num_threads=threads)
        self.interpreter.allocate_tensors()
        runner = self.interpreter.get_signature_runner()
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        del runner  # The interpreter refuses to run while a runner refers to its tensors.
        self.inputs = [
            (name, [int(size) for size in entry["shape"]], entry["dtype"].__name__)
            for name, entry in inputs.items()
        ]
        self.outputs = list(outputs)
        self.places = {name: entry["index"] for name, entry in inputs.items()}
        self.output_places = [outputs[name]["index"] for name in self.outputs]
        operators = [entry["op_name"] for entry in self.interpreter._get_ops_details()]
        self.facts = {
            "runtime": "litert",
            "version": _version("ai-edge-litert"),
            "operators": len(operators) - operators.count("DELEGATE"),
            "delegate": "XNNPACK" if "DELEGATE" in operators else None,
        }
        self.fell_back = None

        self.invoke = self.interpreter.invoke

    def put(self, feed):
        for name, value in feed.items():
            self.interpreter.set_tensor(self.places[name], value)

    def take(self):
        return [self.interpreter.get_tensor(place) for place in self.output_places]


class CoreMl:
    """A Core ML program on all compute units that the system gives it; on Apple's systems alone."""

    def __init__(self, path, threads):
        if platform.system() != "Darwin":
            raise Unavailable("Core ML has no runtime on %s" % platform.system())
        import coremltools

        self.model = coremltools.models.MLModel(path)
        description = self.model.get_spec().description
        kinds = {65552: "float16", 65568: "float32", 65600: "float64", 131104: "int32"}
        self.inputs = [
            (
                entry.name,
                list(entry.type.multiArrayType.shape),
                kinds[entry.type.multiArrayType.dataType],
            )
            for entry in description.input
        ]
        self.outputs = [entry.name for entry in description.output]
        self.facts = {"runtime": "coreml", "version": coremltools.__version__}
        self.facts["system"] = platform.mac_ver()[0]
        self.fell_back = None

    def put(self, feed):
        self.feed = feed

    def invoke(self):
        self.found = self.model.predict(self.feed)

    def take(self):
        return [self.found[name] for name in self.outputs]


class Ncnn:
    """An ncnn network on the CPU; in float16 only if its weights are, which is ARM's default."""

    def __init__(self, path, threads):
        import ncnn
        import numpy

        weights = Path(path).with_suffix(".bin")
        half = b"\x47\x6b\x30\x01" in weights.read_bytes()  # The tag before weights in float16.
        self.array, self.mat = numpy.array, ncnn.Mat
        self.net = ncnn.Net()
        self.net.opt.num_threads = threads
        for name in dir(self.net.opt) if not half else ():
            if name.startswith(("use_fp16_", "use_bf16_")):
                setattr(self.net.opt, name, False)
        if self.net.load_param(path) or self.net.load_model(str(weights)):
            raise ValueError("ncnn does not take the file: %s" % self._unknown(path))
        lines = [line.split() for line in Path(path).read_text().splitlines()[2:]]
        self.inputs = [self._input(line) for line in lines if line[0] == "Input"]
        # Numbers are tensors that nobody named.
        self.outputs = [name for name in self.net.output_names() if not name.isdigit()]
        self.facts = {
            "runtime": "ncnn",
            "version": ncnn.__version__,
            "precision": "float16 where the processor has it" if half else "float32",
            "operators": len(lines) - len(self.inputs),
        }
        self.fell_back = None

    @staticmethod
    def _unknown(path):
        kinds = {line.split()[0] for line in Path(path).read_text().splitlines()[2:]}
        return ", ".join(sorted(kind for kind in kinds if "." in kind)) or "see its log"

    @staticmethod
    def _input(line):
        values = dict(word.split("=") for word in line[5:])
        sizes = [int(values[key]) for key in ("2", "11", "1", "0") if key in values]
        return line[4], [1, *sizes], "int32" if values.get("29") == "1" else "float32"

    def put(self, feed):
        # A tensor has no batch; a copy has the alignment that kernels want.
        self.feed = [
            (name, self.mat(value[0] if value.ndim > 1 else value).clone())
            for name, value in feed.items()
        ]

    def invoke(self):
        extractor = self.net.create_extractor()
        for name, value in self.feed:
            extractor.input(name, value)
        self.found = [extractor.extract(name)[1] for name in self.outputs]

    def take(self):
        return [self.array(value)[None] for value in self.found]


RUNTIMES = {
    "ncnn": Ncnn,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "litert": LiteRt,
    "coreml": CoreMl,
}


def run(job, folder):
    """The outputs of every artifact for all samples of the inputs, written beside the job."""
    import numpy

    results = {}
    samples = read_samples(job, folder)
    for entry in job["artifacts"]:
        model, result = load(job, folder, entry)
        results[entry["name"]] = result
        if model is None:
            continue
        try:
            collected = []
            for feed in feeds(model, samples, entry):
                model.put(feed)
                model.invoke()
                collected.append(model.take())
            arrays = {
                name: numpy.concatenate([outputs[i] for outputs in collected])
                for i, name in enumerate(model.outputs)
            }
        except Exception:  # Whatever the runtime raises is the result.
            result["failure"] = failure("run-failed")
            continue
        numpy.savez(folder / ("outputs-%s.npz" % entry["name"]), **arrays)
        del model
    return results


def time_all(job, folder):
    """The latencies of every artifact, their blocks interleaved in random order."""
    results, models = {}, {}
    samples = read_samples(job, folder)
    for entry in job["artifacts"]:
        name = entry["name"]
        model, results[name] = load(job, folder, entry)
        if model is None:
            continue
        try:
            ring = Ring(feeds(model, samples, entry))
            results[name]["first_ns"] = timed(model, ring)
            results[name]["warm_up_count"] = warm_up(model, ring, job)
            results[name]["blocks_ns"] = []
            models[name] = (model, ring)
        except Exception:  # Whatever the runtime raises is the result.
            results[name]["failure"] = failure("run-failed")
    dice = random.Random(job["seed"])
    blocks = 0
    spent = dict.fromkeys(models, 0)
    while (
        models
        and max(spent.values()) < job["limit_s"] * 1e9
        and (blocks * job["block"] < job["runs"] or min(spent.values()) < job["seconds"] * 1e9)
    ):
        for name in dice.sample(sorted(models), len(models)):
            model, ring = models[name]
            timed(model, ring)  # Not kept: it fills the caches that the other artifacts emptied.
            block = [timed(model, ring) for _ in range(job["block"])]
            results[name]["blocks_ns"].append(block)
            spent[name] += sum(block)
        blocks += 1
    return results


def timed(model, ring):
    """The time of one inference on the next sample, in ns."""
    model.put(ring.next())
    start = time.perf_counter_ns()
    model.invoke()
    return time.perf_counter_ns() - start


def warm_up(model, ring, job):
    """The number of runs after which the medians of two blocks of ten agreed within 2 %."""
    count, last, begin = 0, None, time.perf_counter()
    while True:
        block = [timed(model, ring) for _ in range(10)]
        count += 10
        median = sorted(block)[5]
        spent = time.perf_counter() - begin
        settled = last is not None and abs(median - last) <= 0.02 * last
        if (settled and spent >= job["warm_up_s"]) or spent >= job["warm_up_limit_s"]:
            return count
        last = median


class Ring:
    """The samples, over and over."""

    def __init__(self, items):
        self.items, self.at = items, -1

    def next(self):
        self.at = (self.at + 1) % len(self.items)
        return self.items[self.at]


def load(job, folder, entry):
    """The loaded artifact, or None, and the beginning of its result."""
    path = str(folder / entry["path"])
    try:
        start = time.perf_counter_ns()
        model = RUNTIMES[job["runtime"]](path, job["threads"])
        init = time.perf_counter_ns() - start
    except Unavailable as error:
        return None, {"failure": {"outcome": "unavailable", "detail": str(error)}}
    except ImportError as error:
        detail = "%s is not installed there: %s" % (job["runtime"], error)
        return None, {"failure": {"outcome": "unavailable", "detail": detail}}
    except Exception:  # Whatever the runtime raises is the result.
        return None, {"failure": failure("load-failed")}
    result = {"init_ns": init, "facts": model.facts, "failure": None}
    result["inputs"] = [[name, list(shape), dtype] for name, shape, dtype in model.inputs]
    result["outputs"] = list(model.outputs)
    if model.fell_back:
        result["failure"] = {"outcome": "fell-back", "detail": model.fell_back}
    return model, result


def failure(outcome):
    lines = traceback.format_exc().strip().splitlines()
    return {"outcome": outcome, "detail": lines[-1][:500]}


def read_samples(job, folder):
    """The input arrays by name, samples first, or None where the job brings none."""
    import numpy

    if not job["inputs"]:
        return None
    with numpy.load(folder / job["inputs"], allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def feeds(model, samples, entry):
    """One feed an inference: the artifact's own batch size at a time, named as it names them."""
    import numpy

    if samples is None:
        dice = numpy.random.default_rng(0)
        return [
            {
                # Zeros where the values may be indices, which must not be out of range.
                name: dice.standard_normal([_size(size) for size in shape]).astype(_dtype(dtype))
                if _dtype(dtype).kind == "f"
                else numpy.zeros([_size(size) for size in shape], _dtype(dtype))
                for name, shape, dtype in model.inputs
            }
        ]
    known = {name: (shape, _dtype(dtype)) for name, shape, dtype in model.inputs}
    if set(known) != set(samples):
        raise ValueError(
            "%s takes the inputs %s, not %s" % (entry["name"], sorted(known), sorted(samples))
        )
    for name in entry.get("channels_last", ()):
        samples = dict(samples, **{name: numpy.moveaxis(samples[name], 1, -1)})
    batch = entry.get("batch", 1)
    count = len(next(iter(samples.values())))
    if count % batch:
        raise ValueError("%d samples do not fill batches of %d" % (count, batch))
    return [
        {
            name: numpy.ascontiguousarray(values[i : i + batch].astype(known[name][1], copy=False))
            for name, values in samples.items()
        }
        for i in range(0, count, batch)
    ]


def _dtype(name):
    import numpy

    return numpy.dtype({"float": "float32", "double": "float64"}.get(name, name))


def _size(size):
    return size if isinstance(size, int) and size > 0 else 1


def _static(shape):
    return [size.get_length() if size.is_static else None for size in shape]


def _version(package):
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def device_facts():
    """What this machine is."""
    info = _read("/proc/cpuinfo") or ""
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in info.splitlines() if ":" in line
    )
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    wanted = ("avx2", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
    return {
        "machine": platform.machine(),
        "processor": fields.get("model name") or fields.get("Hardware") or platform.processor(),
        "cpu_count": os.cpu_count(),
        "instructions": [flag for flag in wanted if flag in flags],
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    }


def device_state():
    """What changes while a measurement goes on; None where the system does not tell."""
    heat = _read("/sys/class/thermal/thermal_zone0/temp")
    clock = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    return {
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "temperature_celsius": int(heat) / 1000 if heat else None,
        "clock_khz": int(clock) if clock else None,
    }


def peak_memory_bytes():
    """The most memory this process has held, or None where the system does not tell."""
    for line in (_read("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _read(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def main(folder):
    folder = Path(folder)
    job = json.loads((folder / "job.json").read_text())
    if job["version"] != VERSION:
        raise SystemExit(
            "agent version %d cannot do a job of version %s" % (VERSION, job["version"])
        )
    before = device_state()
    results = {"run": run, "time": time_all}[job["action"]](job, folder)
    report = {
        "version": VERSION,
        "results": results,
        "peak_memory_bytes": peak_memory_bytes(),
        "device": dict(device_facts(), before=before, after=device_state()),
    }
    draft = folder / "report.json.part"
    draft.write_text(json.dumps(report))
    draft.replace(folder / "report.json")


if __name__ == "__main__":
    main(sys.argv[1])
