"""Scores logits computed on a device from the tensors that export_onnx.py --dump-tensors wrote."""

import argparse
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from deployment.device_tensors import LogitsError, match_rows, read_logits, read_manifest
from evaluation.metrics import VideoResults, VideoScores
from runtime.errors import UserError
from training.screen import print_results


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        add_help=add_help,
        allow_abbrev=False,
        epilog="LOGITS holds an array for each row of the manifest, named by its `video` or its `tensor`.",
    )
    parser.add_argument("manifest", type=Path, metavar="DIR/manifest.jsonl", help="written with the tensors")
    parser.add_argument("logits", type=Path, metavar="LOGITS.{npz,h5}", help="output of the device")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when the files do not fit together, 2 on wrong usage."""
    args = get_args_parser().parse_args(argv)
    try:
        results = score_logits(args.manifest, args.logits)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_results(results, f"logits of {args.logits}", f"the tensors of {args.manifest}", 0)
    return 0


def score_logits(manifest: Path, logits_file: Path) -> VideoResults:
    """The accuracy of a device, computed by the same code as in validation. Raises LogitsError, MissingExtra."""
    rows = read_manifest(manifest)
    logits = match_rows(rows, read_logits(logits_file), logits_file)
    num_classes = logits.shape[1]
    if others := {row["num_classes"] for row in rows if "num_classes" in row} - {num_classes}:
        raise LogitsError(f"{logits_file} has logits of {num_classes} classes, the manifest has {others.pop()}")
    if (highest := max(row["label"] for row in rows)) >= num_classes:
        raise LogitsError(f"{logits_file} has logits of {num_classes} classes, and the manifest names class {highest}")
    targets, videos = torch.tensor([row["label"] for row in rows]), torch.arange(len(rows))
    scores = VideoScores(targets, num_classes, clips_per_video=1)
    scores.update(videos, logits, F.cross_entropy(logits, targets, reduction="none"))
    return scores.reduce(videos)


if __name__ == "__main__":
    sys.exit(main())
