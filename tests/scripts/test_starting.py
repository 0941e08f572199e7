"""The scripts start fast, and wherever Python runs: what is heavy, or missing elsewhere, is not imported at the top."""

import importlib
import json
import os
import subprocess
import sys

import pytest

import benchmark
import export_onnx
import predict
import quickstart
import run_on_ai_hub
import train
from helpers.template_process import SCRIPTS
from training import options

PACKAGES = [path.parent.name for path in SCRIPTS.glob("*/__init__.py")]
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))
HEAVY = ("torch", "torchvision", "av", "scipy", "numpy", "onnx")
# Arguments that the parser itself accepts and the checks after it refuse, all of which come before torch.
WRONG = {
    "average_checkpoints": ["a.pth", "--output", "b.pth"],
    "benchmark": ["decode", "--workers", "0"],
    "compare_runs": ["a", "b", "--list", "-1"],
    "evaluate_logits": ["manifest.jsonl"],
    "export_onnx": ["a.pth", "--output", "a.onnx", "--quantize", "int8"],
    "predict": ["a.pth", "a.mp4", "--output", "."],
    "quickstart": ["--seed", "-1"],
    "run_on_ai_hub": ["a.pth", "--data-path", "data", "--output-dir", "out", "--calibration-clips", "8"],
    "train": ["--data-path", "data", "--train-crop-size", "200", "200"],
}
PROGRAM = """
import json, runpy, sys
script = sys.argv.pop(1)
sys.argv[0] = script
code = None
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    code = end.code
print(json.dumps([code or 0, [name for name in sys.modules if name in {heavy}]]))
""".replace("{heavy}", repr(HEAVY))


def end_of(script: str, *argv: str) -> tuple[int, list[str], str]:
    """(exit code, heavy modules that were imported, output)."""
    command = [sys.executable, "-c", PROGRAM, str(SCRIPTS / f"{script}.py"), *argv]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(SCRIPTS)}, capture_output=True, text=True)
    code, imported = json.loads(done.stdout.splitlines()[-1])
    return code, imported, done.stdout + done.stderr


def test_every_script_has_wrong_arguments_here():
    assert sorted(WRONG) == NAMES


@pytest.mark.parametrize("script", NAMES)
def test_help_imports_nothing_heavy(script):
    code, imported, output = end_of(script, "--help")
    assert (code, imported) == (0, []) and "usage: " in output, output


@pytest.mark.parametrize("script", NAMES)
def test_wrong_usage_imports_nothing_heavy(script):
    code, imported, output = end_of(script, *WRONG[script])
    assert (code, imported) == (2, []) and "error: " in output and "Traceback" not in output, output


@pytest.mark.parametrize("script", NAMES)
def test_flags_are_not_abbreviated(script):
    """The command that continues a run could not find a flag otherwise."""
    assert not importlib.import_module(script).get_args_parser().allow_abbrev


def test_a_part_of_a_flags_name_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        train.get_args_parser().parse_args(["--data-path", "x", "--overw"])
    assert stop.value.code == 2 and "--overw" in capsys.readouterr().err


def test_choices_are_the_keys_that_they_are_looked_up_by():
    from caching.clip_cache import CACHE_FORMATS
    from caching.feature_cache import FEATURE_TYPES
    from clips import preprocessing
    from clips.presets import AUGMENTATIONS
    from deployment import onnx_network
    from deployment.device_run import ACTIVATION_BITS
    from deployment.prediction import FORMATTERS
    from network import models
    from network.acceleration import CHANNELS_LAST
    from network.precision import AMP_TYPES
    from synthetic.videos import NUM_PARTS
    from training.optimization import DECAYS, OPTIMIZERS, WARMUPS
    from videos.frame_selection import FRAME_SELECTORS

    assert options.FRAME_SELECTIONS == preprocessing.FRAME_SELECTIONS == tuple(FRAME_SELECTORS)
    assert options.AUGMENTATIONS == AUGMENTATIONS
    assert tuple(CACHE_FORMATS) == options.CACHE_FORMATS
    assert tuple(FEATURE_TYPES) == options.FEATURE_TYPES
    assert tuple(AMP_TYPES) == options.AMP_TYPES
    assert ("auto", *CHANNELS_LAST) == options.CHANNELS_LAST
    assert tuple(OPTIMIZERS) == options.OPTIMIZERS
    assert tuple(DECAYS) == options.DECAYS
    assert tuple(WARMUPS) == options.WARMUPS
    assert (options.MODELS, options.DEFAULT_TRAINABLE) == (models.MODELS, models.DEFAULT_TRAINABLE)
    assert tuple(FORMATTERS) == predict.FORMATS
    assert tuple(onnx_network.LAYOUTS) == export_onnx.LAYOUTS
    assert (export_onnx.NORMALIZE, export_onnx.DEFAULT_OPSET) == (onnx_network.NORMALIZE, onnx_network.DEFAULT_OPSET)
    assert ("none", *ACTIVATION_BITS) == run_on_ai_hub.QUANTIZATIONS
    assert quickstart.NUM_PARTS == NUM_PARTS
    for name, module in benchmark.BENCHMARKS.items():
        assert callable(getattr(importlib.import_module(f"benchmarks.{module}"), f"benchmark_{name}"))


# What POSIX has and Windows does not; macOS lacks some of the functions.
WITHOUT_POSIX = """
import importlib, os, pkgutil, signal, sys
import av, numpy, scipy.optimize, torch, torchvision, tqdm, torch.utils.data, torch.distributed
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
for name in ("setsid", "killpg", "getpgid", "fork", "sched_getaffinity", "posix_fadvise", "statvfs", "O_DIRECTORY"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGUSR1", "SIGHUP", "pthread_sigmask"):
    if hasattr(signal, name):
        delattr(signal, name)
for package in {packages}:
    for module in pkgutil.iter_modules([package]):
        importlib.import_module(f"{package}.{module.name}")
import train, predict
print("imported")
""".replace("{packages}", repr(PACKAGES))


def test_every_module_is_imported_without_what_windows_lacks():
    done = subprocess.run([sys.executable, "-c", WITHOUT_POSIX], cwd=SCRIPTS, capture_output=True, text=True)
    assert done.stdout == "imported\n", done.stderr
