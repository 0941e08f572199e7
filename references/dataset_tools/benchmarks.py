"""How fast the dataset scripts are against the bare work that they cannot do without, measured side by side."""

import contextlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from references.dataset_tools.checking import TreeChecker
from references.dataset_tools.probing import ProbeOptions
from references.dataset_tools.progress import printable_name

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_CLASSES, NUM_PARTS = 150, 4
NUM_FILES_FOR_MEMORY = 10_000


def benchmark_refactor(num_entries: int, work_dir: Path, jobs: int) -> dict[str, float]:
    """Place `num_entries` tiny files by hard links, against a bare `os.link` loop over the same files.

    Works in new folders in `work_dir` and removes them. Seconds are wall time, of the script with its start-up.
    """
    release, bare, dest = work_dir / "release", work_dir / "bare", work_dir / "dest"
    try:
        entries = _write_release(release, num_entries)
        links = [
            (
                f"{release}/part-{index % NUM_PARTS}/{entry['video_path']}",
                f"{bare}/{entry['split']}/{entry['label'].replace(' ', '_')}/{entry['video_path']}",
            )
            for index, entry in enumerate(entries)
        ]
        for class_folder in {os.path.dirname(target) for _, target in links}:
            os.makedirs(class_folder)
        start = time.perf_counter()
        for source, target in links:
            os.link(source, target)
        bare_seconds = time.perf_counter() - start
        command = [sys.executable, str(REPOSITORY / "refactor_dataset.py"), "--src"]
        command += [f"{release}/part-{part}" for part in range(NUM_PARTS)]
        command += ["--labels", f"{release}/labels.json", "--dest", str(dest), "--jobs", str(jobs)]
        place_seconds, place_bytes = _run(command)
        rerun_seconds, rerun_bytes = _run(command)
    finally:
        for folder in (release, bare, dest):
            shutil.rmtree(folder, ignore_errors=True)
    return {
        "entries": num_entries,
        "bare_link_seconds": bare_seconds,
        "place_seconds": place_seconds,
        "rerun_seconds": rerun_seconds,
        "place_to_bare_ratio": place_seconds / bare_seconds,
        "rerun_to_bare_ratio": rerun_seconds / bare_seconds,
        "peak_bytes": max(place_bytes, rerun_bytes),
    }


def benchmark_check(files: list[Path], work_dir: Path, jobs: int, repeats: int = 3) -> dict[str, float]:
    """Check `files`, against a bare loop that decodes them in as many processes; and the memory over 10,000.

    The two are run in turns, and the fastest of each counts; by wall time, and by the processor time of all processes,
    which other work on the machine disturbs less.

    Args:
        files: readable videos.
        work_dir: for new folders, which are removed.
        jobs: number of processes.
        repeats: number of turns.
    """
    tree, many = work_dir / "tree", work_dir / "many"
    try:
        paths = _link_files(files, tree)
        bare, checked = [], []
        for _ in range(repeats):
            checked.append(_time(lambda: _check_all(tree, dict(zip(paths, files, strict=True)), jobs)))
            bare.append(_time(lambda: _decode_all([str(tree / path) for path in paths], jobs)))
        memory = _measure_memory(many, jobs)
    finally:
        for folder in (tree, many):
            shutil.rmtree(folder, ignore_errors=True)
    bare_seconds, bare_cpu_seconds = map(min, zip(*bare, strict=True))
    check_seconds, check_cpu_seconds = map(min, zip(*checked, strict=True))
    return {
        "files": len(files),
        "megabytes": sum(file.stat().st_size for file in files) / 1e6,
        "bare_decode_seconds": bare_seconds,
        "check_seconds": check_seconds,
        "check_to_bare_rate_ratio": bare_seconds / check_seconds,
        "bare_decode_cpu_seconds": bare_cpu_seconds,
        "check_cpu_seconds": check_cpu_seconds,
        "check_to_bare_cpu_ratio": bare_cpu_seconds / check_cpu_seconds,
        **memory,
    }


def _write_release(folder: Path, num_entries: int) -> list[dict[str, str]]:
    for part in range(NUM_PARTS):
        (folder / f"part-{part}").mkdir(parents=True)
    entries = []
    for index in range(num_entries):
        name = f"{index:08d}.mp4"
        with open(f"{folder}/part-{index % NUM_PARTS}/{name}", "wb") as file:
            file.write(name.encode())
        label, split = f"exercise number {index % NUM_CLASSES}", "val" if index % 7 == 0 else "train"
        entries.append({"video_path": name, "label": label, "split": split})
    (folder / "labels.json").write_text(json.dumps(entries))
    return entries


def _run(command: list[str]) -> tuple[float, int]:
    """Wall seconds and peak memory in bytes of a command that must succeed."""
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        # Not by wait4: Linux counts what this process held when it started the other one.
        while process.poll() is None:
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                peak = 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
            time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:2])} ended with exit code {process.returncode}")
    return time.perf_counter() - start, peak


def _link_files(files: list[Path], tree: Path) -> list[str]:
    (tree / "train").mkdir(parents=True)
    paths = [f"train/{index}{file.suffix}" for index, file in enumerate(files)]
    for file, path in zip(files, paths, strict=True):
        try:
            os.link(file, tree / path)
        except OSError:
            shutil.copyfile(file, tree / path)
    return paths


def _time(action: Callable[[], None]) -> tuple[float, float]:
    """Wall seconds of the action, and processor seconds of this process and those that have ended in it."""
    start, before = time.perf_counter(), os.times()
    action()
    return time.perf_counter() - start, sum(os.times()[:4]) - sum(before[:4])


def _decode_all(paths: list[str], jobs: int) -> None:
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for _ in pool.imap_unordered(_decode, paths):
            pass


def _decode(path: str) -> None:
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for _ in container.decode(video=0):
            pass


def _check_all(tree: Path, files: dict[str, Path], jobs: int) -> None:
    """Check the files of a tree, by their paths there -> where they are from. Raises OSError if one is not readable."""
    with contextlib.closing(TreeChecker(tree, options=ProbeOptions(), jobs=jobs).check(list(files))) as checked:
        for row in checked:
            if row.status != "ok":
                shown = printable_name(str(files[row.path]))
                raise OSError(f"{shown} is not readable ({row.reason}); measure with readable files only")


def _measure_memory(folder: Path, jobs: int) -> dict[str, float]:
    """Resident bytes of this process and its workers, after a tenth of the files and after all."""
    folder.mkdir(parents=True)
    with av.open(str(folder / "0.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    paths = [f"{index}.mp4" for index in range(NUM_FILES_FOR_MEMORY)]
    for path in paths[1:]:
        os.link(folder / "0.mp4", folder / path)
    resident = {}
    checked = TreeChecker(folder, options=ProbeOptions(), jobs=jobs).check(paths)
    for count, _ in enumerate(checked, start=1):
        if count in (len(paths) // 10, len(paths)):
            resident[count] = _resident_bytes()
    return {f"resident_bytes_after_{count}_files": size for count, size in resident.items()}


def _resident_bytes() -> int:
    pids = [os.getpid(), *(process.pid for process in multiprocessing.active_children())]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE")
