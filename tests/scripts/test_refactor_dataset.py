import csv
import fcntl
import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import refactor_dataset
from helpers.permissions import permissions_count
from helpers.release_files import list_files, make_release, write_labels
from refactor_dataset import DatasetRefactorer
from references.dataset_tools import placing, planning, records, reports
from references.dataset_tools.release import ReleaseError

ENTRIES = [("1.mp4", "elbow plank", "train"), ("2.mp4", "elbow plank", "val"), ("3.mp4", "squats", "train")]
PLACES = {"1.mp4": "train/elbow_plank/1.mp4", "2.mp4": "val/elbow_plank/2.mp4", "3.mp4": "train/squats/3.mp4"}


@pytest.fixture
def release(tmp_path):
    srcs, labels = make_release(tmp_path, ENTRIES)
    return srcs, labels, tmp_path / "dest"


def run(release, *options) -> int:
    srcs, labels, dest = release
    return refactor_dataset.main(
        ["--src", *map(str, srcs), "--labels", str(labels), "--dest", str(dest), *map(str, options)]
    )


def write_classes(beside: Path, text: str) -> Path:
    path = beside.with_name("classes.txt")
    path.write_text(text, encoding="utf-8")
    return path


def test_the_class_form_places_every_video(release):
    srcs, labels, dest = release
    outcome = DatasetRefactorer(srcs, dest, labels).refactor_dataset()
    assert outcome.ways == {"hard link": 3}
    assert list_files(dest) == {place: f"the bytes of {name}".encode() for name, place in PLACES.items()}
    assert os.path.samefile(srcs[0] / "1.mp4", dest / PLACES["1.mp4"])


def test_the_class_form_lists_what_is_absent(release, capsys):
    srcs, labels, dest = release
    write_labels(labels, [*ENTRIES, ("4.mp4", "squats", "val")])
    assert DatasetRefactorer(srcs, dest, labels).refactor_dataset().absent == ["4.mp4"]
    output = capsys.readouterr()
    assert "1 listed, but in none of the sources:\n  4.mp4" in output.err
    assert "placed 3 (3 by hard link)" in output.out


def test_labels_that_the_output_cannot_encode_are_escaped(release, monkeypatch):
    write_labels(release[1], [(name, label.replace("a", "ä"), split) for name, label, split in ENTRIES])
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii", write_through=True))
    assert run(release) == 0
    assert b"elbow pl\\xe4nk" in output.getvalue()
    assert (release[2] / "train" / "elbow_plänk" / "1.mp4").exists()


def test_a_rerun_places_only_what_is_missing(release, capsys):
    assert run(release) == 0
    untouched, gone = release[2] / PLACES["1.mp4"], release[2] / PLACES["3.mp4"]
    untouched.write_bytes(b"changed by its owner")
    gone.unlink()
    capsys.readouterr()
    assert run(release) == 0
    assert "placed 1 (1 by hard link), 2 were there already" in capsys.readouterr().out
    assert untouched.read_bytes() == b"changed by its owner" and gone.exists()


def test_absent_videos_are_listed_and_the_rest_is_placed(release, capsys):
    srcs, labels, dest = release
    write_labels(labels, [*ENTRIES, ("4.mp4", "squats", "val")])
    assert run(release) == 1
    err = capsys.readouterr().err
    assert "1 listed, but in none of the sources:\n  4.mp4" in err and "--allow-missing" in err
    assert len(list_files(dest)) == 3
    assert run(release, "--allow-missing") == 0 and "--allow-missing" not in capsys.readouterr().err


@pytest.mark.parametrize("label", ["..", "a/b", "../../up"])
def test_a_refused_entry_is_named_and_nothing_is_placed(release, capsys, label):
    srcs, labels, dest = release
    write_labels(labels, [*ENTRIES, ("4.mp4", label, "val")])
    assert run(release) == 1
    assert "entry 3" in capsys.readouterr().err
    assert not dest.exists()


@pytest.mark.parametrize("status", ["quarantined", "remuxed"])
def test_what_was_withdrawn_comes_back_only_by_force(release, capsys, status):
    srcs, labels, dest = release
    run(release)
    place = dest / PLACES["1.mp4"]
    place.unlink()
    if status == "remuxed":
        place.write_bytes(b"remuxed")
    records.record_withdrawn(dest, [PLACES["1.mp4"]], status)
    before = list_files(dest)
    capsys.readouterr()
    assert run(release, "--verify") == 0
    assert f"1 left as they are: check_videos.py {status} them" in capsys.readouterr().out
    assert list_files(dest) == before
    assert run(release, "--force") == 0
    assert list_files(dest)[PLACES["1.mp4"]] == b"the bytes of 1.mp4"
    assert (srcs[0] / "1.mp4").read_bytes() == b"the bytes of 1.mp4"
    place.unlink()
    assert run(release) == 0 and place.exists(), "put back by force, it is no longer withdrawn"


@pytest.mark.parametrize("status", ["quarantined", "remuxed"])
def test_force_says_where_a_file_is_that_no_source_holds(release, capsys, status):
    run(release, "--mode", "move")
    (release[2] / PLACES["1.mp4"]).rename(release[2].with_name("kept.mp4"))
    if status == "remuxed":
        (release[2] / PLACES["1.mp4"]).write_bytes(b"remuxed")
    records.record_withdrawn(release[2], [PLACES["1.mp4"]], status)
    before = list_files(release[2])
    assert run(release, "--force") == 1
    errors = capsys.readouterr().err
    assert f"{PLACES['1.mp4']}: was {status}, and no source holds it; check_videos.py --restore puts it back" in errors
    assert list_files(release[2]) == before
    assert run(release) == 0


def test_force_does_not_take_the_tree_itself_for_a_source(release):
    srcs, labels, dest = release
    run(release)
    (dest / PLACES["1.mp4"]).write_bytes(b"remuxed")
    records.record_withdrawn(dest, [PLACES["1.mp4"]], "remuxed")
    assert run(([dest / "train", dest / "val"], labels, dest), "--force") == 1
    assert (dest / PLACES["1.mp4"]).read_bytes() == b"remuxed"


def test_a_restored_file_is_no_longer_withdrawn(release):
    run(release)
    records.record_withdrawn(release[2], [PLACES["1.mp4"]], "quarantined")
    records.record_withdrawn(release[2], [PLACES["1.mp4"]], "restored")
    (release[2] / PLACES["1.mp4"]).unlink()
    run(release)
    assert (release[2] / PLACES["1.mp4"]).exists()


def test_dry_run_changes_nothing(release, tmp_path, capsys):
    before = list_files(tmp_path)
    assert run(release, "--dry-run", "--prune", "--verify", "--force") == 0
    assert "placed 3 (3 by auto, had this not been a dry run)" in capsys.readouterr().out
    assert list_files(tmp_path) == before and not release[2].exists()


def test_a_dry_run_prunes_nothing_and_says_so(release, capsys):
    run(release)
    write_labels(release[1], ENTRIES[:1])
    assert run(release, "--dry-run", "--prune") == 0
    assert "would prune 2 that" in capsys.readouterr().out and len(list_files(release[2])) == 3


def test_symlink_mode_points_at_the_sources(release):
    assert run(release, "--mode", "symlink") == 0
    assert os.readlink(release[2] / PLACES["1.mp4"]) == str(release[0][0] / "1.mp4")


def test_copy_mode_makes_files_of_their_own(release):
    assert run(release, "--mode", "copy", "--verify") == 0
    place = release[2] / PLACES["1.mp4"]
    assert not os.path.samefile(release[0][0] / "1.mp4", place)
    assert place.stat().st_mtime_ns == (release[0][0] / "1.mp4").stat().st_mtime_ns


def test_move_mode_empties_the_sources_and_can_be_run_again(release, capsys):
    assert run(release, "--mode", "move", "--verify") == 0
    assert not list(release[0][0].iterdir()) and not list(release[0][1].iterdir())
    assert len(list_files(release[2])) == 3
    assert run(release, "--mode", "move", "--prune", "--verify") == 0, "what is in place needs no source"
    assert len(list_files(release[2])) == 3


def test_a_move_says_how_many_sources_of_files_in_place_it_takes(release, capsys):
    run(release)
    capsys.readouterr()
    assert run(release, "--mode", "move", "--dry-run") == 0
    assert "would take away the sources of 3 that were there already" in capsys.readouterr().out
    assert len(list_files(release[0][0])) + len(list_files(release[0][1])) == 3
    assert run(release, "--mode", "move") == 0
    assert "took away the sources of 3 that were there already" in capsys.readouterr().out
    assert len(list_files(release[2])) == 3 and not list_files(release[0][0])


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_move_through_a_link_is_refused(release, tmp_path, capsys, is_folder):
    srcs, labels, dest = release
    storage = tmp_path / "storage"
    storage.mkdir()
    (srcs[0] / "1.mp4").rename(storage / "1.mp4")
    (srcs[0] / ("linked" if is_folder else "1.mp4")).symlink_to(storage if is_folder else storage / "1.mp4")
    assert run(release, "--mode", "move") == 1
    assert f"1 videos are found through symbolic links, the first at {storage}/1.mp4" in capsys.readouterr().err
    assert list_files(dest) == {} and (storage / "1.mp4").exists()
    assert run(release) == 0 and os.path.samefile(dest / PLACES["1.mp4"], storage / "1.mp4")
    assert run(release, "--mode", "move") == 1 and (storage / "1.mp4").exists()


def test_a_link_to_itself_is_named_and_the_rest_is_placed(release, capsys):
    srcs, labels, dest = release
    (srcs[0] / "1.mp4").unlink()
    (srcs[0] / "1.mp4").symlink_to("1.mp4")
    assert run(release) == 1
    output = capsys.readouterr()
    assert f"a broken link or not a file: 1 ({srcs[0]}/1.mp4)" in output.out and "1.mp4" in output.err
    assert len(list_files(dest)) == 2


def test_videos_that_are_only_not_chosen_are_not_called_unlisted(release, capsys):
    assert run(release, "--max-per-class", 1, "--classes-file", write_classes(release[1], "squats")) == 0
    assert "present but unlisted: 0" in capsys.readouterr().out


def test_a_classes_file_without_classes_is_refused(release, capsys):
    run(release)
    assert run(release, "--prune", "--classes-file", write_classes(release[1], "\n \n")) == 1
    assert "the classes file names no class" in capsys.readouterr().err
    assert len(list_files(release[2])) == 3


def test_prune_takes_only_what_was_placed_and_is_not_asked_for(release, capsys):
    srcs, labels, dest = release
    run(release)
    own = dest / "train/elbow_plank/own.mp4"
    own.write_bytes(b"the user's own")
    write_labels(labels, [ENTRIES[0]])
    assert run(release, "--prune") == 0
    assert list_files(dest).keys() == {PLACES["1.mp4"], "train/elbow_plank/own.mp4"}
    assert not (dest / "train/squats").exists(), "an empty folder would be a class"
    assert len(list_files(srcs[0])) + len(list_files(srcs[1])) == 3


def test_prune_keeps_what_was_changed_or_is_the_only_copy(release, capsys):
    srcs, labels, dest = release
    run(release, "--mode", "copy")
    (dest / PLACES["1.mp4"]).write_bytes(b"remuxed since")
    next(src / "3.mp4" for src in srcs if (src / "3.mp4").exists()).unlink()
    write_labels(labels, [ENTRIES[1]])
    assert run(release, "--prune") == 1
    assert len(list_files(dest)) == 3
    errors = capsys.readouterr().err
    assert "only copy" in errors and "it was changed since it was placed" in errors


@pytest.mark.parametrize("at_source", ["another file", "a link to what was moved"])
def test_prune_keeps_a_moved_file_whatever_is_at_its_old_place(release, capsys, at_source):
    srcs, labels, dest = release
    run(release, "--mode", "move")
    if at_source == "another file":
        (srcs[0] / "1.mp4").write_bytes(b"")
    else:
        (srcs[0] / "1.mp4").symlink_to(dest / PLACES["1.mp4"])
    write_labels(labels, [ENTRIES[1], ENTRIES[2]])
    assert run(release, "--prune") == 1
    assert (dest / PLACES["1.mp4"]).read_bytes() == b"the bytes of 1.mp4"
    assert "is another file now, so this may be the only copy" in capsys.readouterr().err


def test_prune_removes_links_that_it_placed_even_if_they_lead_nowhere(release):
    srcs, labels, dest = release
    run(release, "--mode", "symlink")
    for src in srcs:
        src.rename(src.with_name(f"{src.name} elsewhere"))
        src.mkdir()
    write_labels(labels, ENTRIES[:1])
    assert run(release, "--prune", "--allow-missing") == 0
    assert not (dest / PLACES["2.mp4"]).is_symlink()


def test_verify_finds_other_bytes(release, capsys):
    run(release, "--mode", "copy")
    (release[2] / PLACES["2.mp4"]).write_bytes(b"THE BYTES OF 2.mp4")
    assert run(release) == 0
    assert run(release, "--verify") == 1
    assert PLACES["2.mp4"] in capsys.readouterr().err


def test_a_run_that_begins_leaves_the_report_that_another_writes(tmp_path):
    with records.replacing(tmp_path / "manifest.csv") as file:
        file.write("path")
        reports.prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.csv"]


def test_a_record_without_permission_is_no_matter_of_room(release, capsys):
    (release[2] / ".dataset_tools").mkdir(parents=True)
    record = release[2] / ".dataset_tools" / "placed.jsonl"
    record.touch(mode=0o444)
    with permissions_count():
        assert run(release, "--jobs", "1") == 1
    said = capsys.readouterr().err
    assert f"error: {record}: Permission denied; change its permissions, or name another place" in said


@pytest.mark.parametrize("most, named", [(20, "report/audit.json"), (100, "dest/.dataset_tools/placed.jsonl")])
def test_a_full_disk_names_the_file_and_leaves_no_part_of_it(release, tmp_path, most, named):
    srcs, labels, dest = release
    report = tmp_path / "report"
    options = ["--src", *map(str, srcs), "--labels", str(labels), "--dest", str(dest)]
    if most == 20:
        options += ["--report-dir", str(report)]
    done = subprocess.run(
        [sys.executable, refactor_dataset.__file__, *options],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),  # bytes of a file
    )
    assert done.returncode == 1
    assert f"error: {tmp_path}/{named}: File too large; make room, and run again" in done.stderr
    assert not report.exists() or not list(report.iterdir())


def read_manifest(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_reports(release, tmp_path):
    assert run(release, "--report-dir", tmp_path / "report") == 0
    row = {"path": PLACES["1.mp4"], "source": str(release[0][0] / "1.mp4"), "class": "elbow plank", "split": "train"}
    assert read_manifest(tmp_path / "report")[0] == {**row, "bytes": "18"}
    audit = json.loads((tmp_path / "report" / "audit.json").read_text())
    assert audit["per_class"]["val"] == {"elbow plank": {"videos": 1, "bytes": 18}}
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"manifest.csv", "audit.json"}


def test_reports_after_a_move_tell_what_is_under_dest(release, tmp_path):
    report, dest = tmp_path / "report", release[2]
    run(release, "--mode", "move", "--report-dir", report)
    first = read_manifest(report)
    assert len(first) == 3 and first[0]["source"] == str(release[0][0] / "1.mp4")
    (dest / PLACES["1.mp4"]).unlink()
    (dest / PLACES["2.mp4"]).write_bytes(b"remuxed")
    records.record_withdrawn(dest, [PLACES["1.mp4"]], "quarantined")
    records.record_withdrawn(dest, [PLACES["2.mp4"]], "remuxed")
    assert run(release, "--report-dir", report) == 0
    assert read_manifest(report) == [first[1], {**first[2], "bytes": "7"}]
    audit = json.loads((report / "audit.json").read_text())
    assert audit["absent"] == [] and (audit["videos"], audit["bytes"]) == (3, 18 + 7 + 18)


def test_the_manifest_of_a_dry_run_tells_what_would_be_there(release, tmp_path):
    run(release)
    (release[2] / PLACES["1.mp4"]).unlink()
    (release[2] / PLACES["2.mp4"]).unlink()
    records.record_withdrawn(release[2], [PLACES["1.mp4"]], "quarantined")
    run(release, "--dry-run", "--report-dir", tmp_path / "report")
    assert [row["path"] for row in read_manifest(tmp_path / "report")] == [PLACES["3.mp4"], PLACES["2.mp4"]]


def test_a_leak_places_nothing_but_is_reported(release, tmp_path, capsys):
    write_labels(release[1], [*ENTRIES, ("1.mp4", "squats", "val")])
    assert run(release, "--report-dir", tmp_path / "report") == 1
    assert "1.mp4: is listed under" in capsys.readouterr().err
    assert list_files(release[2]) == {}
    assert "1.mp4" in json.loads((tmp_path / "report" / "audit.json").read_text())["listed_twice"]
    assert run(release, "--allow-duplicates", "--mode", "move") == 1
    assert run(release, "--allow-duplicates") == 0
    assert len(list_files(release[2])) == 4


def test_val_fraction_works_without_splits(release):
    srcs, labels, dest = release
    labels.write_text(json.dumps([{"video_path": name, "label": "squats"} for name, _, _ in ENTRIES]))
    assert run(release) == 1, "an entry without a split"
    assert run(release, "--val-fraction", 0.34) == 0
    assert len(list_files(dest / "train")) == 2 and len(list_files(dest / "val")) == 1


def test_a_class_folder_that_is_a_file_is_a_clear_error(release, capsys):
    release[2].mkdir()
    (release[2] / "train").write_bytes(b"in the way")
    assert run(release) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--val-fraction", "1"],
        ["--max-per-class", "0"],
        ["--jobs", "0"],
        ["--mode", "teleport"],
        ["--classes-file", "no"],
    ],
)
def test_wrong_usage_gives_exit_code_2(release, options, capsys):
    with pytest.raises(SystemExit) as stop:
        run(release, *options)
    assert stop.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_a_source_that_is_dest_gives_exit_code_2(release, capsys):
    srcs, labels, dest = release
    with pytest.raises(SystemExit) as stop:
        run((srcs, labels, srcs[1]))
    assert stop.value.code == 2
    assert f"--src {srcs[1]}: is --dest" in capsys.readouterr().err


def test_an_absent_source_or_json_gives_exit_code_2(release, capsys):
    srcs, labels, dest = release
    for wrong in (([Path("/no/such")], labels, dest), (srcs, Path("/no/such.json"), dest)):
        with pytest.raises(SystemExit) as stop:
            run(wrong)
        assert stop.value.code == 2
    assert not dest.exists()


def test_a_split_that_nothing_looks_at_is_refused_unless_renamed(release, capsys):
    srcs, labels, dest = release
    write_labels(labels, [ENTRIES[0], ("2.mp4", "squats", "test"), ("3.mp4", "squats", "Validation")])
    assert run(release) == 1 and not dest.exists()
    assert '"Validation" (videos: 1), "test" (videos: 1), "train" (videos: 1)' in capsys.readouterr().err
    assert run(release, "--rename-split", "test=val") == 1 and not dest.exists()
    assert run(release, "--rename-split", "test=val", "--rename-split", "Validation=val") == 0
    assert list_files(dest).keys() == {PLACES["1.mp4"], "val/squats/2.mp4", "val/squats/3.mp4"}


def test_the_class_form_renames_splits(release):
    srcs, labels, dest = release
    write_labels(labels, [("1.mp4", "squats", "test")])
    DatasetRefactorer(srcs, dest, labels, rename_split={"test": "val"}).refactor_dataset()
    assert list(list_files(dest)) == ["val/squats/1.mp4"]


@pytest.mark.parametrize("content", ["[]", "", "{}"])
def test_labels_without_videos_prune_nothing(release, capsys, content):
    run(release)
    release[1].write_text(content)
    assert run(release, "--prune") == 1
    assert "labels.json: is " in capsys.readouterr().err and len(list_files(release[2])) == 3


def test_a_selection_of_nothing_prunes_nothing(release):
    srcs, labels, dest = release
    run(release)
    with pytest.raises(ReleaseError, match="no video is left to place"):
        DatasetRefactorer(srcs, dest, labels, max_per_class=0, prune=True).refactor_dataset()
    assert len(list_files(dest)) == 3


def test_a_file_that_nothing_would_look_at_is_not_placed(release, capsys):
    write_labels(release[1], [*ENTRIES, ("4.gif", "squats", "val")])
    assert run(release) == 1 and list_files(release[2]) == {}
    assert "1 names have no video extension (4.gif)" in capsys.readouterr().err


def write_copy(release) -> None:
    """Gives 2.mp4, of val, the bytes of 1.mp4, of train."""
    place = next(src / "2.mp4" for src in release[0] if (src / "2.mp4").exists())
    place.write_bytes(b"the bytes of 1.mp4")


def test_the_same_bytes_in_train_and_val_are_a_leak(release, tmp_path, capsys):
    write_copy(release)
    assert run(release, "--find-duplicates", "--allow-duplicates", "--report-dir", tmp_path / "report") == 1
    assert "1.mp4, 2.mp4: the same bytes in train and in val, a leak" in capsys.readouterr().err
    assert list_files(release[2]) == {}
    audit = json.loads((tmp_path / "report" / "audit.json").read_text())
    assert audit["duplicates"] == audit["leaking_duplicates"] == [["1.mp4", "2.mp4"]]
    assert run(release, "--find-duplicates", "--allow-leaks") == 0
    assert len(list_files(release[2])) == 3
    assert run(release, "--find-duplicates") == 1, "also of files that are in place"


def test_duplicates_are_not_looked_for_unless_asked(release):
    write_copy(release)
    assert run(release) == 0


def test_duplicates_of_moved_files_are_found_in_their_places(release):
    write_copy(release)
    run(release, "--mode", "move")
    assert run(release) == 0 and run(release, "--find-duplicates") == 1


def test_file_names_alike_but_for_case_are_warned_of(release, capsys):
    make_release(release[1].parent, [("A.mp4", "squats", "val"), ("a.mp4", "squats", "val")], parts=1)
    if len(list(release[0][0].glob("[aA].mp4"))) < 2:
        pytest.skip("this disk ignores case")
    assert run(release) == 0
    warning = "warning: val/squats/A.mp4, val/squats/a.mp4 differ only in case or Unicode form"
    assert warning in capsys.readouterr().err
    assert len(list_files(release[2])) == 2
    assert [path.name for path in (release[2] / ".dataset_tools").iterdir()] == ["lock", "placed.jsonl"]


def test_file_names_alike_but_for_case_are_refused_where_the_disk_ignores_case(release, capsys, monkeypatch):
    make_release(release[1].parent, [("A.mp4", "squats", "val"), ("a.mp4", "squats", "val")], parts=1)
    touch = Path.touch
    monkeypatch.setattr(planning.Path, "touch", lambda path: touch(path.with_name(path.name.lower())))
    assert run(release) == 1
    assert "val/squats/A.mp4 and val/squats/a.mp4 are one name to the disk of --dest" in capsys.readouterr().err
    assert list_files(release[2]) == {}
    assert [path.name for path in (release[2] / ".dataset_tools").iterdir()] == ["lock"]
    assert run(release, "--dry-run") == 1


def test_a_decomposed_name_is_placed_under_the_name_that_is_listed(release):
    srcs, labels, dest = release
    (srcs[0] / "u\u0308.mp4").write_bytes(b"1")
    write_labels(labels, [("\u00fc.mp4", "squats", "val")])
    assert run(release, "--verify") == 0
    assert list(list_files(dest)) == ["val/squats/\u00fc.mp4"]


def test_control_characters_in_names_do_not_reach_the_terminal(release, capsys):
    srcs, labels, dest = release
    (srcs[0] / "1.mp4").unlink()
    (srcs[0] / "\x1b[31m").mkdir()
    (srcs[0] / "\x1b[31m" / "1.mp4").symlink_to("nothing")
    (srcs[0] / "\x1b[31m" / "3.mp4").write_bytes(b"another 3.mp4")
    (srcs[0] / "\x9b31m\n.mp4").write_bytes(b"unlisted")
    assert run(release) == 1
    output = capsys.readouterr()
    assert r"\x1b[31m/1.mp4" in output.out and r"\x1b[31m/3.mp4" in output.err
    assert not {"\x1b", "\x9b"} & set(output.out + output.err)


@pytest.mark.parametrize("name", ["audit.json", "manifest.csv"])
@pytest.mark.parametrize("option", ["--labels", "--classes-file"])
def test_an_input_that_the_report_would_overwrite_is_refused(release, tmp_path, capsys, name, option):
    srcs, labels, dest = release
    (tmp_path / "report").mkdir()
    (tmp_path / "linked").symlink_to("report")
    precious = tmp_path / "report" / name
    precious.write_text(labels.read_text() if option == "--labels" else "squats")
    with pytest.raises(SystemExit) as stop:
        run(release, option, precious, "--report-dir", tmp_path / "linked")
    assert stop.value.code == 2 and "--report-dir would overwrite" in capsys.readouterr().err
    assert not dest.exists()


def test_a_report_folder_that_cannot_be_written_is_told_before_anything_is_placed(release, tmp_path, capsys):
    (tmp_path / "report" / "manifest.csv").mkdir(parents=True)
    assert run(release, "--report-dir", tmp_path / "report") == 1
    assert "manifest.csv is a folder" in capsys.readouterr().err and not release[2].exists()


def test_a_report_folder_that_would_be_a_class_is_refused(release, capsys):
    with pytest.raises(SystemExit) as stop:
        run(release, "--report-dir", release[2] / "train" / "report")
    assert stop.value.code == 2 and "lies among the class folders" in capsys.readouterr().err


def test_a_source_that_the_tree_leads_into_is_refused(release, capsys):
    release[2].mkdir()
    (release[2] / "val").symlink_to(release[0][0])
    with pytest.raises(SystemExit) as stop:
        run(release)
    assert stop.value.code == 2 and "is where the link" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--rename-split", "test"], ["--rename-split", "test=dev"], ["--allow-leaks"], ["--rename", "a=val"]]
)
def test_wrong_usage_of_splits_and_leaks_gives_exit_code_2(release, options):
    with pytest.raises(SystemExit) as stop:
        run(release, *options)
    assert stop.value.code == 2


def test_a_split_renamed_twice_gives_exit_code_2(release, capsys):
    with pytest.raises(SystemExit) as stop:
        run(release, "--rename-split", "test=val", "--rename-split", "test=train")
    assert stop.value.code == 2 and "renamed twice" in capsys.readouterr().err


def start(release, *options, prelude: str = "", **environment: str) -> subprocess.Popen:
    """Starts the script in a process of its own; `prelude` is run before it is imported."""
    srcs, labels, dest = release
    arguments = ["--src", *map(str, srcs), "--labels", str(labels), "--dest", str(dest), *map(str, options)]
    code = f"import sys\n{prelude}\nimport refactor_dataset\nsys.exit(refactor_dataset.main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        cwd=Path(refactor_dataset.__file__).parent,
    )


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_script_in_one_line(release, number, code):
    (release[2] / ".dataset_tools").mkdir(parents=True)
    with open(release[2] / ".dataset_tools" / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start(release)
        assert process.stdout.readline().startswith(b"waiting for another run")
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors.decode() == "stopped; what was placed is whole, run again to go on\n"


def test_a_signal_while_files_are_placed_lets_no_others_begin(release, monkeypatch, capsys):
    link, stop = os.link, threading.Event()

    def link_and_interrupt(source, target):
        link(source, target)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        assert stop.wait(60)

    monkeypatch.setattr(placing, "threading", SimpleNamespace(Event=lambda: stop))
    monkeypatch.setattr(placing.os, "link", link_and_interrupt)
    write_labels(release[1], [(name, "squats", "train") for name in PLACES])
    assert run(release, "--jobs", 1) == 130
    assert capsys.readouterr().err == "stopped; what was placed is whole, run again to go on\n"
    assert len(list_files(release[2])) == 1
    monkeypatch.undo()
    assert run(release) == 0 and len(list_files(release[2])) == 3


def test_a_reader_that_goes_away_is_no_traceback(release):
    process = start(release, prelude="import os\nwhile True:\n try: os.write(1, b'x')\n except OSError: break")
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and errors == b""


def test_the_script_runs_without_what_only_unix_has(release):
    missing = "\n".join(f"sys.modules[{name!r}] = None" for name in ("fcntl", "resource", "pwd", "grp", "termios"))
    process = start(release, "--mode", "copy", prelude=f"{missing}\nimport os\ndel os.pread, os.mkfifo")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert len(list_files(release[2])) == 3


def test_the_tree_and_its_records_are_the_same_under_every_locale(release, tmp_path):
    srcs, labels, dest = release
    (srcs[0] / "\u00fc.mp4").write_bytes(b"1")
    write_labels(labels, [("\u00fc.mp4", "pl\u00e4nk", "train"), ("1.mp4", "pl\u00e4nk", "val")])
    classes = write_classes(labels, "pl\u00e4nk")
    trees = []
    for locale in ("C", "C.UTF-8"):
        report = tmp_path / f"report {locale}"
        options = ["--classes-file", classes, "--report-dir", report, "--max-per-class", 5]
        process = start((srcs, labels, tmp_path / "tree"), *options, LC_ALL=locale, PYTHONUTF8="0")
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        records_of = (tmp_path / "tree" / ".dataset_tools" / "placed.jsonl").read_text()
        texts = [(report / name).read_text(encoding="utf-8") for name in ("audit.json", "manifest.csv")]
        trees.append((list_files(tmp_path / "tree"), records_of, *texts))
    assert trees[0] == trees[1]
    assert trees[0][0].keys() == {"train/pl\u00e4nk/\u00fc.mp4", "val/pl\u00e4nk/1.mp4"}
