"""What a worker does with one file: check it and, if it is bad, try a remux."""

import contextlib
import os
from typing import NamedTuple

import av

from references.dataset_tools.probing import ProbeOptions, Verdict, probe
from references.dataset_tools.promises import MATROSKA, MOV
from references.dataset_tools.reading import LENIENT_METADATA, demux_packets, open_video
from references.dataset_tools.workers import report_progress


class Inspection(NamedTuple):
    """The verdict on a file and, if a remux repaired it, the verdict on the remux."""

    verdict: Verdict
    remuxed: Verdict | None = None


def inspect(path: str, options: ProbeOptions, remux_to: str | None) -> Inspection:
    """Probe `path`; if it is bad and a remux repairs it, leave the remux at `remux_to`."""
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
    """Copy the streams of `path`, undecoded, into a new container of the same kind at `target`."""
    path, target = os.path.abspath(path), os.path.abspath(target)
    with contextlib.ExitStack() as files:
        source = files.enter_context(open_video(path))
        muxer = _muxer(source.format.name, path)
        output = files.enter_context(av.open(target, "w", format=muxer, **LENIENT_METADATA))
        output.metadata.update(source.metadata)
        streams = {
            stream.index: _add_stream(output, stream)
            for stream in source.streams
            if stream.type in ("video", "audio", "subtitle") and stream.codec_context is not None
        }
        for packet in demux_packets(source, [source.streams[index] for index in streams]):
            report_progress()
            if packet.size or packet.dts is not None:  # the last packet of a stream only says that it ends
                packet.stream = streams[packet.stream.index]
                output.mux(packet)
    with open(target, "r+b") as file:
        os.fsync(file.fileno())


def _add_stream(output: av.container.OutputContainer, stream: av.stream.Stream) -> av.stream.Stream:
    try:
        return output.add_stream_from_template(stream)
    except av.codec.codec.UnknownCodecError:  # its decoder has no encoder of the same name, as AV1's
        return output.add_stream_from_template(stream, opaque=True)


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
