"""Checking a file, and trying a remux where it is bad: what a worker does with one file."""

import contextlib
import os
from typing import NamedTuple

import av

from references.dataset_tools.probing import OPEN_OPTIONS, ProbeOptions, Verdict, probe
from references.dataset_tools.promises import MATROSKA, MOV


class Inspection(NamedTuple):
    """The verdict on a file and, where a remux repaired it, the verdict on the remux."""

    verdict: Verdict
    remuxed: Verdict | None = None


def inspect(path: str, options: ProbeOptions, remux_to: str | None) -> Inspection:
    """Probes `path`; where it is bad, leaves a remux that repairs it at `remux_to`, or else nothing."""
    verdict = probe(path, options)
    # What is missing stays missing: a stream copy would only make the loss look whole.
    if verdict.status != "bad" or remux_to is None or verdict.tail_is_missing or not verdict.frames:
        return Inspection(verdict)
    try:
        remux(path, remux_to)
    except (av.FFmpegError, ValueError, OSError) as error:
        unlink_if_there(remux_to)
        return Inspection(verdict._replace(reason=f"{verdict.reason}; a remux failed: {error}"))
    remuxed = probe(remux_to, options)
    if remuxed.status == "ok" and remuxed.frames >= verdict.promised_frames:
        return Inspection(verdict, remuxed)
    unlink_if_there(remux_to)
    return Inspection(verdict._replace(reason=f"{verdict.reason}; a remux does not repair it"))


def remux(path: str, target: str) -> None:
    """Copies the streams of `path`, undecoded, into a new container of the same kind at `target`."""
    path, target = os.path.abspath(path), os.path.abspath(target)
    with contextlib.ExitStack() as files:
        source = files.enter_context(av.open(path, options=dict(OPEN_OPTIONS)))
        output = files.enter_context(av.open(target, "w", format=_muxer(source.format.name, path)))
        output.metadata.update(source.metadata)
        streams = {
            stream.index: output.add_stream_from_template(stream)
            for stream in source.streams
            if stream.type in ("video", "audio", "subtitle") and stream.codec_context is not None
        }
        for packet in source.demux([source.streams[index] for index in streams]):
            if packet.dts is not None:  # the last packet of a stream only says that it ends
                packet.stream = streams[packet.stream.index]
                output.mux(packet)
    with open(target, "rb") as file:
        os.fsync(file.fileno())


def _muxer(demuxer: str, path: str) -> str:
    ending = os.path.splitext(path)[1].lower()
    if demuxer == MOV:
        return "mov" if ending == ".mov" else "mp4"
    if demuxer == MATROSKA:
        return "webm" if ending == ".webm" else "matroska"
    return demuxer.split(",")[0]


def unlink_if_there(path: str) -> None:
    if os.path.lexists(path):
        os.unlink(path)
