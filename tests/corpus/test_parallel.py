"""Work in several processes: the results in order, errors as they are, and nothing left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mlmtune.corpus.parallel import ordered_map
from mlmtune.errors import DataError, ResourceError


def later_the_sooner(number, shared):
    time.sleep(0.05 * (number == 0))
    return number * shared, os.getpid()


def fail_at_three(number, shared):
    if number == 3:
        raise DataError("three")
    return number


def die_at_one(number, shared):
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def return_much(number, shared):
    return bytes(30_000_000)


def write_pid_and_wait(number, shared):
    (shared / str(os.getpid())).touch()
    time.sleep(600)


def test_results_come_in_order_from_several_processes():
    results = list(ordered_map(later_the_sooner, range(20), 10, num_processes=2))
    assert [result for result, _ in results] == [10 * number for number in range(20)]
    pids = {pid for _, pid in results}
    assert os.getpid() not in pids
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("items", "num_processes"), [(range(5), 1), ([7], 8), ([], 8)])
def test_what_one_process_does_as_well_is_done_here(items, num_processes):
    results = ordered_map(later_the_sooner, items, 1, num_processes=num_processes)
    assert {pid for _, pid in results} <= {os.getpid()}


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_error_comes_in_its_place(num_processes):
    results = ordered_map(fail_at_three, range(9), None, num_processes=num_processes)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="three"):
        next(results)


def test_a_process_that_is_killed_is_said():
    with pytest.raises(ResourceError, match="memory ran out"):
        list(ordered_map(die_at_one, range(9), None, num_processes=2))


def test_leaving_early_ends_the_processes_in_the_middle_of_their_work(tmp_path):
    results = ordered_map(write_pid_and_wait, [1, 2, 3], tmp_path, num_processes=2)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 3.0)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(results)
    finally:
        signal.signal(signal.SIGALRM, before)
    results.close()
    assert time.monotonic() - began < 60
    assert multiprocessing.active_children() == []


def test_leaving_early_ends_processes_that_are_writing_results():
    """Whoever waits for the rest of a result waits for ever."""
    for _ in range(3):
        results = ordered_map(return_much, range(99), None, num_processes=2)
        next(results)
        results.close()
    assert multiprocessing.active_children() == []


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_parallel
from mlmtune.corpus.parallel import ordered_map
if __name__ == "__main__":
    folder = Path(sys.argv[2])
    next(ordered_map(test_parallel.write_pid_and_wait, [1, 2], folder, num_processes=2))
"""


def test_processes_end_with_the_one_that_started_them(tmp_path):
    """Even if it is killed: nobody would find them."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    pids = tmp_path / "pids"
    pids.mkdir()
    child = subprocess.Popen([sys.executable, str(script), os.path.dirname(__file__), str(pids)])
    try:
        while len(list(pids.iterdir())) < 2:
            assert child.poll() is None
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()
    workers = [int(path.name) for path in pids.iterdir()]
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(pid) for pid in workers)


SCRIPT = """
from mlmtune.corpus.parallel import ordered_map
print("begun")
print(list(ordered_map(divmod, [7, 9], 4, num_processes=2)))
"""


def test_a_script_without_a_guard_is_not_run_again_in_each_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60
    )
    assert ended.stdout == "begun\n[(1, 3), (2, 1)]\n", ended.stderr
