import csv
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest
from tqdm import std as tqdm_module
from tqdm import tqdm

import check_videos
import refactor_dataset
from helpers.damaged_videos import cut, flag_transport_error, write_textured_video, write_with_audio
from helpers.killing import ROOT, run_script, sigkill_at_random
from helpers.release_files import list_files, write_labels
from references.dataset_tools import checking
from references.dataset_tools.walking import find_videos, take_shard

COLUMNS = ["path", "status", "reason", "frames", "seconds"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, bytes]:
    """The bytes of a good MP4, of one cut short, and of a transport stream that a remux repairs."""
    folder = tmp_path_factory.mktemp("videos")
    good = write_textured_video(folder / "good.mp4", 20, container_options={"movflags": "faststart"}).read_bytes()
    stream = write_textured_video(folder / "good.ts", 40).read_bytes()
    return {"good": good, "cut": cut(0.7)(good), "repairable": flag_transport_error(stream, 40)}


@pytest.fixture
def root(tmp_path, videos) -> Path:
    """Two good videos, one cut short, and one that a remux repairs."""
    for path, kind in (
        ("train/squats/1.mp4", "good"),
        ("val/squats/2.MP4", "good"),
        ("train/squats/3.mp4", "cut"),
        ("train/lunges/4.ts", "repairable"),
    ):
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(videos[kind])
    return tmp_path / "root"


def run(root: Path, *options) -> tuple[int, dict[str, str]]:
    """Gives the exit code, and the status of each path in the report."""
    report = root.parent / "report.csv"
    code = check_videos.main(["--root", str(root), "--jobs", "1", "--report", str(report), *map(str, options)])
    with report.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert not rows or list(rows[0]) == COLUMNS
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    return code, {row["path"]: row["status"] for row in rows}


def files_in(quarantine: Path) -> dict[str, bytes]:
    return {path: data for path, data in list_files(quarantine).items() if not path.startswith("journal")}


def test_without_quarantine_bad_files_are_only_reported(root, capsys):
    before = list_files(root)
    code, statuses = run(root)
    assert code == 1
    assert statuses == {
        "train/lunges/4.ts": "bad",
        "train/squats/1.mp4": "ok",
        "train/squats/3.mp4": "bad",
        "val/squats/2.MP4": "ok",
    }
    assert list_files(root) == before and not (root / ".dataset_tools").exists()
    with (root.parent / "report.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["path"] == "train/squats/1.mp4")
    assert (row["frames"], row["seconds"], row["reason"]) == ("20", "0.667", "")
    out = capsys.readouterr().out
    assert "2 ok" in out and "files/s" in out and "MB/s" in out and "its end or a piece is missing" in out


def test_quarantine_remux_and_replace(root, videos, tmp_path):
    bad = tmp_path / "bad"
    os.link(root / "train/lunges/4.ts", tmp_path / "source.ts")
    code, statuses = run(root, "--quarantine", bad, "--remux", "--replace")
    assert code == 0
    assert statuses["train/lunges/4.ts"] == "remuxed" and statuses["train/squats/3.mp4"] == "quarantined"
    assert files_in(bad) == {"train/squats/3.mp4": videos["cut"], "train/lunges/4.ts": videos["repairable"]}
    assert (tmp_path / "source.ts").read_bytes() == videos["repairable"]
    code, statuses = run(root, "--quarantine", bad, "--remux", "--replace")
    assert code == 0 and set(statuses.values()) == {"ok"} and len(statuses) == 3


def test_without_replace_the_remux_lies_in_quarantine(root, videos, tmp_path):
    bad = tmp_path / "bad"
    code, statuses = run(root, "--quarantine", bad, "--remux")
    assert code == 0 and statuses["train/lunges/4.ts"] == "quarantined"
    assert sorted(files_in(bad)) == ["remuxed/train/lunges/4.ts", "train/lunges/4.ts", "train/squats/3.mp4"]
    assert list_files(root).keys() == {"train/squats/1.mp4", "val/squats/2.MP4"}
    assert files_in(bad)["train/lunges/4.ts"] == videos["repairable"]


def test_dry_run_changes_nothing(root, tmp_path):
    before = list_files(tmp_path)
    code, statuses = run(root, "--quarantine", tmp_path / "bad", "--remux", "--replace", "--dry-run")
    assert code == 1
    assert statuses["train/lunges/4.ts"] == "would_remux" and statuses["train/squats/3.mp4"] == "would_quarantine"
    (tmp_path / "report.csv").unlink()
    assert list_files(tmp_path) == before and not (tmp_path / "bad").exists()
    for path in ("train/lunges/4.ts", "train/squats/3.mp4"):
        (root / path).unlink()
    assert run(root, "--quarantine", tmp_path / "bad", "--dry-run")[0] == 0


@pytest.mark.parametrize("is_dry", [True, False])
def test_files_whose_names_begin_alike_have_a_remux_each(tmp_path, videos, is_dry):
    alike, wide = "0" * 110, "\u8e72" * 83
    paths = [f"{folder}/{alike}{n}.ts" for folder in ("train/a", "train/b") for n in range(3)]
    for path in [*paths, f"train/a/{wide}.ts"]:
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(videos["repairable"])
    options = ["--quarantine", tmp_path / "bad", "--remux", "--replace", "--jobs", 2]
    statuses = run(tmp_path / "root", *options, *["--dry-run"] * is_dry)[1]
    assert set(statuses.values()) == {"would_remux" if is_dry else "remuxed"} and len(statuses) == 7
    assert list_files(tmp_path / "root").keys() == statuses.keys()


@pytest.mark.parametrize("is_dry", [True, False])
def test_files_behind_a_linked_folder_stay(root, tmp_path, videos, is_dry):
    (root / "train/lunges").rename(tmp_path / "elsewhere")
    (root / "train/lunges").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "to_root").symlink_to(root)
    options = ["--quarantine", tmp_path / "bad", "--remux", "--replace", *["--dry-run"] * is_dry]
    code, statuses = run(tmp_path / "to_root", *options)
    assert code == 1 and statuses["train/lunges/4.ts"] == "error"
    assert "linked folder" in (tmp_path / "report.csv").read_text()
    assert statuses["train/squats/3.mp4"] == ("would_quarantine" if is_dry else "quarantined")
    assert list_files(tmp_path / "elsewhere") == {"4.ts": videos["repairable"]}


def test_restore(root, tmp_path, capsys):
    before = list_files(root)
    arguments = ["--quarantine", tmp_path / "bad", "--remux", "--replace"]
    run(root, *arguments)
    assert list_files(root) != before
    restore = ["--root", str(root), "--quarantine", str(tmp_path / "bad"), "--restore"]
    assert check_videos.main([*restore, "--dry-run"]) == 0
    assert list_files(root) != before
    assert check_videos.main(restore) == 0
    assert list_files(root) == before and files_in(tmp_path / "bad") == {}
    assert "restored 2 of 2 files" in capsys.readouterr().out
    run(root, *arguments)
    (root / "train/squats/3.mp4").write_bytes(b"in its place now")
    assert check_videos.main(restore) == 1
    assert (root / "train/squats/3.mp4").read_bytes() == b"in its place now"
    for options in ([], ["--dry-run"]):
        capsys.readouterr()
        assert check_videos.main([*restore, *options]) == 1
        output = capsys.readouterr()
        assert "restore" in output.out and "0 of 1 files" in output.out
        assert "another file is in its place" in output.err


def test_restore_says_why_there_is_nothing_to_restore(root, tmp_path, capsys):
    bad, moved = tmp_path / "bad", tmp_path / "moved"
    assert check_videos.main(["--root", str(root), "--quarantine", str(tmp_path / "absent"), "--restore"]) == 1
    assert "no journal.jsonl" in capsys.readouterr().err and not (tmp_path / "absent").exists()
    run(root, "--quarantine", bad)
    root.rename(moved)
    assert check_videos.main(["--root", str(moved), "--quarantine", str(bad), "--restore"]) == 1
    assert f"2 more came from another root, {root}: which is not there now" in capsys.readouterr().err
    root.mkdir()
    for _ in range(2):
        assert check_videos.main(["--root", str(root), "--quarantine", str(bad), "--restore"]) == 0
    assert len(files_in(bad)) == 0 and len(list_files(root)) == 2


def test_a_dry_restore_sees_two_files_of_one_name(root, tmp_path, videos, capsys):
    restore = ["--root", str(root), "--quarantine", str(tmp_path / "bad"), "--restore"]
    run(root, "--quarantine", tmp_path / "bad")
    (root / "train/squats/3.mp4").write_bytes(videos["cut"])
    run(root, "--quarantine", tmp_path / "bad")
    for options in (["--dry-run"], []):
        assert check_videos.main([*restore, *options]) == 1
        assert "2 of 3 files" in capsys.readouterr().out


def test_the_refactorer_leaves_it_so(root, tmp_path, videos, capsys):
    source = tmp_path / "source"
    source.mkdir()
    for name, kind in (("1.mp4", "good"), ("3.mp4", "cut"), ("4.ts", "repairable")):
        (source / name).write_bytes(videos[kind])
    labels = write_labels(tmp_path / "labels.json", [(name, "squats", "train") for name in ("1.mp4", "3.mp4", "4.ts")])
    place = ["--src", str(source), "--labels", str(labels), "--dest", str(tmp_path / "placed")]
    assert refactor_dataset.main(place) == 0
    assert run(tmp_path / "placed", "--quarantine", tmp_path / "bad", "--remux", "--replace")[0] == 0
    before = list_files(tmp_path / "placed")
    capsys.readouterr()
    assert refactor_dataset.main(place) == 0
    out = capsys.readouterr().out
    assert "1 left as they are: check_videos.py quarantined" in out and "check_videos.py remuxed" in out
    assert list_files(tmp_path / "placed") == before
    assert {path.name: path.read_bytes() for path in source.iterdir()} == {
        "1.mp4": videos["good"],
        "3.mp4": videos["cut"],
        "4.ts": videos["repairable"],
    }


def test_state_reads_only_what_is_new_or_changed(root, tmp_path, videos, monkeypatch, capsys):
    state = tmp_path / "state"
    first = run(root, "--state", state)
    tried = []
    pool_run = checking.WorkerPool.run

    def record(self, tasks):
        tasks = list(tasks)
        tried.extend(task.key for task in tasks)
        return pool_run(self, tasks)

    monkeypatch.setattr(checking.WorkerPool, "run", record)
    assert run(root, "--state", state) == first
    assert sorted(tried) == ["train/lunges/4.ts", "train/squats/3.mp4"], "only the bad are read again"
    tried.clear()
    (root / "train/squats/1.mp4").write_bytes(videos["cut"])
    assert run(root, "--state", state)[1]["train/squats/1.mp4"] == "bad"
    tried.clear()
    run(root, "--state", state, "--min-frames", 2)
    assert "val/squats/2.MP4" in tried, "other options ask another question"


def test_a_file_of_somebody_else_is_neither_used_nor_changed(root, tmp_path, capsys):
    (tmp_path / "notes.csv").write_text("path,status\n1.mp4,ok")
    assert check_videos.main(["--root", str(root), "--state", str(tmp_path / "notes.csv")]) == 1
    assert (tmp_path / "notes.csv").read_text() == "path,status\n1.mp4,ok"
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/journal.jsonl").write_text('garbage\n{"id": 3}\n')
    assert check_videos.main(["--root", str(root), "--quarantine", str(tmp_path / "bad")]) == 1
    assert check_videos.main(["--root", str(root), "--report", str(root)]) == 1
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 3 and "journal.jsonl" in errors and "Traceback" not in errors


def test_the_report_follows_links_and_replaces_no_special_file(root, tmp_path, monkeypatch):
    (tmp_path / "link.csv").symlink_to("real/report.csv")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for path in ("link.csv", "pipe"):
        assert check_videos.main(["--root", str(root), "--jobs", "1", "--report", str(tmp_path / path)]) == 1
    report = (tmp_path / "real/report.csv").read_text()
    assert report.count("\n") == 5 and (tmp_path / "link.csv").is_symlink()
    assert os.read(reader, 10000).decode() == report.replace("\n", "\r\n") and (tmp_path / "pipe").is_fifo()
    os.close(reader)


def test_the_report_may_be_the_output(root, tmp_path):
    with (tmp_path / "output").open("wb") as output:
        subprocess.run(
            [sys.executable, str(ROOT / "check_videos.py"), "--root", str(root), "--report", "/dev/fd/1"],
            stdout=output,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    printed, _, report = (tmp_path / "output").read_text().partition(",".join(COLUMNS))
    assert "2 ok" in printed and report.count("\n") == 5


def test_shards_cover_every_file_once(root, tmp_path):
    for numbering in (("1/3", "2/3", "3/3"), ("0/3", "1/3", "2/3")):
        paths = [path for shard in numbering for path in run(root, "--shard", shard)[1]]
        assert sorted(paths) == sorted(list_files(root))
    bad = tmp_path / "bad"
    total = [run(root, "--shard", f"{n}/2", "--quarantine", bad)[1] for n in (1, 2)]
    assert sorted({**total[0], **total[1]}) == [
        "train/lunges/4.ts",
        "train/squats/1.mp4",
        "train/squats/3.mp4",
        "val/squats/2.MP4",
    ], "also when the first shard has moved files before the second lists them"


def test_take_shard_counts_what_was_taken():
    present, taken, covered = {f"{n:02d}" for n in range(20)}, set(), []
    for index in range(4):
        shard = take_shard(sorted(present), taken, index, 4)
        assert len(shard) == 5
        covered += shard
        taken.update(shard[:2])  # it quarantines two of its files before the next shard starts
        present.difference_update(shard[:2])
    assert sorted(covered) == [f"{n:02d}" for n in range(20)]


def test_an_audio_track_or_a_timeout_or_the_frames_wanted(root, tmp_path):
    write_with_audio(root / "train/squats/5.mp4")
    assert run(root, "--min-frames", 21)[1] == {
        "train/lunges/4.ts": "bad",
        "train/squats/1.mp4": "bad",
        "train/squats/3.mp4": "bad",
        "train/squats/5.mp4": "ok",
        "val/squats/2.MP4": "bad",
    }
    assert set(run(root, "--timeout", "1e-9")[1].values()) == {"bad"}


def test_a_full_disk_names_the_report_and_leaves_no_part_of_it(root):
    report = root.parent / "report" / "check.csv"
    done = subprocess.run(
        [sys.executable, check_videos.__file__, "--root", str(root), "--jobs", "1", "--report", str(report)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20)),  # bytes of a file
    )
    assert done.returncode == 1
    assert f"error: {report}: File too large; make room, and run again" in done.stderr
    assert not list(report.parent.iterdir())


def test_ctrl_c_while_the_first_line_is_written_is_130(root, monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.delattr(tqdm, "_lock", raising=False)
    monkeypatch.setattr(tqdm_module, "TqdmDefaultWriteLock", interrupt)
    assert check_videos.main(["--root", str(root), "--jobs", "1"]) == 130
    assert capsys.readouterr().err.startswith("stopped; ")


def test_a_timeout_of_months_is_none(root):
    assert set(run(root, "--timeout", "1e10")[1].values()) == {"ok", "bad"}


def test_the_ffmpeg_program_agrees(root, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert run(root, "--prober", "ffmpeg") == run(root)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit) as stop:
        run(root, "--prober", "ffmpeg", "--quarantine", tmp_path / "bad")
    assert stop.value.code == 2 and not (tmp_path / "bad").exists()


def test_endings_and_where_files_are_looked_for(tmp_path):
    for path in ("train/a/1.mp4", "train/a/2.MP4", "val/3.mkv", "val/.hidden.mp4", "other/4.mp4", "train/x.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    (tmp_path / "train/empty.mp4").mkdir()
    (tmp_path / "train/class.mp4").mkdir()
    (tmp_path / "train/class.mp4/5.mp4").write_bytes(b"")
    (tmp_path / "train/up").symlink_to("..")
    (tmp_path / "train/far").symlink_to("x" * 300)
    found, unreadable, leftovers = find_videos(tmp_path, ["mp4", ".mkv"], skip=None)
    assert leftovers == [] and unreadable == [("train/far", "cannot be followed: File name too long")]
    inside = ["train/a/1.mp4", "train/a/2.MP4", "train/class.mp4/5.mp4", "train/empty.mp4"]
    assert [path for path in found if not path.startswith("train/up")] == [*inside, "val/.hidden.mp4", "val/3.mkv"]
    assert find_videos(tmp_path / "other", ["mp4"], None)[0] == ["4.mp4"]
    assert find_videos(tmp_path, ["mp4"], skip=tmp_path / "train" / "a")[0][0] == "train/class.mp4/5.mp4"


def test_the_root_may_be_where_one_stands(root, monkeypatch):
    expected = find_videos(root, ["mp4", "ts"], skip=None)
    assert expected[0][0] == "train/lunges/4.ts"
    monkeypatch.chdir(root)
    assert find_videos(Path("."), ["mp4", "ts"], skip=None) == expected
    assert find_videos(Path("../root"), ["mp4", "ts"], skip=None) == expected


def test_without_a_quarantine_bad_files_are_only_reported(root, capsys):
    before = sorted(root.rglob("*"))
    assert check_videos.main(["--root", str(root), "--remux", "--replace", "--jobs", "1"]) == 1
    out = capsys.readouterr().out
    assert "only reported" in out and " bad" in out and sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    "options",
    [
        ["--replace"],
        ["--restore"],
        ["--quarantine", "bad", "--replace"],
        ["--shard", "3/2"],
        ["--shard", "x"],
        ["--jobs", "0"],
        ["--timeout", "0"],
        ["--root", "/no/such"],
        ["--prober", "guess"],
        ["--ext", "mp4,avi"],
        ["--ext", "*.mp4"],
        ["--quarantine", "train"],
        ["--quarantine", "val/new"],
        ["--quarantine", "to_val/squats"],
        ["--quarantine", "../bad", "--report", "../bad/journal.jsonl"],
        ["--quarantine", "../bad", "--state", "../bad/journal.jsonl"],
        ["--report", ".dataset_tools/withdrawn.jsonl"],
    ],
)
def test_wrong_usage_gives_exit_code_2(root, options, capsys, monkeypatch):
    monkeypatch.chdir(root)
    Path("to_val").symlink_to("val")
    with pytest.raises(SystemExit) as stop:
        check_videos.main(["--root", str(root), *options])
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_strange_name_is_reported(root, videos, capsys):
    name = os.fsdecode(b'train/squats/-\xff,"\n.mp4')
    (root / name).write_bytes(videos["cut"])
    assert run_bytes(root)[name] == "bad"
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bad ")]
    assert sorted(line.split(": ")[0] for line in lines) == [
        "bad train/lunges/4.ts",
        r'bad train/squats/-\udcff,"\n.mp4',
        "bad train/squats/3.mp4",
    ]


def test_nothing_to_check_is_an_error_unless_all_is_in_quarantine(root, tmp_path, capsys):
    bad = tmp_path / "bad"
    assert check_videos.main(["--root", str(root), "--ext", "mp3", "--quarantine", str(bad)]) == 1
    assert "ends in mp3; check --root and --ext" in capsys.readouterr().err
    options = ["--ext", ".TS", "--quarantine", bad]
    assert run(root, *options) == (0, {"train/lunges/4.ts": "quarantined"})
    assert run(root, *options) == (0, {})
    assert "look at what was quarantined" in capsys.readouterr().err


def test_a_quarantine_in_a_root_that_is_walked_whole_holds_nothing_else(root):
    whole = root / "train"
    with pytest.raises(SystemExit) as stop:
        run(whole, "--quarantine", whole / "squats")
    assert stop.value.code == 2
    for _ in range(2):
        assert run(whole, "--quarantine", whole / "bad")[0] == 0
    assert files_in(whole / "bad").keys() == {"lunges/4.ts", "squats/3.mp4"}


def test_a_link_that_leads_to_itself_stops_nothing(root, tmp_path):
    (root / "train/squats/loop.mp4").symlink_to("loop.mp4")
    assert run(root)[1]["train/squats/loop.mp4"] == "bad" and len(run(root)[1]) == 5
    assert run(root, "--quarantine", tmp_path / "bad")[0] == 0
    assert os.readlink(tmp_path / "bad/train/squats/loop.mp4") == "loop.mp4"


def run_bytes(root: Path) -> dict[str, str]:
    report = root.parent / "report.csv"
    check_videos.main(["--root", str(root), "--jobs", "1", "--report", str(report)])
    with report.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {row["path"]: row["status"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_a_report_and_no_remux(root, tmp_path, monkeypatch, capsys, stop):
    pool_run = checking.WorkerPool.run

    def begin(tasks):
        for task in tasks:
            Path(task.args[2]).write_bytes(b"half of a remux")
            yield task

    def stop_after_the_first(self, tasks):
        yield next(pool_run(self, begin(tasks)))
        signal.raise_signal(stop)

    before, handler = list_files(root), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(checking.WorkerPool, "run", stop_after_the_first)
        code, statuses = run(root, "--quarantine", tmp_path / "bad", "--remux", "--jobs", 2)
    assert code == 128 + stop and len(statuses) == 1
    assert capsys.readouterr().err.endswith(
        "stopped; what was done so far is in the report and the journal, run again to go on\n"
    )
    assert (
        not list(root.rglob("*.remux")) and before.items() <= {**list_files(root), **files_in(tmp_path / "bad")}.items()
    )
    assert signal.getsignal(signal.SIGTERM) is handler


def test_what_a_killed_remux_left_is_removed(root, tmp_path):
    stale = checking.temporary_name("train/squats/gone.ts", ".remux")
    own = checking.temporary_name("train/lunges/4.ts", ".remux")
    for path in (stale, own, "train/squats/.somebodys.remux"):
        (root / path).write_bytes(b"half")
    quarantine = ["--quarantine", tmp_path / "bad"]
    run(root, *quarantine, "--dry-run")
    assert (root / stale).exists() and (root / own).exists()
    run(root, *quarantine, "--shard", "0/4")  # that of train/lunges/4.ts
    assert (root / stale).exists() and not (root / own).exists()
    run(root, *quarantine)
    assert not (root / stale).exists() and (root / "train/squats/.somebodys.remux").exists()


def kill_often(root: Path, times: int, videos: dict[str, bytes]) -> None:
    for number in range(30):
        kind = ("cut", "repairable", "good")[number % 3]
        (root / f"train/squats/many-{number}.{'ts' if kind == 'repairable' else 'mp4'}").write_bytes(videos[kind])
    before, bad = list_files(root), root.parent / "bad"
    arguments = ["--root", str(root), "--quarantine", str(bad), "--remux", "--replace", "--jobs", "2"]
    rng = random.Random(times)
    for _ in range(times):
        sigkill_at_random("check_videos.py", arguments, 2.0, rng)
        kept, placed = files_in(bad), list_files(root)
        for path, data in before.items():
            assert data in (placed.get(path), kept.get(path)), path
    done = run_script("check_videos.py", arguments)
    assert done.returncode == 0, done.stderr
    assert not list(root.rglob("*.remux"))
    expected_bad = {path: data for path, data in before.items() if data in (videos["cut"], videos["repairable"])}
    assert files_in(bad) == expected_bad
    assert run_script("check_videos.py", [*arguments[:4], "--restore"]).returncode == 0
    assert list_files(root) == before and files_in(bad) == {}


def test_sigkill(root, videos):
    kill_often(root, 3, videos)


@pytest.mark.slow
def test_sigkill_at_20_moments(root, videos):
    kill_often(root, 20, videos)


OTHER_SYSTEM = """
import os, signal, sys
for name in ("fcntl", "resource"):
    sys.modules[name] = None
for module, names in ((os, ("setsid", "killpg", "pread", "pathconf")), (signal, SIGNALS)):
    for name in names:
        delattr(module, name)
import SCRIPT
if __name__ == "__main__":
    sys.exit(SCRIPT.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("script", ["check_videos", "refactor_dataset"])
def test_the_scripts_start_without_what_only_unix_has(tmp_path, script):
    program = tmp_path / "start.py"
    program.write_text(OTHER_SYSTEM.replace("SCRIPT", script).replace("SIGNALS", '("SIGKILL",)'))
    done = subprocess.run(
        [sys.executable, str(program), "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and "usage: " in done.stdout, done.stderr


def test_the_check_works_without_what_only_unix_has(root, tmp_path):
    """All but SIGKILL, which Python's own multiprocessing uses here."""
    program = tmp_path / "start.py"
    program.write_text(OTHER_SYSTEM.replace("SCRIPT", "check_videos").replace("SIGNALS", "()"))
    arguments = ["--root", str(root), "--quarantine", str(tmp_path / "bad"), "--remux", "--replace", "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, str(program), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "1 remuxed" in done.stdout and "1 quarantined" in done.stdout and "2 ok" in done.stdout


STRANGE = "a\n\x1b[31mb"


@pytest.mark.parametrize(
    "arguments, code",
    [
        (["--root", "no"], 2),
        (["--root", "{root}", "--shard", STRANGE], 2),
        (["--root", "{root}", STRANGE], 2),
        (["--root", "{root}", "--quarantine", "{file}"], 2),
        (["--root", "{root}"], 1),
        (["--root", "{root}", "--state", "{file}"], 1),
        (["--root", "{root}", "--report", "{file}/report.csv"], 1),
        (["--root", "{root}", "--quarantine", "{root}x", "--restore"], 1),
    ],
)
def test_an_error_is_one_line_whatever_the_names_in_it(tmp_path, capsys, arguments, code):
    (tmp_path / STRANGE).mkdir()
    file = tmp_path / f"{STRANGE}.txt"
    file.write_text("of somebody else")
    values = {"root": tmp_path / STRANGE, "file": file}
    if arguments == ["--root", "no"]:
        arguments = ["--root", str(tmp_path / f"no {STRANGE}")]
    try:
        found = check_videos.main([argument.format(**values) for argument in arguments])
    except SystemExit as stop:
        found = stop.code
    assert found == code
    output = capsys.readouterr()
    errors = [line for line in output.err.splitlines() if not line.startswith(("usage: ", " "))]
    assert len(errors) == 1 and r"\n\x1b[31mb" in errors[0] and output.out == ""
