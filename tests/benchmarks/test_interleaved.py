import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import interleaved
import psutil
import pytest
from interleaved import (
    Block,
    Child,
    SideFailed,
    interleave,
    run_apart,
    side_by_side,
    summary,
    warm_up,
)


class Fake:
    """A side whose pace is given by block; it writes down when it works."""

    def __init__(self, name, rates, log):
        self.name, self.rates, self.log = name, list(rates), log

    def run(self, num_steps):
        self.log.append((self.name, num_steps))
        return Block(
            num_steps, amount=num_steps * 10.0, seconds=num_steps * 10.0 / self.rates.pop(0)
        )


def test_a_ratio_is_taken_within_its_round():
    # The machine is slower by the round; the ratio of the medians would be 20 / 12.
    sides = {"ours": Fake("ours", [60, 20, 4], []), "peer": Fake("peer", [30, 12, 2], [])}
    result = summary(interleave(sides, num_rounds=3, num_steps=1, num_warmup_steps=0))
    assert result["ratios"]["ours"] == pytest.approx([2.0, 20 / 12, 2.0])
    assert result["ratio"] == pytest.approx(2.0)
    assert result["sides"]["ours"]["rate"] == pytest.approx(20.0)
    assert result["sides"]["peer"]["step_seconds"] == pytest.approx(10 / 12)


def test_ratios_may_be_to_another_side():
    sides = {"ours": Fake("ours", [6.0], []), "limit": Fake("limit", [8.0], [])}
    result = summary(interleave(sides, 1, 1, 0), to="limit")
    assert result["ratios"] == {"ours": pytest.approx([0.75])}
    assert result["ratio"] == pytest.approx(0.75)


def test_sides_take_turns_and_every_other_round_goes_backwards():
    log = []
    sides = {name: Fake(name, [1.0] * 3, log) for name in ("ours", "peer")}
    interleave(sides, num_rounds=2, num_steps=5, num_warmup_steps=2)
    assert log == [("ours", 2), ("peer", 2), ("ours", 5), ("peer", 5), ("peer", 5), ("ours", 5)]


def test_warmup_is_not_measured():
    sides = {name: Fake(name, [0.001, 8.0], []) for name in ("ours", "peer")}
    blocks = interleave(sides, num_rounds=1, num_steps=1, num_warmup_steps=1)
    assert [block.rate for block in blocks["ours"]] == pytest.approx([8.0])


def test_a_side_that_fails_to_warm_up_is_named_and_the_others_go_on():
    with side_by_side({"a": ("collections:Counter", "a"), "json": ("json",)}) as sides:
        assert sides["a"].call("total") == 1
        assert set(warm_up({"json": sides["json"], "fake": Fake("fake", [1.0], [])}, 1)) == {"json"}


def test_a_child_is_another_process_that_keeps_its_state():
    with Child("collections:Counter", ["a"]) as child:
        child.call("update", ["a", "b"])
        assert child.call("most_common") == [("a", 2), ("b", 1)]
    assert run_apart("os:getpid") != os.getpid()


def test_an_error_in_a_child_says_where():
    with pytest.raises(SideFailed, match=r"in the process of json:(.|\n)*JSONDecodeError"):
        run_apart("json:loads", "{")


def test_a_child_that_dies_is_named_with_its_signal():
    with pytest.raises(SideFailed, match="the process of signal ended by SIGKILL"):
        run_apart("signal:raise_signal", signal.SIGKILL)


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[1])
import startup
from interleaved import run_apart
wait = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(300)"]
if __name__ == "__main__":
    if sys.argv[2] == "startup":
        startup.seconds_to_milestones(wait)
    else:
        run_apart("subprocess:run", wait)
"""


@pytest.mark.parametrize("kind", ["startup", "in the middle of a call"])
def test_children_end_with_a_parent_that_is_killed(tmp_path, kind):
    """Also those of a child: one outlived its benchmark for an hour, and took most of a core."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    command = [sys.executable, str(script), os.path.dirname(interleaved.__file__), kind]
    parent = psutil.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not any("time.sleep" in " ".join(c.cmdline()) for c in descendants(parent)):
            assert parent.poll() is None
            time.sleep(0.05)
        started = descendants(parent)
    finally:
        parent.kill()
        parent.wait()
    assert len(started) >= 1
    assert psutil.wait_procs(started, timeout=30)[1] == []


def descendants(process):
    with suppress(psutil.NoSuchProcess):
        found = process.children(recursive=True)
        return [child for child in found if child.cmdline()]
    return []


def test_children_are_kept_from_the_network():
    Child("os").close()
    assert interleaved.os.environ["HF_HUB_OFFLINE"] == "1"
