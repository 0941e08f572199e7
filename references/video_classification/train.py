"""Fine-tunes a video classification network on DIR/{train,val}/<class>/<video>, or validates one (--test-only)."""

import argparse
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from runtime.script import run_script
from runtime.signals import ResumeCommand, StopRequest
from training import options
from training.option_checks import check_args, check_with_torch

if TYPE_CHECKING:
    import torch


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=add_help, allow_abbrev=False)
    options.add_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when it could not be done, 2 on wrong usage, 128 + signal when stopped by one."""
    argv = sys.argv[1:] if argv is None else argv
    parser = get_args_parser()
    args = parser.parse_args(argv)
    check_args(parser, args)
    command = ResumeCommand([sys.argv[0], *argv])

    def work() -> None:
        check_with_torch(parser, args)
        from network.acceleration import freed_memory_kept

        with freed_memory_kept(args.device.partition(":")[0]):
            run(args, command)

    return run_script(work, resume_command=command)


def run(args: argparse.Namespace, command: ResumeCommand) -> None:
    """The plan, the cache or the validation that is asked for; else the training."""
    # Heavy imports come after parsing, so that --help and wrong usage do not wait for torch.
    from reporting.run_folder import sole_run
    from training import running
    from training.planning import print_plan

    begin = time.monotonic()
    device = running.set_up(args)
    if args.plan:
        print_plan(args, device, command)
    elif args.cache_only:
        running.build_cache(args)
    elif args.test_only:
        running.test(args, running.checked_start(args, command), device, begin)
    else:
        with sole_run(args.output_dir):
            train(args, command, device, begin)


def train(args: argparse.Namespace, command: ResumeCommand, device: "torch.device", begin: float) -> None:
    """Data, model, optimizer, resume, loop."""
    from network.checkpoint import BEST, NEWEST
    from runtime.distributed import broadcast_object
    from training import loop, recipe, running

    start = running.checked_start(args, command)
    teachers = recipe.load_teachers(args, start.classes)
    train_clips, val_clips = recipe.load_clips(args, start.classes)
    network = recipe.load_network(args, start, device)
    targets = recipe.load_targets(args, train_clips, network.precision, teachers)
    network, train_inputs, val_inputs = recipe.load_features(args, network, train_clips, val_clips)
    trainer = recipe.load_trainer(args, network, targets, train_inputs)
    progress = recipe.resume(args, start, trainer, train_inputs, val_inputs)

    if progress.epoch < args.epochs:
        epochs = range(progress.epoch, args.epochs)
        running.print_start(args, start, network, val_inputs, train_inputs, epochs, targets.counted_by)
    elif running.nothing_is_left(args, start, progress):
        return
    if args.sanity_overfit:
        running.check_overfits(trainer, train_inputs)
        return
    log = running.open_log(args, start, progress)
    shown = replace(val_clips, pixels=val_inputs.pixels)  # the videos, where features are what is validated
    report = running.open_report(args, args.output_dir, start, shown, begin, progress.epoch)
    fit_options = loop.FitOptions(args.epochs, args.early_stop, args.bn_recalibrate, chooses=not args.train_on_val)
    with StopRequest() as stop:
        saver = running.open_saver(args, start, trainer, progress, stop, command)
        best = loop.fit(trainer, train_inputs, val_inputs, saver, log, report, fit_options)
    name = NEWEST if args.train_on_val else BEST
    path = broadcast_object(running.best_checkpoint(args.output_dir, start.path, name))  # one process looks for all
    loop.report_best(report, log, trainer, val_inputs, best, path)


if __name__ == "__main__":
    sys.exit(main())
