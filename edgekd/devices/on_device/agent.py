"""Run or time artifacts on a device: on this host, or on a board that this file is sent to.

Needs the standard library, numpy and one runtime; Python 3.8 and later. It reads a job, runs or
times the artifacts it names, and writes a report, all in one folder:

    python agent.py FOLDER      FOLDER/job.json -> FOLDER/report.json, FOLDER/outputs-NAME.npz

Latency is the monotonic time of one inference, from input tensors in place to output tensors ready,
as in benchmark_model and benchmark_app. Python's share is the one call into the runtime. Meanwhile
a separate process reads the device's sensors once a second; their text is sent back unchanged.
"""

import hashlib
import importlib
import importlib.util
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

VERSION = 3

# No usage reports: onnxruntime has a switch, openvino a package that it can do without.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)


class Unavailable(Exception):
    """This machine has no runtime for the artifact."""


class OnnxRuntime:
    """An ONNX file in ONNX Runtime, with the requested execution providers before the CPU's."""

    packages = ("onnxruntime",)

    def __init__(self, onnxruntime, path, job):
        self.wanted = list(job.get("providers") or ())
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = job["threads"]
        self.options.inter_op_num_threads = 1
        self.options.log_severity_level = 3
        self.package, self.path = onnxruntime, path
        self.session = self._session()
        self.inputs = [(i.name, i.shape, i.type[7:-1]) for i in self.session.get_inputs()]
        self.outputs = [entry.name for entry in self.session.get_outputs()]
        self.facts = {
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "providers": self.session.get_providers(),
        }
        self.fell_back = None

        self.binding = self.session.io_binding()
        for name in self.outputs:
            self.binding.bind_output(name)

    def _session(self):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `profile` finds out what it warns about.
            providers = [*self.wanted, "CPUExecutionProvider"]
            return self.package.InferenceSession(self.path, self.options, providers=providers)

    def inspect(self, feed):
        """Count the nodes that each provider took, by profiling one run in another session."""
        if not self.wanted:
            return
        self.options.enable_profiling = True
        self.options.profile_file_prefix = self.path + ".profile"
        session = self._session()
        session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
        nodes = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                provider = event["args"]["provider"]
                nodes[provider] = nodes.get(provider, 0) + 1
        self.facts["nodes"] = nodes
        if not any(nodes.get(name) for name in self.wanted):
            count = sum(nodes.values())
            self.fell_back = "%s took none of its %d nodes" % (" and ".join(self.wanted), count)

    def put(self, feed):
        for name, value in feed.items():
            self.binding.bind_cpu_input(name, value)

    def invoke(self):
        self.session.run_with_iobinding(self.binding)

    def take(self):
        return self.binding.copy_outputs_to_cpu()


class OpenVino:
    """An OpenVINO model on the CPU plugin, in the file's precision: float32 or bf16."""

    packages = ("openvino",)

    def __init__(self, openvino, path, job):
        core, key = openvino.Core(), ["edgekd", "precision"]
        model = core.read_model(path)
        wanted = str(model.get_rt_info(key).value) if model.has_rt_info(key) else "f32"
        config = {
            "INFERENCE_NUM_THREADS": job["threads"],
            "PERFORMANCE_HINT": "LATENCY",
            # By default the plugin silently computes in bf16 or fp16 if the CPU supports it.
            "INFERENCE_PRECISION_HINT": wanted,
        }
        compiled = core.compile_model(model, "CPU", config)
        self.request = compiled.create_infer_request()
        self.inputs = [
            (entry.get_any_name(), _static(entry.partial_shape), entry.element_type.to_dtype().name)
            for entry in compiled.inputs
        ]
        self.outputs = [entry.get_any_name() for entry in compiled.outputs]
        self.dynamic = {name for name, shape, _ in self.inputs if None in shape}
        self.tensor = openvino.Tensor
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.facts = {
            "runtime": "openvino",
            "version": openvino.__version__.split("-")[0],
            "precision": precision,
            "default_precision": core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string(),
            "devices": [str(name) for name in compiled.get_property("EXECUTION_DEVICES")],
        }
        self.compiled = compiled
        fallback = "computed in %s, not %s" % (precision, wanted)
        self.fell_back = None if precision == wanted else fallback

    def inspect(self, feed):
        """Count the nodes that are computed in each precision."""
        nodes = {}
        try:
            for node in self.compiled.get_runtime_model().get_ops():
                if node.rt_info["layerType"].astype(str) not in ("Const", "Input", "Output"):
                    precision = node.rt_info["runtimePrecision"].astype(str)
                    nodes[precision] = nodes.get(precision, 0) + 1
        except (AttributeError, KeyError, RuntimeError):  # Older versions report it otherwise.
            nodes = None
        self.facts["nodes"] = nodes

    def put(self, feed):
        for name, value in feed.items():
            if name in self.dynamic:
                self.request.set_tensor(name, self.tensor(value))
            else:
                self.request.get_tensor(name).data[...] = value

    def invoke(self):
        self.request.infer(share_outputs=True)

    def take(self):
        return [tensor.data.copy() for tensor in self.request.output_tensors]


class LiteRt:
    """A TFLite file in LiteRT's interpreter, with XNNPACK for the operators that it takes."""

    packages = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")
    # XNNPACK has kernels for these.
    delegable = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")

    def __init__(self, interpreter, path, job):
        self.interpreter = interpreter.Interpreter(model_path=path, num_threads=job["threads"])
        self.interpreter.allocate_tensors()
        runner = self.interpreter.get_signature_runner()
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        del runner  # The interpreter refuses to run while a runner refers to its tensors.
        self.inputs = [
            (name, [int(size) for size in entry["shape"]], entry["dtype"].__name__)
            for name, entry in inputs.items()
        ]
        self.outputs = list(outputs)
        self.indices = {name: entry["index"] for name, entry in inputs.items()}
        self.output_indices = [outputs[name]["index"] for name in self.outputs]
        operators, delegated, parts = self._partitions()
        package = interpreter.__name__.partition(".")[0].replace("_", "-")
        self.facts = {
            "runtime": "litert",
            "version": _version(package),
            "package": package,
            "operators": len(operators),
            "delegate": "XNNPACK" if parts else None,
            "delegated": delegated,
            "partitions": parts,
        }
        missed = [name for name in self.delegable if name in operators and not parts]
        self.fell_back = None
        if missed:
            fallback = "XNNPACK, which has %s, took none of its %d operators"
            self.fell_back = fallback % (missed[0], len(operators))

        self.invoke = self.interpreter.invoke

    def _partitions(self):
        """The operators' names, the number that delegates took, and the number of partitions.

        A delegate took the operators between its inputs and outputs.
        """
        entries = self.interpreter._get_ops_details()
        own = [entry for entry in entries if entry["op_name"] != "DELEGATE"]
        producers = {int(tensor): i for i, entry in enumerate(own) for tensor in entry["outputs"]}
        taken = set()
        for part in entries:
            if part["op_name"] != "DELEGATE":
                continue
            inputs = {int(tensor) for tensor in part["inputs"]}
            tensors = [int(tensor) for tensor in part["outputs"]]
            while tensors:
                tensor = tensors.pop()
                producer = producers.get(tensor)
                if tensor in inputs or producer is None or producer in taken:
                    continue
                taken.add(producer)
                tensors += [int(source) for source in own[producer]["inputs"]]
        return [entry["op_name"] for entry in own], len(taken), len(entries) - len(own)

    def put(self, feed):
        for name, value in feed.items():
            self.interpreter.set_tensor(self.indices[name], value)

    def take(self):
        return [self.interpreter.get_tensor(index) for index in self.output_indices]


class CoreMl:
    """A Core ML program on all compute units of the system; on Apple's systems only."""

    packages = ("coremltools",)

    def __init__(self, coremltools, path, job):
        self.model = coremltools.models.MLModel(path)
        description = self.model.get_spec().description
        dtypes = {65552: "float16", 65568: "float32", 65600: "float64", 131104: "int32"}
        self.inputs = [
            (
                entry.name,
                list(entry.type.multiArrayType.shape),
                dtypes[entry.type.multiArrayType.dataType],
            )
            for entry in description.input
        ]
        self.outputs = [e.name for e in description.output if e.type.HasField("multiArrayType")]
        self.facts = {"runtime": "coreml", "version": coremltools.__version__}
        self.facts["system"] = platform.mac_ver()[0]
        self.fell_back = None

    def put(self, feed):
        self.feed = feed

    def invoke(self):
        self.result = self.model.predict(self.feed)

    def take(self):
        return [self.result[name] for name in self.outputs]


class Ncnn:
    """An ncnn network on the CPU, in float16 only if its weights are; ARM's default is float16."""

    packages = ("ncnn",)

    def __init__(self, ncnn, path, job):
        import numpy

        weights = Path(path).with_suffix(".bin")
        fp16 = b"\x47\x6b\x30\x01" in weights.read_bytes()  # The tag before float16 weights.
        self.array, self.mat = numpy.array, ncnn.Mat
        self.net = ncnn.Net()
        self.net.opt.num_threads = job["threads"]
        for name in dir(self.net.opt) if not fp16 else ():
            if name.startswith(("use_fp16_", "use_bf16_")):
                setattr(self.net.opt, name, False)
        if self.net.load_param(path) or self.net.load_model(str(weights)):
            raise ValueError("ncnn cannot load the file: %s" % self._unknown(path))
        lines = [line.split() for line in Path(path).read_text().splitlines()[2:]]
        self.inputs = [self._input(line) for line in lines if line[0] == "Input"]
        # Tensors without a name are numbered.
        self.outputs = [name for name in self.net.output_names() if not name.isdigit()]
        self.facts = {
            "runtime": "ncnn",
            "version": ncnn.__version__,
            "precision": "float16 if the processor supports it" if fp16 else "float32",
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
        # ncnn tensors have no batch axis; a copy has the alignment that kernels need.
        self.feed = [
            (name, self.mat(value[0] if value.ndim > 1 else value).clone())
            for name, value in feed.items()
        ]

    def invoke(self):
        extractor = self.net.create_extractor()
        for name, value in self.feed:
            extractor.input(name, value)
        self.results = [extractor.extract(name)[1] for name in self.outputs]

    def take(self):
        return [self.array(value)[None] for value in self.results]


RUNTIMES = {
    "ncnn": Ncnn,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "litert": LiteRt,
    "coreml": CoreMl,
}


def run(job, folder):
    """Run every artifact on all samples of the inputs; write the outputs beside the job."""
    import numpy

    results = {}
    for entry in job["artifacts"]:
        model, result = load(job, folder, entry)
        results[entry["name"]] = result
        if model is None:
            continue
        try:
            collected = []
            for feed in feeds(model, read_samples(job, folder, entry), entry):
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
    """Time every artifact, in blocks interleaved in random order.

    With runs = 0, time only loading and the first inference.
    """
    results, models = {}, {}
    for entry in job["artifacts"]:
        name = entry["name"]
        model, result = load(job, folder, entry)
        results[name] = result
        if model is None:
            continue
        try:
            samples = feeds(model, read_samples(job, folder, entry), entry)
            ring = Ring(samples)
            result["first_ns"] = timed(model, ring)
            result["failure"] = result["failure"] or not_finite(model, samples)
            if result["failure"] or not job["runs"]:
                continue
            result["warm_up_count"], result["settled"] = warm_up(model, ring, job)
            result["blocks_ns"] = []
            models[name] = (model, ring)
        except Exception:  # Whatever the runtime raises is the result.
            result["failure"] = failure("run-failed")
    generator = random.Random(job["seed"])
    counts, spent = dict.fromkeys(models, 0), dict.fromkeys(models, 0)
    while (
        models
        and max(spent.values()) < job["limit_s"] * 1e9
        and (min(counts.values()) < job["runs"] or min(spent.values()) < job["seconds"] * 1e9)
    ):
        for name in generator.sample(sorted(models), len(models)):
            block, turn_ns = turn(*models[name], job)
            results[name]["blocks_ns"].append(block)
            counts[name] += len(block)
            spent[name] += turn_ns
    return results


def timed(model, ring):
    """The time of one inference on the next sample, in ns."""
    if ring.moves():
        model.put(ring.items[ring.at])
    start = time.perf_counter_ns()
    model.invoke()
    return time.perf_counter_ns() - start


def turn(model, ring, job):
    """The latencies of a block, and the time of the whole turn, in ns.

    Short inferences go on, unrecorded, until the turn has lasted its time: so their samples are
    spread over as long a time as those of long inferences.
    """
    begin = time.perf_counter_ns()
    timed(model, ring)  # Discarded: it refills caches that the other artifacts evicted.
    block = []
    while len(block) < job["block"] and time.perf_counter_ns() - begin < job["limit_s"] * 1e9:
        block.append(timed(model, ring))
    while time.perf_counter_ns() - begin < job["turn_s"] * 1e9:
        timed(model, ring)
    return block or [timed(model, ring)], time.perf_counter_ns() - begin


def warm_up(model, ring, job):
    """Warm up until medians of two blocks of ten agree within 2 %; the run count, and success."""
    count, last, begin = 0, None, time.perf_counter()
    while True:
        block = []
        while len(block) < 10 and time.perf_counter() - begin < job["warm_up_limit_s"]:
            block.append(timed(model, ring))
        count += len(block)
        spent = time.perf_counter() - begin
        median = sorted(block)[len(block) // 2] if len(block) == 10 else None
        settled = None not in (last, median) and abs(median - last) <= 0.02 * last
        if (settled and spent >= job["warm_up_s"]) or spent >= job["warm_up_limit_s"]:
            return count, settled
        last = median


def not_finite(model, samples):
    """The failure of a model whose outputs are not finite, or None."""
    import numpy

    for feed in samples:
        model.put(feed)
        model.invoke()
        values = model.take()
        for i, name in enumerate(model.outputs):
            value = values[i]
            if value.dtype.kind == "f" and not numpy.isfinite(value).all():
                return {"outcome": "disagrees", "detail": "the output %s is not finite" % name}
    return None


class Ring:
    """Cycle through the samples; a single one stays in place, as in the runtimes' own tools."""

    def __init__(self, items):
        self.items, self.at = items, -1

    def moves(self):
        """Advance; whether the next sample differs from the one in place."""
        before, self.at = self.at, (self.at + 1) % len(self.items)
        return before != self.at


def load(job, folder, entry):
    """The loaded artifact, or None if that failed, and the start of its result."""
    path = str(folder / entry["path"])
    wrong = damaged(folder, entry)
    if wrong:
        detail = "%s differs from the file that was sent: its sha256 is different" % wrong
        return None, {"failure": {"outcome": "load-failed", "detail": detail}}
    try:
        start = time.perf_counter_ns()
        runtime = find_runtime(job, folder)
        package = import_runtime(runtime)
        imported = time.perf_counter_ns()
        model = runtime(package, path, job)
        loaded = time.perf_counter_ns()
        if hasattr(model, "inspect"):
            model.inspect(feeds(model, None, entry)[0])
    except Unavailable as error:
        return None, {"failure": {"outcome": "unavailable", "detail": str(error)}}
    except ImportError as error:
        detail = "%s is not installed there: %s" % (job["runtime"], error)
        return None, {"failure": {"outcome": "unavailable", "detail": detail}}
    except Exception:  # Whatever the runtime raises is the result.
        return None, {"failure": failure("load-failed")}
    result = {"import_ns": imported - start, "init_ns": loaded - imported, "facts": model.facts}
    result["inputs"] = [[name, list(shape), dtype] for name, shape, dtype in model.inputs]
    result["outputs"] = list(model.outputs)
    result["failure"] = None
    if model.fell_back:
        result["failure"] = {"outcome": "fell-back", "detail": model.fell_back}
    return model, result


def damaged(folder, entry):
    """The first file of an artifact that differs from the one that was sent, or None."""
    for name, sha in sorted(entry.get("files", {}).items()):
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != sha:
            return name
    return None


def find_runtime(job, folder):
    """The class that loads artifacts: one of this file, or `Runtime` of the file sent beside it.

    A format that is not built in sends that file. Its class has `packages`, the modules of which
    the first that is installed is passed on imported, and what the classes above have.
    """
    if not job.get("runtime_file"):
        return RUNTIMES[job["runtime"]]
    spec = importlib.util.spec_from_file_location("runtime", str(folder / job["runtime_file"]))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Runtime


def import_runtime(runtime):
    """The first of a runtime's packages that is there, imported, and numpy before it."""
    import numpy  # noqa: F401

    if runtime is CoreMl and platform.system() != "Darwin":
        raise Unavailable("Core ML has no runtime on %s" % platform.system())
    packages = runtime.packages
    there = [name for name in packages if importlib.util.find_spec(name.partition(".")[0])]
    return importlib.import_module((there or packages)[0])


def failure(outcome):
    lines = traceback.format_exc().strip().splitlines()
    return {"outcome": outcome, "detail": lines[-1][:500]}


def read_samples(job, folder, entry):
    """The input arrays by name, samples first, or None if the job has none for the artifact."""
    import numpy

    archive = entry.get("inputs", job["inputs"])
    if not archive:
        return None
    with numpy.load(folder / archive, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def feeds(model, samples, entry):
    """The inputs of each inference, in the artifact's batch size and under its names."""
    import numpy

    if samples is None:
        generator = numpy.random.default_rng(0)
        return [{n: _random(generator, [*map(_size, s)], _dtype(d)) for n, s, d in model.inputs}]
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


def _random(generator, shape, dtype):
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    # Wider integers may be indices, which must stay in range: they are zeros. Bytes are not.
    most = 128 if dtype.name in ("int8", "uint8") else 1
    return generator.integers(0, most, shape).astype(dtype)


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
    """Facts about this machine."""
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


def identity():
    """The identity of this machine, so that figures of two machines are not mixed."""
    names = ("ro.product.model", "ro.soc.model", "ro.build.version.release")
    android = shutil.which("getprop") is not None
    serial = (_read("/proc/device-tree/serial-number") or "").strip("\0")
    serial = _output(["getprop", "ro.serialno"]) if android else serial
    flags = (_read("/proc/cpuinfo") or "").split()
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    memory = (_read("/proc/meminfo") or "").split()
    system = [line for line in (_read("/etc/os-release") or "").splitlines() if "PRETTY" in line]
    return {
        "model": (_read("/proc/device-tree/model") or "").strip("\0") or None,
        # Reports are shared: the digest distinguishes machines without naming them.
        "serial_sha256": hashlib.sha256(serial.encode()).hexdigest()[:12] if serial else None,
        "android": {name: _output(["getprop", name]) for name in names if android},
        "os": system[0].partition("=")[2].strip('"') if system else None,
        "memory_bytes": int(memory[1]) * 1024 if memory[:1] == ["MemTotal:"] else None,
        "cpus": sorted(cpus),
        "virtual": "hypervisor" in flags,
    }


# Sent back as text: the host parses it.
FILES = (
    "sys/class/thermal/thermal_zone*/type",
    "sys/class/thermal/thermal_zone*/temp",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_max_freq",
    "sys/class/hwmon/hwmon*/oc*_event_cnt",
)
COMMANDS = (
    "vcgencmd get_throttled",
    "vcgencmd measure_temp",
    "vcgencmd measure_clock arm",
    "dumpsys thermalservice",
)
AT_THE_ENDS = ("nvpmodel -q", "dumpsys battery")  # Read before and after only.


def reading(pid, begin, commands, more=None):
    """The device's sensors now, and the core that the process `pid` runs on."""
    stat = (_read("/proc/%d/stat" % pid) or "").rpartition(")")[2].split()
    files = [(path, _read(path)) for name in FILES for path in sorted(Path("/").glob(name))]
    texts = {"files": "\n".join("%s:%s" % (path, text) for path, text in files if text)}
    for command in commands:
        if shutil.which(command.split()[0]):
            texts[command] = _output(command.split())
    return {
        "at_s": time.perf_counter() - begin,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "cpu": int(stat[36]) if len(stat) > 36 else None,
        "texts": dict(texts, **(more or {})),
    }


class Watch:
    """Sensor readings before, after, and once a second between, from a process of their own."""

    def __init__(self, folder):
        self.path, self.begin, self.child = folder / "readings.jsonl", time.perf_counter(), 0
        self.readings = [reading(os.getpid(), self.begin, COMMANDS + AT_THE_ENDS)]
        if hasattr(os, "fork"):  # Before a runtime starts its threads.
            self.child = os.fork() or self._follow(os.getppid())

    def _follow(self, parent):
        """Read until the parent ends this process, or has ended itself."""
        stats = None
        try:
            signal.signal(signal.SIGTERM, _end)
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):  # So that nobody waits for output of this process.
                os.dup2(null, stream)
            if shutil.which("tegrastats"):
                argv = ["tegrastats", "--interval", "1000"]
                stats = subprocess.Popen(argv, stdout=subprocess.PIPE, universal_newlines=True)
            with self.path.open("w") as file:
                while os.getppid() == parent:
                    line = stats.stdout.readline() if stats else ""
                    if not line:
                        time.sleep(1)
                    more = {"tegrastats": line.strip()} if line else None
                    values = reading(parent, self.begin, COMMANDS, more)
                    file.write(json.dumps(values) + "\n")
                    file.flush()
        finally:
            if stats:
                stats.kill()
            os._exit(0)

    def end(self):
        """All readings, in order."""
        if self.child:
            os.kill(self.child, signal.SIGTERM)
            os.waitpid(self.child, 0)
            # The last line may be incomplete.
            lines = self.path.read_text().split("\n")[:-1] if self.path.exists() else []
            self.readings += [json.loads(line) for line in lines]
        self.readings.append(reading(os.getpid(), self.begin, COMMANDS + AT_THE_ENDS))
        return self.readings


def _end(number, frame):
    raise SystemExit


def since_start_ns():
    """The age of this process, to 10 ms; None if the system does not report it."""
    stat = (_read("/proc/self/stat") or "").rpartition(")")[2].split()
    if len(stat) < 20 or not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    began_s = int(stat[19]) / os.sysconf("SC_CLK_TCK")
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - began_s
    return int(age_s * 1e9) if 0 <= age_s < 600 else None  # A container may have its own clock.


def peak_memory_bytes():
    """The peak memory of this process, or None if the system does not report it."""
    for line in (_read("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _read(path):
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError):
        return None


def _output(argv):
    """The output of a program, whatever its exit status; empty if it hangs."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            universal_newlines=True, timeout=10,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def main(folder):
    start_ns = since_start_ns()
    folder = Path(folder)
    job = json.loads((folder / "job.json").read_text())
    if job["version"] != VERSION:
        raise SystemExit(
            "agent version %d cannot do a job of version %s" % (VERSION, job["version"])
        )
    times = job["action"] == "time"
    watch = Watch(folder) if times else None
    report = {
        "version": VERSION,
        "results": time_all(job, folder) if times else run(job, folder),
        "start_ns": start_ns,
        "peak_memory_bytes": peak_memory_bytes(),
        "readings": watch.end() if watch else [],
        "device": dict(device_facts(), **(identity() if times else {})),
    }
    draft = folder / "report.json.part"
    draft.write_text(json.dumps(report))
    draft.replace(folder / "report.json")


if __name__ == "__main__":
    main(sys.argv[1])
