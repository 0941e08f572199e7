"""Exports the network of a checkpoint to ONNX for a device, float or int8, and proves that it computes what validation
computes before it is written. Of torchvision's networks r2plus1d_18, r3d_18 and mc3_18 consist of what devices accept.
"""

import argparse
import sys
from pathlib import Path

from runtime import arguments
from runtime.arguments import add_choice, add_switch, add_value, non_negative_float, positive_int
from runtime.errors import require
from runtime.files import check_writable, replaced_file
from runtime.script import run_script
from training import options

LAYOUTS = ("NCTHW", "NTHWC")
NORMALIZE = ("inside", "outside")
DEFAULT_OPSET = 18


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=add_help, allow_abbrev=False)
    options.add_checkpoint_arguments(parser)
    add_value(parser, "--output", Path, "FILE", "the .onnx file to write", required=True)
    add_choice(parser, "--layout", LAYOUTS, "NCTHW", "layout of the input")
    add_choice(parser, "--normalize", NORMALIZE, "inside", "normalize inside the network, or before it")
    add_switch(parser, "--dynamic-batch", "any number of clips at once instead of one")
    add_value(parser, "--opset", positive_int, "N", "ONNX opset", DEFAULT_OPSET)
    options.add_class_map_argument(parser)
    data = parser.add_argument_group("proof on videos")
    add_value(data, "--data-path", Path, "DIR", "also compare on the videos DIR/val/<class>/")
    options.add_cache_dir_argument(data)
    options.add_skip_unreadable_argument(data)
    options.add_workers_argument(data)
    add_value(data, "--dump-tensors", Path, "DIR", "write the val clips for a device: .npy, and .h5 for AI Hub")
    int8 = parser.add_argument_group("quantization")
    int8.add_argument("--quantize", choices=("int8",), help="write int8 to --output, and float to <output>_float.onnx")
    add_value(int8, "--calibration-clips", positive_int, "N", "training clips to calibrate on", 512)
    add_value(int8, "--max-drop", non_negative_float, "POINTS", "accuracy that int8 may lose", 1.0)
    int8.add_argument("--keep-float", nargs="+", default=[], metavar="NAME", help="nodes or modules, such as fc")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when written, 1 when the export fails or cannot be trusted, 2 on wrong usage."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    check_args(parser, args)
    return run_script(lambda: run(parser, args))


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses arguments that do not go together, and fills in what depends on others."""
    outputs = [("--output", path) for path in output_files(args)]
    arguments.check_outputs(parser, outputs, [args.checkpoint, args.classes_file, args.class_map, args.data_path])
    for flag in ("quantize", "dump_tensors"):
        if getattr(args, flag) and args.data_path is None:
            parser.error(f"--{flag.replace('_', '-')} needs videos: give --data-path")
    if args.keep_float and not args.quantize:
        parser.error("--keep-float is about --quantize: give both")
    checkpoint = ("CHECKPOINT", Path(args.checkpoint))
    arguments.check_inputs(parser, [checkpoint, ("--classes-file", args.classes_file), ("--class-map", args.class_map)])
    arguments.check_folders(parser, [("--data-path", args.data_path)], must_exist=True)
    arguments.check_folders(parser, [("--cache-dir", args.cache_dir), ("--dump-tensors", args.dump_tensors)])


def output_files(args: argparse.Namespace) -> list[Path]:
    """The network to write, and with --quantize the float one before it."""
    float_file = args.output.parent / f"{args.output.stem}_float.onnx"
    return [float_file, args.output] if args.quantize else [args.output]


def run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Model, data, export, proof, quantization, files."""
    check_writable("--output", args.output)
    if args.dump_tensors:
        check_writable("--dump-tensors", args.dump_tensors / "manifest.jsonl")
    for name in ("onnx", "onnxscript", "onnxruntime", *(["h5py"] if args.dump_tensors else [])):
        require(name)
    newest = require("onnx.defs").onnx_opset_version()
    if not DEFAULT_OPSET <= args.opset <= newest:
        parser.error(f"--opset {args.opset}: from {DEFAULT_OPSET}, which torch's exporter writes, to onnx's {newest}")
    # Heavy imports come after parsing, so that --help and wrong usage do not wait for torch.
    from deployment import parity
    from deployment.device_tensors import MANIFEST, dump_tensors, open_official_clips, read_manifest
    from deployment.onnx_network import QUANTIZATION_OPERATORS, DeviceFormat
    from deployment.quantization import calibration_tensors, quantize_int8
    from network.class_map import check_class_map
    from network.trained_model import load_trained_model
    from reporting.run_folder import check_no_run

    check_no_run("--output", args.output)
    if args.dump_tensors and (args.dump_tensors / MANIFEST).exists():
        read_manifest(args.dump_tensors / MANIFEST)  # another program's is not replaced
    model = load_trained_model(args.checkpoint, args.classes_file)
    if args.class_map:
        check_class_map(args.class_map, model.classes, args.checkpoint)
    device_format = DeviceFormat(args.layout, args.normalize, args.dynamic_batch, args.opset)
    reading = {"cache_dir": args.cache_dir, "skip_unreadable": args.skip_unreadable, "num_workers": args.workers}
    val = open_official_clips(args.data_path / "val", model, **reading) if args.data_path else None
    train = open_official_clips(args.data_path / "train", model, **reading) if args.quantize else None

    proto, networks = parity.export(model, device_format)
    contents = [proto]
    if train is not None:
        tensors = calibration_tensors(train, model, device_format, args.calibration_clips)
        quantized = quantize_int8(proto, tensors, args.keep_float)
        parity.check_structure(quantized, "int8", QUANTIZATION_OPERATORS)
        networks["int8"] = parity.OnnxNetwork(quantized.SerializeToString(), device_format, model.preprocessing)
        contents = [proto, quantized]
    if val is not None:
        parity.prove_on_videos(networks, val, len(model.classes), args.max_drop)
    parity.print_latencies(networks, parity.random_clips(model.preprocessing, 1))
    if args.dump_tensors and val is not None:
        print(f"wrote {dump_tensors(args.dump_tensors, val, device_format, model.preprocessing)}")
    for path, content in zip(output_files(args), contents, strict=True):
        with replaced_file(path) as file:
            file.write(content.SerializeToString())
        print(f"wrote {path}, {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    sys.exit(main())
