"""Writes the network of a checkpoint as ONNX for a device, float or int8, and only after proof that it computes what
validation computes.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from caching.splits import ClipOptions, Clips, open_clips
from deployment.device_tensors import dump_tensors
from deployment.latency import measure_latency
from deployment.onnx_network import (
    DEFAULT_OPSET,
    LAYOUTS,
    NORMALIZE,
    QUANTIZATION_OPERATORS,
    DeviceFormat,
    ExportError,
    check_operators,
    to_onnx,
)
from deployment.parity import (
    OnnxNetwork,
    Scored,
    TorchNetwork,
    check_accuracy,
    check_file,
    check_parity,
    clip_arrays,
    random_clips,
    score,
)
from deployment.quantization import quantize_int8
from evaluation.intervals import paired_difference
from network.trained_model import TrainedModel, load_trained_model
from runtime import arguments
from runtime.errors import UserError, require
from runtime.files import replaced_file
from runtime.worker_pool import default_workers
from videos.folder import VideoFolder


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=add_help, allow_abbrev=False)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="by train.py, or the public sample solution")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the .onnx file to write")
    parser.add_argument("--layout", default="NCTHW", choices=LAYOUTS, help="of the input (NCTHW)")
    parser.add_argument(
        "--normalize", default="inside", choices=NORMALIZE, help="mean and deviation: in the network, or before it"
    )
    parser.add_argument("--dynamic-batch", action="store_true", help="any number of clips at once, instead of one")
    parser.add_argument("--opset", default=DEFAULT_OPSET, type=int, metavar="N", help=f"of ONNX ({DEFAULT_OPSET})")
    parser.add_argument("--classes-file", type=Path, metavar="FILE", help="of a checkpoint without class names")
    data = parser.add_argument_group("proof on videos")
    data.add_argument("--data-path", type=Path, metavar="DIR", help="compare on DIR/val/<class>/ too")
    data.add_argument("--cache-dir", type=Path, metavar="DIR", help="where the index is kept (<data-path>/.clip_cache)")
    data.add_argument("--skip-unreadable", action="store_true", help="go on without files that cannot be read")
    data.add_argument(
        "--workers", "-j", default=default_workers(), type=arguments.non_negative_int, metavar="N", help="(the cores)"
    )
    data.add_argument("--dump-tensors", type=Path, metavar="DIR", help="write the val clips for a device")
    int8 = parser.add_argument_group("quantisation")
    int8.add_argument("--quantize", choices=("int8",), help="--output is int8, and <output>_float.onnx is beside it")
    int8.add_argument(
        "--calibration-clips", default=512, type=arguments.positive_int, metavar="N", help="of training (512)"
    )
    int8.add_argument(
        "--max-drop", default=1.0, type=arguments.non_negative_float, metavar="POINTS", help="of accuracy (1)"
    )
    int8.add_argument("--keep-float", nargs="+", default=[], metavar="NAME", help="nodes or modules, such as fc")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when written, 1 when it is not to be trusted or could not be made, 2 on wrong usage."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    try:
        check_args(parser, args)
        run(args)
    except UserError as error:
        print(f"error: {error}; {args.output} was not written", file=sys.stderr)
        return 1
    except OSError as error:
        reason = f"{error.filename or args.output}: {error.strerror or error}"
        print(f"error: {reason}; {args.output} was not written", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted: {args.output} was not written", file=sys.stderr)
        return 130
    return 0


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses what cannot be right, before any work, and fills in what depends on other flags. Raises MissingExtra."""
    newest = DEFAULT_OPSET if args.opset == DEFAULT_OPSET else require("onnx.defs").onnx_opset_version()
    if not DEFAULT_OPSET <= args.opset <= newest:
        parser.error(f"--opset {args.opset}: from {DEFAULT_OPSET}, which torch's exporter writes, to onnx's {newest}")
    if args.output.is_dir():
        parser.error(f"--output {args.output} is a folder: name a file in it")
    for flag in ("quantize", "dump_tensors"):
        if getattr(args, flag) and args.data_path is None:
            parser.error(f"--{flag.replace('_', '-')} needs videos: give --data-path")
    if args.keep_float and not args.quantize:
        parser.error("--keep-float is about --quantize: give both")
    if args.cache_dir is None and args.data_path is not None:
        args.cache_dir = args.data_path / ".clip_cache"


def run(args: argparse.Namespace) -> None:
    """Model, data, export, proof, quantisation, files."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require(name)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=args.output.parent):
        pass  # it can be written: better known now than after the work
    model = load_trained_model(args.checkpoint, args.classes_file)
    device_format = DeviceFormat(args.layout, args.normalize, args.dynamic_batch, args.opset)
    val = open_split(args, model, "val") if args.data_path else None
    train = open_split(args, model, "train") if args.quantize else None

    float_proto = to_onnx(model, device_format)
    check_structure(float_proto, "float")
    networks = {"PyTorch": TorchNetwork(model), "float": load_onnx(float_proto, model, device_format)}
    clips = random_clips(model.preprocessing)
    difference = check_parity(networks["PyTorch"](clips), networks["float"](clips))
    print(f"parity: {len(clips)} random clips, largest difference in logits {difference:.2g}, same classes")
    files = {args.output: float_proto}
    if train is not None:
        tensors = calibration_tensors(train, model, device_format, args.calibration_clips)
        int8_proto = quantize_int8(float_proto, tensors, args.keep_float)
        check_structure(int8_proto, "int8", QUANTIZATION_OPERATORS)
        networks["int8"] = load_onnx(int8_proto, model, device_format)
        files = {args.output.with_name(f"{args.output.stem}_float.onnx"): float_proto, args.output: int8_proto}
    if val is not None:
        prove_on_videos(score(networks, val, len(model.classes)), val, args.max_drop)
    for name, network in networks.items():
        print(f"latency on this CPU, {torch.get_num_threads()} threads: {name} {one_clip_latency(network, clips)}")
    if args.dump_tensors:
        print(f"wrote {dump_tensors(args.dump_tensors, val, device_format, model.preprocessing)}")
    for path, proto in files.items():
        with replaced_file(path) as file:
            file.write(proto.SerializeToString())
        print(f"wrote {path}, {path.stat().st_size / 2**20:.1f} MiB")


def open_split(args: argparse.Namespace, model: TrainedModel, split: str) -> Clips:
    """The official clips of a split, by the float path."""
    clip_options = ClipOptions(
        model.preprocessing,
        cache_dir=args.cache_dir,
        skip_unreadable=args.skip_unreadable,
        batch_size=1,
        num_workers=args.workers,
    )
    return open_clips(VideoFolder(args.data_path / split, model.classes), clip_options)


def check_structure(proto, name: str, further_operators: set[str] = frozenset()) -> None:
    """Operators and ONNX's checker."""
    operators = check_operators(proto, further_operators)
    print(f"{name}: operators {', '.join(f'{operator} {count}' for operator, count in sorted(operators.items()))}")
    check_file(proto)
    print(f"{name}: ONNX checker passed, opset {proto.opset_import[0].version}")


def load_onnx(proto, model: TrainedModel, device_format: DeviceFormat) -> OnnxNetwork:
    """The network as ONNX Runtime reads it from the file's bytes."""
    return OnnxNetwork(proto.SerializeToString(), device_format, model.preprocessing, torch.get_num_threads())


def calibration_tensors(
    train: Clips, model: TrainedModel, device_format: DeviceFormat, count: int
) -> Iterator[np.ndarray]:
    """`count` training clips, or all there are, drawn from all classes alike by chance, always the same."""
    chosen = train.videos[torch.randperm(len(train.videos), generator=torch.Generator().manual_seed(0))[:count]]
    for _, clip in clip_arrays(train, chosen, "Calibrating"):
        yield device_format.tensor(clip, model.preprocessing)


def prove_on_videos(scored: dict[str, Scored], val: Clips, max_drop: float) -> None:
    """Prints the accuracy of each network over the val set. Raises ExportError where it must not differ and does."""
    expected, exported = scored["PyTorch"], scored["float"]
    difference = check_parity(expected.logits, exported.logits)
    check_accuracy(expected.results, exported.results)
    skipped = f", {val.skipped} unreadable not scored" if val.skipped else ""
    print(
        f"proof: {len(val.videos)} validation videos{skipped}, {val.options.preprocessing.rule}, "
        f"largest difference in logits {difference:.2g}; video Acc@1 {expected.results.video.top1:.3f} by PyTorch, "
        f"{exported.results.video.top1:.3f} by ONNX Runtime"
    )
    if "int8" not in scored:
        return
    points, low, high = (100 * share for share in paired_difference(exported.right, scored["int8"].right))
    print(
        f"int8: video Acc@1 {scored['int8'].results.video.top1:.3f}, {points:+.3f} points against float "
        f"(95 % interval, paired: {low:+.3f} to {high:+.3f})"
    )
    if points < -max_drop:
        raise ExportError(f"int8 loses {-points:.3f} points, more than --max-drop {max_drop:g}: try --keep-float")


def one_clip_latency(network, clips: np.ndarray):
    """Of single clips."""
    return measure_latency(lambda: network(clips[:1]), repeats=10, warm_up=2)


if __name__ == "__main__":
    sys.exit(main())
