"""Runs a checkpoint on a device of Qualcomm AI Hub: exports and proves it, compiles it there, measures its latency, and
its accuracy on the validation videos. Run again, it goes on from where it was.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import arguments
from runtime.arguments import add_choice, add_switch, add_value, positive_float, positive_int
from runtime.errors import require
from runtime.files import check_writable
from runtime.script import run_script
from runtime.signals import ResumeCommand
from training import options

if TYPE_CHECKING:
    from deployment.device_run import DeviceRun
    from evaluation.metrics import VideoResults

DEVICE = "Dragonwing IQ-9075 EVK"  # the challenge's, as is its limit
LIMIT_MS = 34.0
RUNTIMES = ("qnn_context_binary", "qnn_dlc", "onnx")  # not tflite, which takes 17 times as long
QUANTIZATIONS = ("none", "w8a8", "w8a16")
CALIBRATION_CLIPS = 512


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=add_help, allow_abbrev=False)
    options.add_checkpoint_arguments(parser)
    add_value(parser, "--data-path", Path, "DIR", "holds val/<class>/, and train/", required=True)
    add_value(parser, "--output-dir", Path, "DIR", "of jobs.json, device.json, report and logits", required=True)
    options.add_cache_dir_argument(parser)
    add_value(parser, "--videos", videos_count, "N|all", "videos to run on (all)")
    options.add_skip_unreadable_argument(parser)
    options.add_workers_argument(parser)
    target = parser.add_argument_group("what it is made into")
    add_value(target, "--device", str, "NAME", "one of AI Hub's", DEVICE)
    add_choice(target, "--runtime", RUNTIMES, RUNTIMES[0], "target runtime")
    text = "bits of weights and activations (none: float)"
    target.add_argument("--quantize", default="none", choices=QUANTIZATIONS, help=text)
    text = f"training clips to calibrate on ({CALIBRATION_CLIPS})"
    add_value(target, "--calibration-clips", positive_int, "N", text)
    add_switch(target, "--channel-last", "the compiled network takes N T H W C")
    add_value(target, "--limit-ms", positive_float, "MS", "for the verdict", LIMIT_MS)
    submission = parser.add_argument_group("submission")
    text = "give these accounts access to the compile job"
    submission.add_argument("--share-with", nargs="+", default=[], metavar="EMAIL", help=text)
    ways = submission.add_mutually_exclusive_group()
    add_switch(ways, "--submit-only", "submit every job and wait for none")
    add_switch(ways, "--dry-run", "export and prove, then say what would be sent; uses no network")
    return parser


def videos_count(text: str) -> int | None:
    """A number of videos for argparse, None for `all`."""
    return None if text == "all" else positive_int(text)


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when it could not be done, 2 on wrong usage, 130 on Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    parser = get_args_parser()
    args = parser.parse_args(argv)
    check_args(parser, args)
    return run_script(lambda: run(args), resume_command=ResumeCommand([sys.argv[0], *argv]))


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses arguments that do not go together, and fills in what depends on others."""
    if args.calibration_clips and args.quantize == "none":
        parser.error("--calibration-clips is about --quantize: give both")
    if wrong := [address for address in args.share_with if "@" not in address]:
        parser.error(f"--share-with {wrong[0]}: not an e-mail address")
    own = [("--output-dir", args.output_dir / name) for name in ("jobs.json", "device.json", "model.onnx")]
    arguments.check_outputs(parser, own, [args.checkpoint, args.classes_file, args.data_path])
    arguments.check_inputs(parser, [("CHECKPOINT", Path(args.checkpoint)), ("--classes-file", args.classes_file)])
    arguments.check_folders(parser, [("--data-path", args.data_path)], must_exist=True)
    arguments.check_folders(parser, [("--output-dir", args.output_dir), ("--cache-dir", args.cache_dir)])
    held = {
        name for name in ("args.json", "log.jsonl", "report.html", "jobs.json") if (args.output_dir / name).exists()
    }
    if held & {"args.json", "log.jsonl"} or held == {"report.html"}:  # which would be replaced
        parser.error(f"--output-dir {args.output_dir}: holds a run of train.py; name a folder in it, or another place")
    args.calibration_clips = args.calibration_clips or CALIBRATION_CLIPS


def run(args: argparse.Namespace) -> None:
    """Model, data, device, export, jobs, report."""
    for name in ("onnx", "onnxscript", "onnxruntime", "h5py"):
        require(name)
    # Heavy imports come after parsing, so that --help and wrong usage do not wait for torch.
    from deployment.ai_hub import REQUIREMENTS, AiHub
    from reporting.run_folder import sole_run

    if not args.dry_run:
        require("qai_hub", REQUIREMENTS)
    check_writable("--output-dir", args.output_dir / "jobs.json")
    with sole_run(args.output_dir):  # two would upload and submit everything twice
        work = open_run(args)
        if args.dry_run:
            work.export()
            work.describe(args.share_with)
            return
        hub = AiHub(work.record)
        hub.check_device(args.device)
        work.export()
        work.submit(hub, args.share_with, wait=not args.submit_only)
        if args.submit_only:
            print(f"all jobs are submitted: {work.record.path}. The same command without --submit-only collects them")
            return
        profile, logits = work.collect(hub)
        print_report(work, *work.report(profile, logits, args.limit_ms))


def open_run(args: argparse.Namespace) -> "DeviceRun":
    """The model, its videos, and the record of what was done before."""
    from dataclasses import replace

    from deployment.ai_hub import Record
    from deployment.device_run import DeviceRun, Target, settings_of
    from deployment.device_tensors import drawn_videos, open_official_clips
    from network.trained_model import load_trained_model

    model = load_trained_model(args.checkpoint, args.classes_file)
    reading = {"cache_dir": args.cache_dir, "skip_unreadable": args.skip_unreadable, "num_workers": args.workers}
    val = open_official_clips(args.data_path / "val", model, **reading)
    if args.videos is not None:
        val = replace(val, videos=drawn_videos(val, args.videos).sort().values)
    train = None if args.quantize == "none" else open_official_clips(args.data_path / "train", model, **reading)
    target = Target(args.device, args.runtime, args.quantize, args.calibration_clips, args.channel_last)
    record = Record(args.output_dir, settings_of(target, model, val, train))
    return DeviceRun(args.output_dir, target, model, val, train, record)


def print_report(work: "DeviceRun", results: "VideoResults", summary: dict[str, Any]) -> None:
    """Prints what was measured, and where it was written."""
    from deployment.device_run import SUMMARY
    from reporting.html_report import REPORT
    from training.screen import print_results

    verdict = "within" if summary["within_limit"] else "beyond"
    print(f"latency on {summary['device']}: {summary['latency_ms']:.2f} ms, {verdict} {summary['limit_ms']:g} ms")
    print(f"layers: {', '.join(f'{count} on {unit}' for unit, count in summary['layers'].items())}")
    print_results(results, work.model.preprocessing.rule, work.val.pixels, work.val.skipped)
    low, high = summary["acc1_difference_interval"]
    print(
        f"PyTorch: video Acc@1 {summary['pytorch_acc1']:.3f}; the device {summary['acc1_difference']:+.3f} points "
        f"(95 % interval, paired: {low:+.3f} to {high:+.3f}), largest difference in logits "
        f"{summary['largest_logit_difference']:.2g}"
    )
    print(f"wrote {work.folder / SUMMARY} and {work.folder / REPORT}")


if __name__ == "__main__":
    sys.exit(main())
