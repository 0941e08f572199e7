"""A small AI Hub on the loopback interface: it speaks its client's protobuf REST, and computes with ONNX Runtime.

What AI Hub refuses, or makes nonsense of, it refuses and makes nonsense of too, as far as its users have told.
"""

import io
import re
import shlex
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import h5py
import numpy as np
import onnx
import onnxruntime
from onnxruntime import quantization
from qai_hub import public_api_pb2 as api
from qai_hub.util.dataset_entries_converters import dataset_entries_to_h5, h5_to_dataset_entries
from requests_toolbelt import MultipartDecoder

TOKEN = "t0p-secret-t0ken"
DEVICES = ("Dragonwing IQ-9075 EVK", "Dragonwing RB3 Gen 2 Vision Kit", "Samsung Galaxy S24")
FLOAT_MICROSECONDS, INT8_MICROSECONDS = 20800, 4110
WAITING, DONE, FAILED = api.JOB_STATE_CREATED, api.JOB_STATE_DONE, api.JOB_STATE_FAILED
RUNTIMES = {
    "qnn_context_binary": api.MODEL_TYPE_QNN_CONTEXT_BINARY,
    "qnn_dlc": api.MODEL_TYPE_QNN_DLC,
    "onnx": api.MODEL_TYPE_ONNX,
}


class JobFailed(Exception):
    """The reason that a job gives."""


@dataclass
class Network:
    """An uploaded network, or one that a job makes."""

    content: bytes = b""
    kind: int = api.MODEL_TYPE_ONNX
    producer: str = ""
    channel_last: bool = False
    nonsense: bool = False
    scale: float = 0.0  # of integer outputs; 0 where they are float


@dataclass
class AiHubServer:
    """A context manager. Its fields say what it does wrong, and what it was asked."""

    failing: dict[str, str] = field(default_factory=dict)  # reasons of failures by the kind of job
    failing_jobs: dict[str, str] = field(default_factory=dict)  # the same by the job's id
    before: Callable[[str, str], int | None] = lambda method, path: None  # a status to answer with, 0 to hang up
    held: bool = False  # no job gets on
    expired: bool = False  # all data sets are
    integer_outputs: bool = False  # of quantized networks
    lost_clips: int = 0  # outputs that inference jobs leave out
    broken_clip: int | None = None  # its outputs are NaN

    models: dict[str, Network] = field(default_factory=dict)
    datasets: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, api.Job] = field(default_factory=dict)
    results: dict[str, api.JobResult] = field(default_factory=dict)
    shared: dict[str, list[str]] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)  # `model` or `dataset`, each that arrived whole
    requests: list[tuple[str, str]] = field(default_factory=list)

    def __enter__(self) -> "AiHubServer":
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        self._server, self._lock = server, threading.Lock()
        self._worker, self._started = ThreadPoolExecutor(1), set()
        self._thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._worker.shutdown()

    def configure(self, home: Path, token: str = TOKEN) -> Path:
        """Writes what `qai-hub configure` writes, with the client's own verbosity."""
        path = home / "client.ini"
        entries = {"api_url": self.url, "web_url": self.url, "api_token": token, "verbose": "True"}
        path.write_text("[api]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items()))
        return path

    def kinds(self) -> list[str]:
        """The kinds of all jobs, in the order of their submission."""
        return [_kind(job) for job in self.jobs.values()]

    def options(self, kind: str) -> list[str]:
        """The options of all jobs of a kind."""
        return [getattr(job, f"{kind}_job").options for job in self.jobs.values() if _kind(job) == kind]

    def answer(self, method: str, path: str, query: dict, headers: dict, body: bytes) -> object:
        """A message, bytes, or a status; the routes of the client's `public_rest_api`."""
        words = path.strip("/").split("/")
        if words[0] == "files":
            return self._file(method, words[1:], headers, body)
        if headers.get("Authorization") != f"token {TOKEN}":
            return 401
        with self._lock:
            return getattr(self, f"_{words[2]}")(method, words[3:], query, body)

    def _devices(self, method, words, query, body):
        names = [name for name in DEVICES if name in query.get("name", DEVICES)]
        attributes = ["framework:qnn", "framework:onnx"]
        return api.DeviceList(devices=[api.Device(name=name, os="1", attributes=attributes) for name in names])

    def _models(self, method, words, query, body):
        if not words:
            self.models[identity := f"m{len(self.models)}"] = Network()
            return _created(identity)
        identity = words[0]
        if identity not in self.models:
            return 404
        if words[1:] == ["multipart_upload"]:
            if method == "POST":
                self.uploads.append("model")
                return _created(identity)
            size = int(query["file_size"][0])
            urls = [f"{self.url}/files/model/{identity}"]
            upload = api.FileMultipartUploadURL(urls=urls, upload_id="u", max_part_size=size)
            return api.FileUploadResponse(multipart_url=upload)
        return self._model_message(identity)

    def _model_message(self, identity: str) -> api.Model:
        network = self.models[identity]
        message = api.Model(model_id=identity, name=identity, model_type=network.kind, producer_id=network.producer)
        if network.content:
            kind = api.TensorType(dtype=api.TENSOR_DTYPE_FLOAT32)
            if network.scale:
                kind = api.TensorType(dtype=api.TENSOR_DTYPE_UINT8, scale=network.scale, zero_point=128)
            message.output_spec.types.append(api.NamedTensorType(name="class_logits", tensor_type=kind))
        return message

    def _datasets(self, method, words, query, body):
        if not words:
            self.datasets[identity := f"d{len(self.datasets)}"] = b""
            return _created(identity)
        identity = words[0]
        if identity not in self.datasets:
            return 404
        url = f"{self.url}/files/dataset/{identity}"
        if words[1:] == ["upload_url"]:
            return api.FileUploadResponse(url=api.FileUploadURL(url=url, file_field_name="file", fields={"key": "k"}))
        if words[1:] == ["download_data"]:
            return api.FileDownloadResponse(url=api.FileDownloadURL(url=url, filename="dataset.h5"))
        if method == "PATCH":
            self.uploads.append("dataset")
            return _created(identity)
        return self._dataset_message(identity)

    def _dataset_message(self, identity: str) -> api.Dataset:
        message = api.Dataset(dataset_id=identity, name=identity)
        message.expiration_time.seconds = int(time.time()) + (-86400 if self.expired else 86400)
        return message

    def _file(self, method, words, headers, body):
        kind, identity = words
        if method == "GET":
            return self.datasets[identity]
        if kind == "model":
            self.models[identity].content = body
        else:
            parts = MultipartDecoder(body, headers["content-type"]).parts
            self.datasets[identity] = parts[-1].content
        return b""

    def _jobs(self, method, words, query, body):
        if not words:
            return self._submit(api.Job.FromString(body))
        identity = words[0]
        if identity not in self.jobs:
            return 404
        if words[1:] == ["shared_access"]:
            self.shared.setdefault(identity, []).extend(api.SharedAccessChange.FromString(body).add_email)
            return _created(identity)
        if words[1:] == ["result"]:
            return self.results[identity]
        answer = api.Job.FromString(self.jobs[identity].SerializeToString())
        if not self.held and identity not in self._started:  # so that each is seen waiting at least once
            self._started.add(identity)
            self._worker.submit(self._proceed, identity)  # the client does not wait for an answer for long
        return answer

    def _submit(self, job: api.Job) -> api.CreateUpdateResponse:
        identity, kind = f"j{len(self.jobs)}", _kind(job)
        specific = getattr(job, f"{kind}_job")
        setattr(specific, f"{kind}_job_id", identity)
        specific.job_state = WAITING
        specific.creation_time.seconds = int(time.time())
        if kind in ("compile", "quantize"):
            target = f"m{len(self.models)}"
            self.models[target] = Network(producer=identity)
            specific.target_model.CopyFrom(self._model_message(target))
        self.jobs[identity] = job
        return _created(identity)

    def _proceed(self, identity: str) -> None:
        job = self.jobs[identity]
        kind = _kind(job)
        specific = getattr(job, f"{kind}_job")
        if specific.job_state != WAITING:
            return
        try:
            if reason := self.failing_jobs.get(identity, self.failing.get(kind)):
                raise JobFailed(reason)
            network = self.models[specific.model.model_id]
            if network.producer:
                self._proceed(network.producer)
            if not network.content:
                raise JobFailed("Failed dependency: the network was not made")
            getattr(self, f"_run_{kind}")(specific, network)
            specific.job_state = DONE
        except Exception as failure:
            specific.failure_reason = str(failure) if isinstance(failure, JobFailed) else repr(failure)
            specific.job_state = FAILED

    def _run_quantize(self, job: api.QuantizeJob, network: Network) -> None:
        clips = iter(_entries(self.datasets[job.calibration_dataset.dataset_id])["video"])

        class Reader(quantization.CalibrationDataReader):
            def get_next(self):
                clip = next(clips, None)
                return None if clip is None else {"video": clip}

        types = {api.QUANTIZE_DTYPE_INT8: quantization.QuantType.QUInt8}
        types[api.QUANTIZE_DTYPE_INT16] = quantization.QuantType.QUInt16
        with tempfile.TemporaryDirectory() as folder:
            source, result = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
            source.write_bytes(network.content)
            quantization.quantize_static(
                source,
                result,
                Reader(),
                per_channel=True,
                activation_type=types[job.activations_dtype],
                weight_type=quantization.QuantType.QInt8,
                extra_options={"UseQDQContribOps": True},  # 16 bits before opset 21
            )
            self.models[job.target_model.model_id].content = result.read_bytes()

    def _run_compile(self, job: api.CompileJob, network: Network) -> None:
        words = shlex.split(job.options)
        runtime = words[words.index("--target_runtime") + 1]
        proto = onnx.load_model_from_string(network.content)
        (entry,) = proto.graph.input
        shape = [size.dim_value for size in entry.type.tensor_type.shape.dim]
        if 0 in shape or any(tensor.external_data for tensor in proto.graph.initializer):
            raise JobFailed("Dynamic shapes and external data are not supported")
        (spec,) = job.tensor_type_list.types
        if (spec.name, list(spec.tensor_type.shape)) != (entry.name, shape):
            raise JobFailed(f"The network takes {entry.name} {shape}")
        target = self.models[job.target_model.model_id]
        target.content, target.kind = network.content, RUNTIMES[runtime]
        target.channel_last = "--force_channel_last_input" in words
        is_quantized = any(node.op_type == "QuantizeLinear" for node in proto.graph.node)
        target.nonsense = is_quantized and "--quantize_io" not in words
        target.scale = 0.25 if is_quantized and self.integer_outputs else 0.0

    def _run_inference(self, job: api.InferenceJob, network: Network) -> None:
        session = onnxruntime.InferenceSession(network.content, providers=["CPUExecutionProvider"])
        job.model.CopyFrom(self._model_message(job.model.model_id))
        result = self.results[job.inference_job_id] = api.JobResult()
        result.inference_job_result.inference_job_id = job.inference_job_id
        if job.is_profiling_on:
            result.inference_job_result.detail.CopyFrom(_profile(network.content))
        if not job.dataset.dataset_id:
            return
        outputs = []
        shape = list(session.get_inputs()[0].shape)
        expected = [shape[axis] for axis in (0, 2, 3, 4, 1)] if network.channel_last else shape
        for clip in _entries(self.datasets[job.dataset.dataset_id])["video"]:
            if list(clip.shape) != expected or clip.dtype != np.float32 or not 0 <= clip.min() <= clip.max() <= 1:
                raise JobFailed(f"The network takes float32 {expected}, not {clip.dtype} {list(clip.shape)}")
            clip = np.ascontiguousarray(clip.transpose(0, 4, 1, 2, 3)) if network.channel_last else clip
            outputs.append(session.run(None, {"video": clip})[0] * (not network.nonsense))
        if self.broken_clip is not None:
            outputs[self.broken_clip][:] = np.nan
        if network.scale:
            outputs = [np.rint(output / network.scale + 128).clip(0, 255).astype(np.uint8) for output in outputs]
        file = io.BytesIO()
        with h5py.File(file, "w") as h5:
            dataset_entries_to_h5({"class_logits": outputs[: len(outputs) - self.lost_clips]}, h5)
        self.datasets[identity := f"d{len(self.datasets)}"] = file.getvalue()
        result.inference_job_result.output_dataset_id = identity


def _entries(content: bytes) -> dict[str, list[np.ndarray]]:
    with h5py.File(io.BytesIO(content), "r") as h5:
        return h5_to_dataset_entries(h5)


def _profile(content: bytes) -> api.ProfileDetail:
    operators = [node.op_type for node in onnx.load_model_from_string(content).graph.node]
    layers = [operator for operator in operators if operator in ("Conv", "Gemm", "Relu")]
    return api.ProfileDetail(
        major_version=1,
        execution_time=INT8_MICROSECONDS if "QuantizeLinear" in operators else FLOAT_MICROSECONDS,
        layer_details=[
            api.LayerDetail(name=layer, layer_type_name=layer, compute_unit=api.COMPUTE_UNIT_NPU) for layer in layers
        ],
    )


def _kind(job: api.Job) -> str:
    return job.WhichOneof("job").removesuffix("_job")


def _created(identity: str) -> api.CreateUpdateResponse:
    response = api.CreateUpdateResponse(id=identity)
    response.expiration_time.seconds = int(time.time()) + 86400  # of data sets
    return response


def _handler(hub: AiHubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            path = urlsplit(self.path)
            hub.requests.append((self.command, path.path))
            body = self._body()
            status = hub.before(self.command, path.path)
            if status == 0:
                self.close_connection = True
                self.connection.close()
                return
            answer = status or hub.answer(self.command, path.path, parse_qs(path.query), self.headers, body)
            is_message = not isinstance(answer, (int, bytes))
            content = answer.SerializeToString() if is_message else answer if isinstance(answer, bytes) else b"refused"
            self.send_response(answer if isinstance(answer, int) else 200)
            self.send_header("Content-Type", "application/x-protobuf" if is_message else "application/octet-stream")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", "e")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = _serve

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(re.match(rb"[0-9a-f]+", self.rfile.readline(), re.IGNORECASE)[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
