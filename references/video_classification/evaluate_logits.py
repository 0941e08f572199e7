"""Scores logits computed on a device from the tensors that export_onnx.py --dump-tensors wrote."""

import argparse
import sys
from pathlib import Path

from runtime.arguments import check_inputs
from runtime.script import run_script


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        add_help=add_help,
        allow_abbrev=False,
        epilog="LOGITS hold an array for each row of the manifest, named by its `video` or its `tensor`. In AI Hub's "
        ".h5 files they have no names: give every chunk, in the order in which the inputs were sent.",
    )
    parser.add_argument("manifest", type=Path, metavar="DIR/manifest.jsonl", help="written with the tensors")
    parser.add_argument("logits", nargs="+", type=Path, metavar="LOGITS.{npz,h5}", help="output of the device")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when the files do not fit together, 2 on wrong usage."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    check_inputs(parser, [("MANIFEST", args.manifest), *(("LOGITS", path) for path in args.logits)])
    return run_script(lambda: run(args.manifest, args.logits))


def run(manifest: Path, logits: list[Path]) -> None:
    """Reads, scores, prints."""
    # Heavy imports come after parsing, so that --help and wrong usage do not wait for torch.
    from deployment.device_tensors import score_logits
    from training.screen import print_results

    print_results(
        score_logits(manifest, logits), f"logits of {', '.join(map(str, logits))}", f"the tensors of {manifest}", 0
    )


if __name__ == "__main__":
    sys.exit(main())
