"""Every way in which a script ends gives its exit code and one message."""

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from runtime import distributed
from runtime.errors import CutShort, UserError
from runtime.script import run_script, wait_passively

ROOM = Path(__file__).parents[2] / "references" / "video_classification"


def raising(error: BaseException):
    def work():
        raise error

    return work


def test_the_works_exit_code_is_the_scripts():
    assert run_script(lambda: None) == 0 and run_script(lambda: 1) == 1


@pytest.mark.parametrize(
    "error, said",
    [
        (UserError("a.mp4 is broken: remove it"), "error: a.mp4 is broken: remove it\n"),
        (OSError(errno.ENOSPC, "No space left on device", "out.csv"), "error: out.csv: No space left on device\n"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "error: Cannot allocate memory\n"),
        (
            MemoryError("9 TiB"),
            "error: not enough memory (9 TiB): ask for less at once, such as a smaller --batch-size\n",
        ),
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 79 GiB. See ..."
            ),
            "error: not enough memory (CUDA out of memory. Tried to allocate 2.00 GiB): "
            "ask for less at once, such as a smaller --batch-size\n",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "error: not enough memory (CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`): "
            "ask for less at once, such as a smaller --batch-size\n",
        ),
        (OSError("something else"), "error: something else\n"),
    ],
)
def test_what_a_user_can_mend_is_one_message(capsys, error, said):
    assert run_script(raising(error)) == 1
    assert capsys.readouterr() == ("", said)


def test_too_little_memory_for_a_tensor_is_one_message(capsys):
    with ThreadPoolExecutor(1) as pool:  # since glibc's malloc serves a thread otherwise, once it has failed there
        error = pool.submit(torch.empty, 1 << 60).exception()
    assert run_script(raising(error)) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: not enough memory (") and err.count("\n") == 1
    assert "tried to allocate" in err.lower() and err.endswith("a smaller --batch-size\n")


def test_what_a_user_cannot_mend_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_script(lambda: 1 // 0)


def test_wrong_usage_found_in_the_work_keeps_its_exit_code():
    with pytest.raises(SystemExit) as stop:
        run_script(raising(SystemExit(2)))
    assert stop.value.code == 2


def test_ctrl_c_is_a_line_and_130(capsys):
    assert run_script(raising(KeyboardInterrupt())) == 130
    assert run_script(raising(KeyboardInterrupt()), resume_command="python again.py") == 130
    assert capsys.readouterr().err == "interrupted\ninterrupted. Continue with: python again.py\n"


def test_work_that_was_cut_short_tells_how_to_go_on(capsys):
    assert run_script(raising(CutShort("a.pth cannot be written. Make room")), resume_command="python again.py") == 1
    assert run_script(raising(UserError("no such file")), resume_command="python again.py") == 1
    told = "error: a.pth cannot be written. Make room. Continue with: python again.py\nerror: no such file\n"
    assert capsys.readouterr().err == told


def test_a_stop_signal_is_a_line_and_its_number(capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert run_script(lambda: signal.raise_signal(signal.SIGTERM), resume_command="python again.py") == 143
    assert capsys.readouterr().out == "stopped by SIGTERM. Continue with: python again.py\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_closed_pipe_ends_the_script_quietly():
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does, only sooner
    program = "from runtime.script import run_script; raise SystemExit(run_script(lambda: print('a line')))"
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOM, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (process.returncode, process.stderr) == (1, b"")


def test_a_failed_process_of_a_group_tells_why_and_ends_at_once(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "end_process_group", ended.append)
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    assert run_script(raising(ValueError("unforeseen"))) == 1
    assert "ValueError: unforeseen" in capsys.readouterr().err
    assert run_script(raising(RuntimeError("Connection closed by peer"))) == 1
    assert "another process has ended" in capsys.readouterr().err
    assert run_script(raising(UserError("no such file"))) == 1 and run_script(lambda: None) == 0
    assert ended == [1, 1, 1, 0]


def test_a_process_of_a_group_ends_where_no_destructor_can_hold_it_up(monkeypatch, capsys):
    """A gloo group's could for ever, under torch 2.7 in half of the runs of three processes."""
    ended = []
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    monkeypatch.setattr(distributed, "barrier", lambda: ended.append("all have come"))
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: ended.append("destroyed"))
    monkeypatch.setattr(os, "_exit", ended.append)
    run_script(lambda: None)
    run_script(lambda: 3)
    assert ended == ["all have come", 0, "all have come", 3]
    ended.clear()
    run_script(lambda: signal.raise_signal(signal.SIGTERM))  # the others have been told to stop too
    run_script(raising(UserError("no such file")))
    run_script(raising(KeyboardInterrupt()))
    assert ended == [143, 1, 130]


def test_openmp_waits_passively_unless_the_user_chose(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_the_policy_is_set_before_torch_is_imported():
    program = (
        "import sys; from runtime.script import run_script; import os;"
        "run_script(lambda: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOM, env=environment, capture_output=True, text=True)
    assert done.stdout == "PASSIVE False\n", done.stderr


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_a_closed_stream_swallows_what_is_printed(closed):
    work = "print('é out'), print('é err', file=sys.stderr)"
    program = f"import sys; from runtime.script import run_script; sys.exit(run_script(lambda: [{work}] and None))"
    command = f'"{sys.executable}" -c "{program}" {closed}'
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(["sh", "-c", command], cwd=ROOM, env=environment, capture_output=True)
    out, err = (
        b"" if f"{number}>&-" in closed else f"\\xe9 {name}".encode() for number, name in ((1, "out"), (2, "err"))
    )
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, out, err)
