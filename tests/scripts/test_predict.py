import csv
import io
import json
import re
import shutil

import pytest
import torch

import predict
from caching.splits import ClipOptions, open_clips
from clips.preprocessing import Preprocessing
from deployment import annotating
from deployment.prediction import find_videos
from evaluation.evaluate import evaluate
from helpers.extras import require_extra
from helpers.numbered_videos import write_numbered_video
from helpers.permissions import permissions_count
from helpers.small_models import (
    CLASSES,
    legacy_checkpoint,
    small_checkpoint,
    small_preprocessing,
    write_coloured_videos,
)
from network.precision import Precision
from network.trained_model import load_trained_model
from runtime import progress
from videos.decoding import probe_video
from videos.folder import VideoFolder

FOLDERS = [name.replace(" ", "_") for name in CLASSES]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coloured_videos(tmp_path_factory.mktemp("data"), {"val": 2}, FOLDERS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model.pth", classes=FOLDERS)


def run(capsys, *argv) -> tuple[int, str, str]:
    code = predict.main([str(arg) for arg in argv] + ["--device", "cpu"])
    out, err = capsys.readouterr()
    return code, out, err


def rows_of(capsys, *argv) -> list[dict]:
    code, out, err = run(capsys, *argv, "--format", "json", "-j", "0")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize(
    "selection, clips_per_video, candidate_rate", [("official", 1, None), ("motion", 2, None), ("uniform", 1, 5.0)]
)
def test_predictions_equal_validation(capsys, tmp_path, data, selection, clips_per_video, candidate_rate):
    preprocessing = small_preprocessing(frame_selection=selection, candidate_rate=candidate_rate)
    checkpoint = small_checkpoint(tmp_path / "model.pth", classes=FOLDERS, preprocessing=preprocessing)
    options = ClipOptions(
        Preprocessing(8, 4, selection, candidate_rate, (32, 42), (28, 28)),
        clips_per_video=clips_per_video,
        cache_dir=tmp_path,
        batch_size=4,
        num_workers=0,
    )
    val = open_clips(VideoFolder(data / "val", FOLDERS), options)
    results = evaluate(
        load_trained_model(checkpoint).network,
        torch.nn.CrossEntropyLoss(reduction="none"),
        val.loader,
        val.videos,
        num_classes=3,
        precision=Precision.of("off", torch.device("cpu")),
        print_freq=100,
    )
    capsys.readouterr()
    rows = rows_of(capsys, checkpoint, data / "val", "--clips-per-video", clips_per_video)
    assert [row["video"] for row in rows] == [val.loader.dataset.folder.path(video) for video in results.videos]
    for row, scores in zip(rows, results.scores, strict=True):
        assert row["label"] == FOLDERS[scores.argmax()]
        expected = {FOLDERS[index]: pytest.approx(score, abs=1e-6) for index, score in enumerate(scores.tolist())}
        assert {entry["label"]: entry["probability"] for entry in row["top"]} == expected
    assert len({row["probability"] for row in rows}) == len(rows)  # else the test could not fail
    preprocessing["frame_selection"] = "official"
    other = small_checkpoint(tmp_path / "other.pth", classes=FOLDERS, preprocessing=preprocessing)
    chosen = ["--frame-selection", selection, "--clips-per-video", clips_per_video]
    assert rows_of(capsys, other, data / "val", *chosen) == rows


def test_an_unreadable_file_has_its_row_and_the_others_go_on(capsys, tmp_path, data, checkpoint):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    code, out, err = run(capsys, checkpoint, broken, data / "val", tmp_path / "absent.mp4", "-j", 2, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 1 and "2 of 8 videos have no label" in err
    assert rows[0]["video"] == str(broken) and rows[0]["error"] and not rows[0]["label"]
    assert rows[-1]["error"] == "No such file or directory"
    assert all(row["label"] in FOLDERS and not row["error"] for row in rows[1:-1])


def test_a_folder_that_may_not_be_listed_has_its_row_and_the_others_go_on(capsys, tmp_path, data, checkpoint):
    shutil.copytree(data / "val", tmp_path / "val")
    (tmp_path / "val" / "dips").chmod(0)
    with permissions_count():
        code, out, err = run(capsys, checkpoint, tmp_path / "val", "-j", 0, "--format", "json")
    (tmp_path / "val" / "dips").chmod(0o700)
    closed, *others = json.loads(out)
    assert code == 1 and "1 of 5 videos have no label" in err
    assert closed["video"] == str(tmp_path / "val" / "dips") and "no permission" in closed["error"]
    assert [other["error"] for other in others] == [None] * 4


def test_the_screen_has_room_for_what_is_said_first(capsys, data, checkpoint):
    _, _, err = run(capsys, checkpoint, data / "val" / "dips", "-j", 0, "--device", "cpu")
    words = " ".join(err.split())
    assert re.search(
        r"Model .*3 classes, temperature 1 Clips 2 videos, one clip of each; official .*; device: cpu", words
    )
    assert all(len(line) <= 100 or " " not in line[10:] for line in err.splitlines())


def test_table_and_top_k(capsys, data, checkpoint):
    code, out, _ = run(capsys, checkpoint, data / "val" / "dips", "--top-k", 2, "-j", 0)
    assert code == 0 and len(out.splitlines()) == 2
    assert all(line.count(" %") == 2 and line.startswith(str(data)) for line in out.splitlines())


def test_output_appears_whole(capsys, tmp_path, data, checkpoint):
    output = tmp_path / "out.json"
    code, out, _ = run(capsys, checkpoint, data / "val", "-j", 0, "--format", "json", "--output", output)
    assert code == 0 and not out
    assert len(json.loads(output.read_text())) == 6
    assert list(tmp_path.iterdir()) == [output]


def test_names_with_a_dash_patterns_and_other_containers(capsys, tmp_path, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_numbered_video(tmp_path / "-x.mp4", 20)
    write_numbered_video(tmp_path / "odd [1].webm", 20, codec="libvpx-vp9")
    write_numbered_video(tmp_path / "other.mkv", 20).rename(tmp_path / "no_ending")
    for name in ("-x.mp4", "odd [1].webm", "no_ending"):
        assert len(rows_of(capsys, checkpoint, name)) == 1
    assert predict.main([str(checkpoint), "-j", "0", "--device", "cpu", "--", "-x.mp4", "*.webm"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["-x.mp4", "odd"]


def test_a_folder_without_videos_has_its_row_and_the_others_go_on(capsys, tmp_path, data, checkpoint):
    (tmp_path / "empty").mkdir()
    code, out, err = run(capsys, checkpoint, tmp_path / "empty", data / "val" / "dips", "-j", 0, "--format", "json")
    empty, *others = json.loads(out)
    assert code == 1 and empty["video"] == str(tmp_path / "empty") and "holds no video" in empty["error"]
    assert len(others) == 2 and all(row["label"] for row in others) and "1 of 3 videos" in err


def test_a_class_whose_name_is_not_utf8_is_spelled_out(capsys, tmp_path, data):
    checkpoint = small_checkpoint(tmp_path / "model.pth", classes=["a\udcff", "b\udcff", "c\udcff"])
    output = tmp_path / "labels.csv"
    code, _, err = run(capsys, checkpoint, data / "val" / "dips", "-j", 0, "--format", "csv", "--output", output)
    assert code == 0, err
    assert "\\xff" in output.read_text()


def test_temperature_divides_the_logits(capsys, tmp_path, data, checkpoint):
    video = data / "val" / "dips" / "0.mp4"
    state = torch.load(checkpoint, weights_only=True)
    hot = tmp_path / "hot.pth"
    torch.save({**state, "temperature": 4.0}, hot)
    [plain], [soft] = (rows_of(capsys, path, video)[:1] for path in (checkpoint, hot))
    logits = torch.tensor([entry["probability"] for entry in plain["top"]]).log()
    assert [entry["probability"] for entry in soft["top"]] == pytest.approx((logits / 4).softmax(0).tolist(), abs=1e-5)


def test_a_legacy_checkpoint_takes_its_names_from_a_file(capsys, tmp_path, data, checkpoint):
    legacy = legacy_checkpoint(tmp_path / "legacy.pth")
    video = data / "val" / "dips" / "0.mp4"
    code, _, err = run(capsys, legacy, video)
    assert code == 1 and "--classes-file" in err
    names = tmp_path / "names.txt"
    names.write_text("\n".join(FOLDERS), "utf-8-sig")  # as some editors save it
    assert rows_of(capsys, legacy, video, "--classes-file", names) == rows_of(capsys, checkpoint, video)
    names.write_text("one\ntwo\n")
    code, _, err = run(capsys, legacy, video, "--classes-file", names)
    assert code == 1 and "3 outputs" in err and "2 classes" in err


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"preprocessing": {}}, "incomplete"),
        ({"temperature": 0.0}, "temperature"),
        ({"classes": ["one"]}, "names 1 classes"),
        ({"classes": 3}, "not names"),
        ({"classes": [0, 1, 2]}, "not names"),
        ({"model": {}}, "model"),
        ({"model": {"fc.bias": torch.tensor(1.0)}}, "layer of outputs"),
        ({"args": None}, "another network's"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_refused(capsys, tmp_path, changes, message):
    code, out, err = run(capsys, small_checkpoint(tmp_path / "model.pth", **changes), "any.mp4")
    assert code == 1 and message in err and not out


def test_annotated_copies_show_every_frame(capsys, tmp_path, data, checkpoint):
    require_extra("PIL")
    copies = tmp_path / "copies"
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    code, _, _ = run(capsys, checkpoint, data / "val", broken, "--annotate", copies, "-j", 2)
    assert code == 1
    written = find_videos([str(copies)])
    assert len(written) == 6
    assert {probe_video(path)[:2] for path in written} == {(24, 12.0)}


def test_one_copy_that_fails_leaves_the_others(capsys, tmp_path, data, checkpoint, monkeypatch):
    require_extra("PIL")
    probe = annotating.probe_video
    monkeypatch.setattr(annotating, "probe_video", lambda path: {}[path] if path.endswith("0.mp4") else probe(path))
    code, _, err = run(capsys, checkpoint, data / "val" / "dips", "--annotate", tmp_path / "copies", "-j", 0)
    assert code == 1 and "0.mp4 has no copy" in err and "KeyError" in err
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["1.mp4"]


def test_an_interruption_leaves_no_unfinished_copy(capsys, tmp_path, checkpoint, monkeypatch):
    require_extra("PIL")
    videos, copies = tmp_path / "videos", tmp_path / "copies"
    lengths = {"long.mp4": 1500, "a.mp4": 20}
    for name, length in lengths.items():
        write_numbered_video(videos / name, length)

    def interrupt(self, count=1, note=""):  # when the first copy is there, and a worker is busy with the other
        if self.description == "Annotating":
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.Progress, "update", interrupt)
    code, _, err = run(capsys, checkpoint, videos, "--annotate", copies, "-j", 2)
    assert code == 130 and "interrupted" in err
    made = [path.name for path in copies.iterdir()]
    assert made and set(made) <= lengths.keys()
    assert all(probe_video(copies / name).frames == lengths[name] for name in made)


@pytest.mark.parametrize("flags", [["--device", "abacus"], ["--output", "."], ["--top-k", "0"]])
def test_wrong_usage_exits_2(checkpoint, flags):
    with pytest.raises(SystemExit) as stop:
        predict.main([str(checkpoint), "video.mp4", *flags])
    assert stop.value.code == 2


def test_a_network_whose_outputs_are_not_numbers_predicts_nothing(capsys, tmp_path, data, checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    state["model"]["fc.bias"] += torch.nan
    torch.save(state, tmp_path / "nan.pth")
    code, out, _ = run(capsys, tmp_path / "nan.pth", data / "val" / "dips", "-j", 0, "--format", "json")
    assert code == 1 and all(row["label"] is None and "not numbers" in row["error"] for row in json.loads(out))


def test_a_closed_standard_output_is_wrong_usage(capsys, monkeypatch, checkpoint):
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(SystemExit) as stop:
        predict.main([str(checkpoint), "any.mp4"])
    monkeypatch.undo()
    assert stop.value.code == 2 and "standard output is closed" in capsys.readouterr().err
