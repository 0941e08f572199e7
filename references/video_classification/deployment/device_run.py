"""A trained network on a device of Qualcomm AI Hub: exported, compiled, profiled, run on the validation videos."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caching.splits import Clips
from deployment import device_tensors, parity
from deployment.ai_hub import AiHub, Record
from deployment.device_tensors import CHUNK_CLIPS, MANIFEST, drawn_videos, input_set_name
from deployment.onnx_network import INPUT, OUTPUT, DeviceFormat
from evaluation.intervals import paired_difference
from evaluation.metrics import VideoResults
from network.trained_model import TrainedModel
from reporting.result_files import Evaluation
from reporting.run_folder import read_log
from reporting.run_report import write_results
from runtime.errors import UserError
from runtime.files import printable, replaced_file, sha256_of, write_json

NETWORK, SUMMARY = "model.onnx", "device.json"
PYTORCH_LOGITS, DEVICE_LOGITS = "pytorch_logits.npz", "device_logits.npz"
SOURCE = DeviceFormat()  # of the exported network, as the challenge feeds it: N C T H W in [0, 1]
ACTIVATION_BITS = {"w8a8": "INT8", "w8a16": "INT16"}  # names of qai_hub.QuantizeDtype; weights are INT8
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Target:
    """What the network is made into, and for which device."""

    device: str  # its name in AI Hub
    runtime: str  # a target runtime of AI Hub
    quantize: str = "none"  # or a key of ACTIVATION_BITS
    calibration_clips: int = 0  # training clips at most, where it is quantized
    channel_last: bool = False  # whether the compiled network takes N T H W C

    @property
    def device_format(self) -> DeviceFormat:
        """The input of the compiled network."""
        return DeviceFormat("NTHWC") if self.channel_last else SOURCE

    @property
    def compile_options(self) -> str:
        """AI Hub's options of the compile job."""
        # Without quantized inputs and outputs, quantized networks give nonsense or are refused by the NPU's compiler.
        quantized = " --quantize_io" if self.quantize != "none" else ""
        return f"--target_runtime {self.runtime}{quantized}{f' --force_channel_last_input {INPUT}' * self.channel_last}"


def settings_of(target: Target, model: TrainedModel, val: Clips, train: Clips | None) -> dict[str, Any]:
    """All that decides what is uploaded; `train` is None where nothing is calibrated."""
    calibration = None if train is None else _fingerprint(train, drawn_videos(train, target.calibration_clips))
    return {
        "checkpoint_sha256": sha256_of(model.path),
        "device": target.device,
        "runtime": target.runtime,
        "quantize": target.quantize,
        "channel_last": target.channel_last,
        "videos": len(val.videos),
        "videos_sha256": _fingerprint(val, val.videos),
        "calibration_sha256": calibration,
    }


def _fingerprint(clips: Clips, videos: Tensor) -> str:
    """The SHA-256 of the names, sizes and times of videos."""
    files = clips.loader.dataset.folder
    lines = [
        f"{printable(files.names.string(row))} {files.sizes[row]} {files.mtimes_ns[row]}" for row in videos.tolist()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class DeviceRun:
    """The steps of a run in their order; each goes on from what `record` says was done before."""

    folder: Path  # of all files
    target: Target
    model: TrainedModel
    val: Clips  # the videos to run on the device
    train: Clips | None  # the videos to calibrate on, None where nothing is
    record: Record  # of `folder`

    @property
    def _chunks(self) -> tuple[Tensor, ...]:
        return self.val.videos.split(CHUNK_CLIPS)

    def export(self) -> None:
        """Writes the network, the manifest and PyTorch's logits, once the proof on the videos holds.

        Raises UserError where it does not, or the export fails; MissingExtra.
        """
        path, known = self.folder / NETWORK, self.record.export
        others = [self.folder / name for name in (MANIFEST, PYTORCH_LOGITS)]
        if known and all(map(Path.exists, [path, *others])) and known["sha256"] == sha256_of(path):
            print(f"{path} was exported and proven before")
            return
        proto, networks = parity.export(self.model, SOURCE)
        scored = parity.prove_on_videos(networks, self.val, len(self.model.classes))
        self.folder.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as file:
            file.write(proto.SerializeToString())
        shape = self.target.device_format.shape(self.model.preprocessing, 1)
        rows = device_tensors.read_manifest(device_tensors.write_manifest(self.folder, self.val, shape))
        device_tensors.write_logits(self.folder / PYTORCH_LOGITS, rows, scored["PyTorch"].logits.numpy())
        self.record.export = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        self.record.save()

    def describe(self, share_with: Sequence[str]) -> None:
        """Prints what `submit` would send that was not sent before."""
        clip_bytes = 4 * int(np.prod(self.model.preprocessing.clip_shape))

        def clips(videos: Tensor) -> str:
            return f"{len(videos)} clips, {len(videos) * clip_bytes / MEBIBYTE:.1f} MiB before compression"

        target, sent = self.target, {*self.record.uploads, *self.record.jobs}
        planned = {"model": f"upload {NETWORK}, {self.record.export['bytes'] / MEBIBYTE:.1f} MiB"}
        if self.train is not None:
            planned["calibration"] = (
                f"upload the calibration set: {clips(drawn_videos(self.train, target.calibration_clips))}"
            )
            planned["quantize"] = f"submit a quantize job: {target.quantize}"
        planned["compile"] = f"submit a compile job for {target.device}: {target.compile_options}"
        if new := [address for address in share_with if address not in self.record.shared_with]:
            planned["share"] = f"share the compile job with {', '.join(new)}"
        planned["profile"] = "submit a profile job"
        for number, videos in enumerate(self._chunks):
            planned[_inference(number)] = f"submit an inference job: {clips(videos)}"
        left = [text for name, text in planned.items() if name not in sent]
        for text in left or ["send nothing more"]:
            print(f"would {text}")

    def submit(self, hub: AiHub, share_with: Sequence[str], wait: bool) -> None:
        """Submits every job that was not submitted before.

        The accounts `share_with` get access to the compile job. It can `wait` for the network to be compiled, so that a
        failure does not cost the upload of the clips.

        Raises UserError where AI Hub refuses something, a job that was waited for failed, the connection is lost, or a
        clip can no longer be read.
        """
        source = partial(hub.model, self.folder / NETWORK)
        if self.train is not None:
            quantize = hub.job("quantize", partial(self._submit_quantize, hub, self.train))
            if wait:
                hub.finished("quantize", quantize)
            source = partial(hub.ask, "looking up the quantized network", quantize.get_target_model)
        compiled = hub.job("compile", lambda: self._submit_compile(hub, source()))
        if wait:
            hub.finished("compile", compiled)
        if share_with:
            hub.share(compiled, share_with)
        network = hub.ask("looking up the compiled network", compiled.get_target_model)
        hub.job("profile", partial(self._submit_run, hub, "profile", network, None))
        for number in range(len(self._chunks)):
            hub.job(_inference(number), partial(self._submit_run, hub, _inference(number), network, number))

    def _submit_quantize(self, hub: AiHub, train: Clips) -> Any:
        types, videos = hub.package.QuantizeDtype, drawn_videos(train, self.target.calibration_clips)
        return hub.submit(
            "quantize",
            hub.client.submit_quantize_job,
            hub.model(self.folder / NETWORK),
            hub.dataset("calibration", partial(self._write_clips, train, videos, SOURCE)),
            weights_dtype=types.INT8,
            activations_dtype=types[ACTIVATION_BITS[self.target.quantize]],
            name=f"{self.model.name} quantize",
        )

    def _submit_compile(self, hub: AiHub, network: Any) -> Any:
        return hub.submit(
            "compile",
            hub.client.submit_compile_job,
            network,
            hub.package.Device(self.target.device),
            name=f"{self.model.name} compile",
            input_specs={INPUT: (SOURCE.shape(self.model.preprocessing, 1), "float32")},
            options=self.target.compile_options,
        )

    def _submit_run(self, hub: AiHub, name: str, network: Any, number: int | None) -> Any:
        """Profiles the network where `number` is None, and else runs it on that chunk."""
        write = partial(self._write_clips, self.val, self._chunks[number or 0], self.target.device_format)
        inputs = None if number is None else hub.dataset(input_set_name(number).removesuffix(".h5"), write)
        return hub.submit(
            name,
            hub.client.submit_inference_job,
            network,
            hub.package.Device(self.target.device),
            inputs=inputs,
            name=f"{self.model.name} {name}",
            profile=number is None,
        )

    def _write_clips(self, clips: Clips, videos: Tensor, device_format: DeviceFormat, path: Path) -> None:
        arrays = parity.clip_arrays(clips, videos, f"Writing {path.name}")
        tensors = (device_format.tensor(clip, self.model.preprocessing) for _, clip in arrays)
        device_tensors.write_input_set(path, tensors, len(videos))

    def collect(self, hub: AiHub) -> tuple[dict[str, Any], Tensor]:
        """Waits for all jobs. Returns the profile, and the logits of `val.videos` (V, num_classes), which are written.

        Raises UserError where a job failed, or did not give finite logits for each clip; the video is named.
        """
        profile = hub.ask(
            "downloading the profile", hub.finished("profile", hub.recorded_job("profile")).download_profile
        )
        if not profile:
            raise UserError(f"the profile job has no profile: {self.record.jobs['profile']['url']}")
        rows = device_tensors.read_manifest(self.folder / MANIFEST)
        outputs: dict[str, np.ndarray] = {}
        for number, videos in enumerate(self._chunks):
            chunk = rows[number * CHUNK_CLIPS :][: len(videos)]
            what = f", {printable(chunk[0]['video'])} to {printable(chunk[-1]['video'])},"
            job = hub.finished(_inference(number), hub.recorded_job(_inference(number)), what)
            arrays = _outputs(hub, job, len(chunk))
            outputs |= {row["tensor"]: array for row, array in zip(chunk, arrays, strict=True)}
        logits = device_tensors.match_rows(rows, outputs, f"what {self.target.device} computed")
        if logits.shape[1] != len(self.model.classes):
            raise UserError(f"the device gave {logits.shape[1]} logits, there are {len(self.model.classes)} classes")
        device_tensors.write_logits(self.folder / DEVICE_LOGITS, rows, logits.numpy())
        return profile, logits

    def report(self, profile: dict[str, Any], logits: Tensor, limit_ms: float) -> tuple[VideoResults, dict[str, Any]]:
        """Scores the device and writes `device.json`, the result files and the page.

        Takes AI Hub's profile of the compiled network, the logits of `val.videos`, float32 (V, num_classes), and the
        milliseconds that a clip may take. Returns the results, and the contents of `device.json`.
        """
        rows, dataset = device_tensors.read_manifest(self.folder / MANIFEST), self.val.loader.dataset
        path = self.folder / PYTORCH_LOGITS
        expected = device_tensors.match_rows(rows, device_tensors.read_logits(path), path)
        labels = torch.from_numpy(dataset.folder.labels)
        results_of = partial(device_tensors.results_of, labels, self.val.videos)
        by_torch, by_device = results_of(expected), results_of(logits)
        summary = {
            **_accuracies(by_torch, by_device),
            **_latency(profile, limit_ms),
            "videos": len(self.val.videos),
            "videos_not_scored": self.val.skipped,
            "largest_logit_difference": (logits - expected).abs().max().item(),
            "device": self.target.device,
            "runtime": self.target.runtime,
            "quantize": self.target.quantize,
            "channel_last": self.target.channel_last,
            "jobs": self.record.jobs,
            "shared_with": self.record.shared_with,
        }
        write_json(self.folder / SUMMARY, summary)
        shown = replace(self.val, pixels=f"{self.val.pixels}; network on {self.target.device}")
        model = self.model
        evaluation = Evaluation.of(by_device, shown, model.classes, Path(model.path), model.temperature)
        title, log = f"{model.name} on {self.target.device}", read_log(Path(model.path).parent)
        write_results(self.folder, title, evaluation, self.val, log=log, device=summary)
        return by_device, summary


def _inference(number: int) -> str:
    return f"inference_{number:03d}"


def _outputs(hub: AiHub, job: Any, count: int) -> list[np.ndarray]:
    """The logits of each clip of an inference job, in order. Raises UserError if there are not `count` of them."""
    outputs = hub.ask(f"downloading the outputs of job {job.job_id}", job.download_output_data) or {}
    if len(outputs) != 1:
        raise UserError(f"job {job.job_id} has {len(outputs)} outputs instead of the one `{OUTPUT}`: {job.url}")
    (arrays,) = outputs.values()
    if len(arrays) != count:
        raise UserError(f"job {job.job_id} has outputs for {len(arrays)} of its {count} clips: {job.url}")
    if all(np.issubdtype(array.dtype, np.floating) for array in arrays):
        return arrays
    # The network was compiled with quantized outputs, and what it computed was left in their scale.
    network = hub.ask("looking up the compiled network", hub.client.get_model, job.model.model_id)
    specs = [spec for specs in network.output_spec.values() for spec in specs]
    if len(specs) != 1 or specs[0].scale is None or specs[0].zero_point is None:
        raise UserError(f"job {job.job_id} has integer outputs, and no scale for them is known: {network.url}")
    spec = specs[0]
    return [(array.astype(np.float32) - spec.zero_point) * np.float32(spec.scale) for array in arrays]


def _accuracies(by_torch: VideoResults, by_device: VideoResults) -> dict[str, Any]:
    """Of the device and of PyTorch in percent, and the difference in points with its interval."""
    right = [(results.ranks < 1).tolist() for results in (by_torch, by_device)]
    points, low, high = paired_difference(*right).percent
    return {
        "acc1": by_device.video.top1,
        "acc5": by_device.video.top5,
        "pytorch_acc1": by_torch.video.top1,
        "pytorch_acc5": by_torch.video.top5,
        "acc1_difference": points,
        "acc1_difference_interval": [low, high],
    }


def _latency(profile: dict[str, Any], limit_ms: float) -> dict[str, Any]:
    """AI Hub's estimate of the time of a clip, and how many layers run where."""
    latency_ms = profile["execution_summary"]["estimated_inference_time"] / 1000  # from microseconds
    layers = Counter(layer["compute_unit"] for layer in profile["execution_detail"])
    return {
        "latency_ms": latency_ms,
        "limit_ms": limit_ms,
        "within_limit": latency_ms <= limit_ms,
        "layers": dict(layers.most_common()),
    }
