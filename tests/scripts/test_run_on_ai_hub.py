"""The whole path to a device, with AI Hub's real client against a small AI Hub on the loopback interface."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import evaluate_logits
import run_on_ai_hub
from deployment import device_run, parity
from helpers.extras import require_extra
from helpers.small_models import small_checkpoint, small_preprocessing, write_coloured_videos
from reporting.run_folder import sole_run

for package in ("qai_hub", "h5py", "onnx", "onnxscript", "onnxruntime"):
    require_extra(package)
from helpers.ai_hub_server import TOKEN, AiHubServer  # noqa: E402  (it needs the packages)

# The client leaves its connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore:unclosed:pytest.PytestUnraisableExceptionWarning"
)
CLASSES = ["dips", "jumping_jacks", "left_lunge"]
NUM_VIDEOS = 6
INT8 = ("--quantize", "w8a8", "--calibration-clips", "4")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> tuple[Path, Path]:
    """(checkpoint, data)."""
    folder = tmp_path_factory.mktemp("inputs")
    checkpoint = small_checkpoint(folder / "model.pth", classes=CLASSES, preprocessing=small_preprocessing(clip_len=4))
    return checkpoint, write_coloured_videos(folder / "data", {"train": 2, "val": 2}, CLASSES)


@pytest.fixture(scope="module")
def exported(inputs, tmp_path_factory) -> Path:
    """A folder in which the float network is exported and proven already, since that takes longest."""
    folder = tmp_path_factory.mktemp("exported")
    assert main(inputs, folder, "--dry-run") == 0
    return folder


@pytest.fixture(scope="module")
def exported_int8(inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported_int8")
    assert main(inputs, folder, "--dry-run", *INT8) == 0
    return folder


@pytest.fixture
def server(monkeypatch, tmp_path):
    """An AI Hub that the client is configured for, and no long waiting for it."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))
    with AiHubServer() as server:
        monkeypatch.setenv("QAIHUB_CLIENT_INI", str(server.configure(tmp_path)))
        yield server


class Runner:
    """Runs the script on a folder of its own."""

    def __init__(self, inputs, exported: Path, folder: Path, capsys) -> None:
        self.folder = folder / "out"
        self._inputs, self._capsys = inputs, capsys
        shutil.copytree(exported, self.folder)

    def __call__(self, *flags: object) -> tuple[int, str, str]:
        """(exit code, output, errors), of which none, and no file, tells the token."""
        self._capsys.readouterr()
        code = main(self._inputs, self.folder, *flags)
        out, err = self._capsys.readouterr()
        assert TOKEN not in out + err and "Traceback" not in err
        assert not any(TOKEN.encode() in path.read_bytes() for path in self.folder.iterdir())
        return code, out, err

    def read(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text())


def main(inputs, folder: Path, *flags: object) -> int:
    checkpoint, data = inputs
    argv = [checkpoint, "--data-path", data, "--output-dir", folder, "-j", "0", *flags]
    return run_on_ai_hub.main(list(map(str, argv)))


@pytest.fixture
def run(inputs, exported, tmp_path, capsys) -> Runner:
    return Runner(inputs, exported, tmp_path, capsys)


@pytest.fixture
def run_int8(inputs, exported_int8, tmp_path, capsys) -> Runner:
    return Runner(inputs, exported_int8, tmp_path, capsys)


def logits(folder: Path, name: str) -> np.ndarray:
    with np.load(folder / name) as arrays:
        return np.stack([arrays[row] for row in sorted(arrays)])


def test_float_from_checkpoint_to_report(capsys, server, run, monkeypatch):
    monkeypatch.setattr(device_run, "CHUNK_CLIPS", 4)
    code, out, err = run("--share-with", "jury@example.org", "--limit-ms", "20.5")
    assert code == 0, err
    assert server.kinds() == ["compile", "inference", "inference", "inference"]
    assert server.options("compile") == ["--target_runtime qnn_context_binary"]
    assert server.uploads == ["model", "dataset", "dataset"]
    assert server.shared == {"j0": ["jury@example.org"]}
    assert "20.80 ms, beyond 20.5 ms" in out and "38 on NPU" in out

    result = run.read("device.json")
    assert result["videos"] == NUM_VIDEOS and result["latency_ms"] == 20.8 and not result["within_limit"]
    assert result["layers"] == {"NPU": 38} and result["largest_logit_difference"] < 1e-4
    assert result["acc1"] == result["pytorch_acc1"] and result["acc5"] == 100
    assert [job["id"] for job in result["jobs"].values()] == ["j0", "j1", "j2", "j3"]
    assert result["jobs"] == run.read("jobs.json")["jobs"]
    by_device, by_torch = logits(run.folder, "device_logits.npz"), logits(run.folder, "pytorch_logits.npz")
    np.testing.assert_allclose(by_device, by_torch, atol=1e-4)
    assert len(np.unique(by_device.round(3), axis=0)) == NUM_VIDEOS  # else their order would not show

    page = (run.folder / "report.html").read_text()
    assert "On the device" in page and f'href="{server.url}/jobs/j0/"' in page and "beyond 20.5 ms" in page
    assert evaluate_logits.main([str(run.folder / "manifest.jsonl"), str(run.folder / "device_logits.npz")]) == 0
    assert f"Video Acc@1 {result['acc1']:.3f}" in capsys.readouterr().out

    assert result["shared_with"] == ["jury@example.org"]
    code, out, _ = run("--share-with", "jury@example.org")  # once more: everything is there
    assert code == 0 and "job j0 is shared with jury@example.org already" in out
    assert len(server.jobs) == 4 and len(server.uploads) == 3 and len(server.shared["j0"]) == 1


def test_channel_last_gives_the_same_accuracies(server, inputs, run, tmp_path, capsys):
    assert run()[0] == 0
    other = tmp_path / "last"
    assert main(inputs, other, "--channel-last", "--runtime", "qnn_dlc") == 0
    assert server.options("compile")[1] == "--target_runtime qnn_dlc --force_channel_last_input video"
    shapes = [json.loads((folder / "manifest.jsonl").read_text().splitlines()[0]) for folder in (run.folder, other)]
    assert [row["shape"] for row in shapes] == [[1, 3, 4, 28, 28], [1, 4, 28, 28, 3]]
    np.testing.assert_allclose(logits(other, "device_logits.npz"), logits(run.folder, "device_logits.npz"), atol=1e-5)
    first, last = (json.loads((folder / "device.json").read_text()) for folder in (run.folder, other))
    assert (first["acc1"], first["acc5"]) == (last["acc1"], last["acc5"])


@pytest.mark.parametrize("integer_outputs", [False, True])
def test_w8a8_is_quantized_by_ai_hub_first(server, run_int8, integer_outputs):
    server.integer_outputs = integer_outputs
    code, _, err = run_int8(*INT8)
    assert code == 0, err
    assert server.kinds() == ["quantize", "compile", "inference", "inference"]
    assert server.options("compile") == ["--target_runtime qnn_context_binary --quantize_io"]
    assert server.uploads == ["model", "dataset", "dataset"]
    result = run_int8.read("device.json")
    assert result["latency_ms"] == 4.11 and result["within_limit"] and result["quantize"] == "w8a8"
    by_device, by_torch = (logits(run_int8.folder, f"{name}_logits.npz") for name in ("device", "pytorch"))
    assert 0 < np.abs(by_device - by_torch).max() < 0.3 < np.abs(by_torch).max()


def test_submit_only_waits_for_nothing_and_a_later_run_collects(server, run_int8):
    server.held = True
    code, out, err = run_int8(*INT8, "--submit-only", "--share-with", "jury@example.org")
    assert code == 0 and "all jobs are submitted" in out, err
    kinds = ["quantize", "compile", "inference", "inference"]
    assert server.kinds() == kinds and server.shared == {"j1": ["jury@example.org"]}
    assert list(run_int8.read("jobs.json")["jobs"]) == ["quantize", "compile", "profile", "inference_000"]
    server.held = False
    code, _, err = run_int8(*INT8)
    assert code == 0, err
    assert server.kinds() == kinds and server.uploads == ["model", "dataset", "dataset"]


def test_a_dry_run_says_what_it_would_send_and_sends_nothing(server, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "qai_hub", None)
    code, out, err = run("--dry-run", "--share-with", "jury@example.org")
    assert code == 0, err
    assert "would upload model.onnx, 43.9 MiB" in out and "jury@example.org" in out
    assert "would submit an inference job: 6 clips, 0.2 MiB" in out  # 6 x 3 x 4 x 28 x 28 x 4 bytes
    assert not server.requests


def test_a_dry_run_leaves_out_what_was_sent_before(server, run):
    assert run("--submit-only")[0] == 0
    before = list(server.requests)
    code, out, _ = run("--dry-run")
    assert code == 0 and [line for line in out.splitlines() if "would" in line] == ["would send nothing more"]
    assert server.requests == before


def test_an_address_that_ai_hub_refuses(server, run):
    server.before = lambda method, path: 400 if path.endswith("/shared_access/") else None
    code, _, err = run("--share-with", "jury@example.org")
    assert code == 1 and err == "error: sharing job j0 with jury@example.org: refused\n"
    server.before = lambda method, path: None
    assert run("--share-with", "jury@example.org")[0] == 0
    assert server.kinds() == ["compile", "inference", "inference"] and server.shared == {"j0": ["jury@example.org"]}


@pytest.mark.parametrize("kind, name", [("compile", "compile"), ("inference", "profile")])
def test_a_failed_job_is_one_message_and_the_next_run_submits_it_again(server, run, kind, name):
    server.failing[kind] = "The device has no fp16.\nTry again"
    code, out, err = run()
    identity = run.read("jobs.json")["failed"][0]["id"]
    assert code == 1 and len(err.splitlines()) == 1
    assert err.startswith(f"error: the {name} job {identity} failed: The device has no fp16. Try again. Its log: ")
    assert f"{server.url}/jobs/{identity}/" in err
    assert server.uploads == (["model"] if kind == "compile" else ["model", "dataset"])  # no clips for no network
    server.failing.clear()
    code, out, err = run()
    assert code == 0, err
    assert server.uploads == ["model", "dataset"]
    assert run.read("jobs.json")["jobs"][name]["id"] != identity


def test_what_uses_a_failed_network_is_submitted_again(server, run):
    server.failing["compile"] = "exit code 1"
    assert run("--submit-only", "--share-with", "jury@example.org")[0] == 0
    assert run()[0] == 1
    server.failing.clear()
    assert run("--share-with", "jury@example.org")[0] == 0
    assert server.kinds() == 2 * ["compile", "inference", "inference"] and len(server.shared) == 2
    assert server.uploads == ["model", "dataset"]


def test_a_failed_inference_job_names_its_videos(server, run, monkeypatch):
    monkeypatch.setattr(device_run, "CHUNK_CLIPS", 4)
    assert run("--submit-only")[0] == 0
    server.failing_jobs["j3"] = "out of memory"
    code, _, err = run()
    assert code == 1 and f"{server.url}/jobs/j3/" in err
    assert "inference_001 job j3, left_lunge/0.mp4 to left_lunge/1.mp4, failed: out of memory" in err


@pytest.mark.parametrize(
    "fault, said",
    [
        ({"broken_clip": 3}, "1 of 6 rows hold values that are not finite: jumping_jacks/1.mp4"),
        ({"lost_clips": 2}, "job j2 has outputs for 4 of its 6 clips: "),
    ],
)
def test_a_video_without_logits_is_named_or_counted(server, run, fault, said):
    for name, value in fault.items():
        setattr(server, name, value)
    code, out, err = run()
    assert code == 1 and said in err and not (run.folder / "device.json").exists()


def test_an_unknown_device_is_known_before_any_work(server, inputs, tmp_path, capsys):
    assert main(inputs, tmp_path / "out", "--device", "Dragonwing IQ-9075") == 1
    err = capsys.readouterr().err
    assert "AI Hub has no device 'Dragonwing IQ-9075'. Similar ones: Dragonwing IQ-9075 EVK, " in err
    assert not server.uploads and not (tmp_path / "out").exists()


@pytest.mark.parametrize("token", ["expired", f"{TOKEN}\n and {TOKEN}"])
def test_a_token_that_is_not_accepted(server, run, tmp_path, token):
    server.configure(tmp_path, token)
    code, _, err = run()
    assert code == 1 and len(err.splitlines()) == 1 and not server.uploads
    assert "qai-hub configure" in err or "***" in err


@pytest.mark.parametrize("content", [None, "", "[api]\napi_url = x\nweb_url = x\n", f"api_token = {TOKEN}\n"])
def test_without_a_token(server, run, tmp_path, content):
    path = tmp_path / "client.ini"
    path.unlink() if content is None else path.write_text(content)
    code, _, err = run()
    assert code == 1 and len(err.splitlines()) == 1 and "qai-hub configure" in err and not server.requests


def test_without_the_package(server, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "qai_hub", None)
    code, _, err = run()
    assert code == 1 and "requirements-ai-hub.txt" in err and not server.requests


def test_nothing_is_uploaded_unless_the_proof_holds(server, inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parity, "MAX_DIFFERENCE", 0.0)
    assert main(inputs, tmp_path / "out") == 1
    assert "differ" in capsys.readouterr().err and not server.uploads and not server.jobs


def test_a_connection_that_is_lost_now_and_then(server, run):
    """Each kind of request is cut off when it comes first; the client sends it again."""
    seen = set()

    def cut_off(method: str, path: str) -> int | None:
        kind = (method, path.split("/")[3], path.count("/"))
        if kind in seen or (method, path) == ("POST", "/api/v1/jobs/"):
            return None
        seen.add(kind)
        return 0

    server.before = cut_off
    code, _, err = run()
    assert code == 0, err
    assert len(seen) > 5
    assert server.kinds() == ["compile", "inference", "inference"]
    assert run.read("device.json")["largest_logit_difference"] < 1e-4


@pytest.mark.parametrize("lost", ["/files/dataset/", "/api/v1/jobs/j1/result/"])
def test_a_connection_that_stays_lost_is_gone_on_from(server, run, lost):
    server.before = lambda method, path: 0 if path.startswith(lost) else None
    code, _, err = run()
    assert code == 1 and "Run the same command again" in err and len(err.strip().splitlines()) == 1
    jobs = run.read("jobs.json")["jobs"]
    server.before = lambda method, path: None
    code, _, err = run()
    assert code == 0, err
    assert server.kinds() == ["compile", "inference", "inference"] and server.uploads == ["model", "dataset"]
    assert jobs.items() <= run.read("jobs.json")["jobs"].items()


def interrupt_at(server: AiHubServer, method: str, path: str) -> None:
    """Sends Ctrl-C when the request comes, once."""

    def before(*request: str) -> None:
        if request == (method, path):
            server.before = lambda *_: None
            os.kill(os.getpid(), signal.SIGINT)

    server.before = before


def test_ctrl_c_while_waiting_leaves_the_ids(server, run):
    server.held = True
    interrupt_at(server, "GET", "/api/v1/jobs/j0/")
    code, _, err = run("--submit-only")
    assert code == 130 and "Continue with: python" in err
    assert run.read("jobs.json")["jobs"]["compile"]["id"] == "j0"
    server.held = False
    assert run()[0] == 0
    assert server.kinds() == ["compile", "inference", "inference"] and server.uploads == ["model", "dataset"]


def test_ctrl_c_while_a_job_is_submitted_leaves_its_id(server, run):
    interrupt_at(server, "POST", "/api/v1/jobs/")
    code, _, err = run()
    assert code == 130 and "stopping once the id of the compile job is known" in err
    assert run.read("jobs.json")["jobs"]["compile"]["id"] == "j0"
    assert run()[0] == 0
    assert server.kinds() == ["compile", "inference", "inference"]


def test_data_that_has_expired_is_uploaded_again(server, run):
    server.failing_jobs["j2"] = "no device is free"
    assert run()[0] == 1
    server.expired = True
    code, _, err = run()
    assert server.uploads == ["model", "dataset", "dataset"]
    assert code == 1 and "Cannot download expired dataset" in err  # what the device computed has expired as well


def test_two_at_once_in_a_folder_do_not_submit_twice(server, run):
    with sole_run(run.folder):  # as the other has
        code, _, err = run()
    assert code == 1 and f"another run is at work in {run.folder}: wait" in err and not server.requests


def test_other_settings_in_the_same_folder_are_refused(server, run):
    assert run("--submit-only")[0] == 0
    before = list(server.requests)
    code, _, err = run("--runtime", "onnx")
    assert code == 1 and "runtime was qnn_context_binary, is onnx" in err and "another --output-dir" in err
    code, _, err = run("--videos", "4")
    assert code == 1 and "(videos was 6, is 4, the contents of videos differ)" in err
    assert server.requests == before


def test_another_checkpoint_in_the_same_folder_is_refused(server, run, inputs, tmp_path):
    other = shutil.copy(inputs[0], tmp_path / "other.pth")
    with open(other, "ab") as file:
        file.write(b"0")
    run._inputs = other, inputs[1]
    code, _, err = run()
    assert code == 1 and "(the contents of checkpoint differ)" in err and not server.requests


def test_jobs_of_another_account(server, run):
    assert run()[0] == 0
    server.jobs.clear()
    code, _, err = run()
    assert code == 1 and "ID 'j0' could not be found" in err and "jobs.json" in err


def test_some_of_the_videos(server, inputs, tmp_path):
    assert main(inputs, tmp_path / "out", "--videos", "4") == 0
    rows = [json.loads(line)["video"] for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and rows == sorted(rows)
    assert json.loads((tmp_path / "out" / "device.json").read_text())["videos"] == 4


@pytest.mark.parametrize(
    "flags",
    [
        ["--calibration-clips", "8"],
        ["--quantize", "int8"],
        ["--runtime", "tflite"],
        ["--submit-only", "--dry-run"],
        ["--share-with", "jury"],
        ["--share-with"],
        ["--videos", "0"],
        ["--limit-ms", "0"],
    ],
)
def test_wrong_usage_exits_2(tmp_path, flags):
    with pytest.raises(SystemExit) as stop:
        main((tmp_path / "a.pth", tmp_path), tmp_path / "out", *flags)
    assert stop.value.code == 2 and not (tmp_path / "out").exists()


def test_w8a16_asks_for_16_bits(server, inputs, tmp_path):
    server.held = True
    argv = ("--quantize", "w8a16", "--runtime", "onnx", "--calibration-clips", "1", "--submit-only", "--videos", "1")
    assert main(inputs, tmp_path / "out", *argv) == 0
    job = server.jobs["j0"].quantize_job
    assert (job.weights_dtype, job.activations_dtype) == (1, 3)  # QUANTIZE_DTYPE_INT8, QUANTIZE_DTYPE_INT16
    assert server.options("compile") == ["--target_runtime onnx --quantize_io"]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--quantize", "w8a8", "--calibration-clips", "4")])
def test_r2plus1d_18_at_full_size(server, inputs, tmp_path, flags):
    preprocessing = small_preprocessing(clip_len=16, resize_size=(128, 171), crop_size=(112, 112))
    path = tmp_path / "model.pth"
    checkpoint = small_checkpoint(path, "r2plus1d_18", classes=CLASSES, preprocessing=preprocessing)
    assert main((checkpoint, inputs[1]), tmp_path / "out", *flags) == 0
    result = json.loads((tmp_path / "out" / "device.json").read_text())
    assert result["videos"] == NUM_VIDEOS
    assert result["largest_logit_difference"] < (0.5 if flags else 1e-4)


@pytest.mark.parametrize("name", ["args.json", "log.jsonl"])
def test_the_folder_of_a_training_run_keeps_its_report(inputs, name, tmp_path, capsys):
    (tmp_path / name).write_text("{}")
    with pytest.raises(SystemExit) as stop:
        main(inputs, tmp_path, "--dry-run")
    assert stop.value.code == 2 and f"--output-dir {tmp_path}: holds a run of train.py" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]
