import os
import signal
import subprocess
import sys
import time

import pytest

from runtime.worker_pool import WorkerDied, map_in_workers


def square(x):
    return x * x


def slow_first(x):
    time.sleep(0.3 if x == 0 else 0)
    return x


def fail_at_three(x):
    if x == 3:
        raise ValueError("three")
    return x


def die_at_three(x):
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def process_id(_):
    time.sleep(0.05)
    return os.getpid()


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_items(num_workers):
    assert list(map_in_workers(slow_first, range(20), num_workers)) == list(range(20))
    assert list(map_in_workers(square, [], num_workers)) == []


def test_the_work_is_shared():
    processes = set(map_in_workers(process_id, range(12), 2))
    assert len(processes) == 2 and os.getpid() not in processes


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_is_raised_at_its_item(num_workers):
    results = map_in_workers(fail_at_three, range(10), num_workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def end_politely(x):
    for number in (signal.SIGTERM, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    return x


def test_signals_that_ask_the_run_to_stop_leave_its_workers_alone():
    assert list(map_in_workers(end_politely, range(4), 2)) == [0, 1, 2, 3]


def test_a_death_names_the_item():
    results = map_in_workers(die_at_three, range(10), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(WorkerDied) as caught:
        next(results)
    assert caught.value.item == 3 and "SIGKILL" in caught.value.how and "memory" in caught.value.how


def test_work_goes_on_after_a_death_where_that_is_wanted():
    results = map_in_workers(die_at_three, range(8), 2, on_death=lambda death: f"died on {death.item}")
    assert list(results) == [0, 1, 2, "died on 3", 4, 5, 6, 7]


def test_no_more_is_begun_than_the_lookahead_allows():
    begun = []

    def items():
        for i in range(100):
            begun.append(i)
            yield i

    results = map_in_workers(square, items(), 2, lookahead=5)
    next(results)
    assert len(begun) <= 7
    results.close()


def test_workers_end_when_the_consumer_stops():
    results = map_in_workers(process_id, range(100), 2)
    workers = {next(results) for _ in range(6)}
    results.close()
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def imported_modules(_):
    return sorted(sys.modules)


def test_workers_do_not_import_the_script_that_started_them(tmp_path):
    (tmp_path / "heavy.py").write_text("")
    script = tmp_path / "script.py"
    script.write_text(
        "import heavy\n"
        "from runtime.worker_pool import map_in_workers\n"
        "from tests.runtime.test_worker_pool import imported_modules\n"
        "if __name__ == '__main__':\n"
        "    (names,) = map_in_workers(imported_modules, [0], 1)\n"
        "    print('heavy' in names, __file__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"False {script}\n", done.stderr
