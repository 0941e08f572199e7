import os
from pathlib import Path

import pytest

from references.dataset_tools import planning, records
from references.dataset_tools.planning import Placement, scan_tree
from references.dataset_tools.release import Video
from references.dataset_tools.sources import SourceFile, Sources

VIDEO = Video("1.mp4", "squats", "train")
PLACE = "train/squats/1.mp4"


@pytest.fixture
def dest(tmp_path) -> Path:
    (tmp_path / "dest" / "train" / "squats").mkdir(parents=True)
    (tmp_path / "dest" / records.FOLDER).mkdir()
    return tmp_path / "dest"


@pytest.fixture
def source(tmp_path) -> SourceFile:
    (tmp_path / "1.mp4").write_bytes(b"source")
    return SourceFile(str(tmp_path / "1.mp4"), 6, 0, 0, 0)


def sources_of(source: SourceFile | None) -> Sources:
    return Sources({"1.mp4": source} if source else {}, {}, [], [])


def test_a_tree_is_listed(dest):
    folder = dest / "train" / "squats"
    for name in ("1.mp4", ".2.partial", "x.partial", ".hidden"):
        (folder / name).write_bytes(b"")
    (folder / "link").symlink_to("1.mp4")
    (folder / "dangling").symlink_to("nowhere")
    tree = scan_tree(dest, {"train/squats", "val/squats"})
    assert tree.files == {f"train/squats/{name}" for name in ("1.mp4", "x.partial", ".hidden", "link")}
    assert tree.dangling == {"train/squats/dangling"} and tree.partial == ["train/squats/.2.partial"]


# withdrawn as, is in place, has a source, force -> what is planned
CASES = {
    "nothing is there": ((None, False, True, False), "place"),
    "nothing is there, and force changes nothing": ((None, False, True, True), "place"),
    "it is there": ((None, True, True, False), "present"),
    "it is there, force changes nothing": ((None, True, True, True), "present"),
    "it is there, and its source is gone": ((None, True, False, False), "present"),
    "it is nowhere": ((None, False, False, False), "nothing"),
    "it is in quarantine": (("quarantined", False, True, False), "withdrawn"),
    "it is in quarantine, and wanted back": (("quarantined", False, True, True), "forced"),
    "it is in quarantine only": (("quarantined", False, False, True), "problem"),
    "it is in quarantine only, and left there": (("quarantined", False, False, False), "withdrawn"),
    "another is in place of the quarantined": (("quarantined", True, True, False), "present"),
    "it was remuxed": (("remuxed", True, True, False), "withdrawn"),
    "it was remuxed, and the original wanted back": (("remuxed", True, True, True), "forced"),
    "its remux was removed": (("remuxed", False, True, False), "withdrawn"),
    "it was remuxed, and no source holds the original": (("remuxed", True, False, True), "problem"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_planned(dest, source, case):
    (status, is_there, has_source, force), expected = CASES[case]
    if is_there:
        (dest / PLACE).write_bytes(b"in place")
    sources, withdrawn = sources_of(source if has_source else None), {PLACE: status} if status else {}
    tree = scan_tree(dest, {"train/squats"})
    plan = planning.plan_placements(dest, {PLACE: VIDEO}, sources, tree, withdrawn, force)
    placement = Placement(PLACE, source)
    assert plan.placements == ([placement] if expected in ("place", "forced") else [])
    assert plan.forced == ([PLACE] if expected == "forced" else [])
    assert plan.present == ([(PLACE, source if has_source else None)] if expected == "present" else [])
    assert plan.withdrawn == ({PLACE: status} if expected in ("withdrawn", "problem") else {})
    reason = f"was {status}, and no source holds it; check_videos.py --restore puts it back"
    assert plan.problems == ([(PLACE, reason)] if expected == "problem" else [])


def test_the_remux_itself_is_not_taken_for_the_original(dest):
    (dest / PLACE).write_bytes(b"remuxed")
    itself = SourceFile(str(dest / PLACE), 7, 0, 0, 0)
    tree = scan_tree(dest, {"train/squats"})
    plan = planning.plan_placements(dest, {PLACE: VIDEO}, sources_of(itself), tree, {PLACE: "remuxed"}, True)
    assert plan.placements == [] and len(plan.problems) == 1


def test_sizes_of_what_no_source_holds(dest, source):
    targets = {f"train/squats/{n}.mp4": Video(f"{n}.mp4", "squats", "train") for n in range(1, 6)}
    (dest / "train/squats/2.mp4").write_bytes(b"in place")
    records.append_lines(dest / records.FOLDER / "placed.jsonl", [["train/squats/3.mp4", 33, 0, "x"]])
    withdrawn = {"train/squats/3.mp4": "quarantined", "train/squats/4.mp4": "quarantined"}
    tree = scan_tree(dest, {"train/squats"})
    sizes = planning.sizes_without_source(dest, targets, sources_of(source), tree, withdrawn)
    assert sizes == {"2.mp4": 8, "3.mp4": 33, "4.mp4": 0}
    files = planning.files_to_compare(dest, targets, sources_of(source), tree)
    assert files == {"1.mp4": (source.path, 6), "2.mp4": (str(dest / "train/squats/2.mp4"), 8)}


def test_only_what_is_in_the_way_is_removed(dest, source):
    folder = dest / "train" / "squats"
    for name in (".2.partial", "3.mp4", "own.mp4"):
        (folder / name).write_bytes(b"")
    for name in ("1.mp4", "own link"):
        (folder / name).symlink_to("nowhere")
    forced = ["train/squats/3.mp4", "train/squats/4.mp4"]
    placements = [Placement(path, source) for path in (PLACE, *forced)]
    plan = planning.Plan(placements, forced, [], {}, [])
    planning.clear_way(dest, plan, scan_tree(dest, {"train/squats"}))
    assert sorted(os.listdir(folder)) == ["own link", "own.mp4"]
    lines = records.read_lines(dest / records.FOLDER / "withdrawn.jsonl")
    assert [line["status"] for line in lines] == ["put back", "put back"]


def test_names_that_clash_are_found_by_trying(dest, tmp_path, monkeypatch):
    groups = [["train/x/A.mp4", "train/x/a.mp4"], ["train/y/B.mp4", "train/y/c.mp4"]]
    assert planning.find_clashing(dest, groups) == [] == planning.find_clashing(dest, [])
    touch = Path.touch
    monkeypatch.setattr(planning.Path, "touch", lambda path: touch(path.with_name(path.name.lower())))
    assert planning.find_clashing(dest, groups) == groups[:1]
    assert planning.find_clashing(tmp_path / "not" / "there", groups) == groups[:1]
    assert os.listdir(dest / records.FOLDER) == [] and os.listdir(tmp_path) == ["dest"]
