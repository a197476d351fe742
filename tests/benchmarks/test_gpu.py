import importlib
import json
from pathlib import Path

import gpu
import pytest
from flops import training_flops_per_token
from gpu import PARTS, Part
from transformers import ModernBertConfig


@pytest.mark.parametrize("name", PARTS)
def test_each_part_is_a_command_that_its_script_understands(name):
    for part in (PARTS[name], PARTS[name].tiny()):
        arguments = part.command(Path("part.json"))[2:]
        if part.script in gpu.WITH_PRECISION:
            arguments += ["--precision", "bf16"]
        options = importlib.import_module(part.script).command_line().parse_args(arguments)
        assert options.json == Path("part.json")
        for option in ("model", "tokens"):
            assert getattr(options, option, None) == part.arguments.get(f"--{option}")


def test_less_time_for_all_leaves_the_first_parts_theirs():
    part = Part("training", 100, {})
    assert part.limit(gpu.MINUTES, 500.0) == part.limit(2.0, 120.0) == 100
    assert part.limit(2.0, 60.0) == 60
    assert part.limit(3 * gpu.MINUTES, 1000.0) == pytest.approx(300)


def test_a_part_that_fails_or_takes_too_long_is_reported():
    failed = gpu.run_part(Part("training", 60, {"--model": "gpt"}), 60)
    assert failed["ending"] == "exit code 2"
    assert "invalid choice: 'gpt'" in "\n".join(failed["output"])
    assert failed["measured"] is None
    late = gpu.run_part(PARTS["command"].tiny(), 0.2)
    assert late["ending"] == "stopped after 0 s"
    assert late["measured"] is None
    assert gpu.run_part(PARTS["command"], -1.0)["ending"] == "not begun, out of time"


def test_a_part_has_a_row_for_each_side(capsys):
    sides = {"ours": 30.0, "peer": 10.0, "ours compiled": 60.0, "peer compiled": 20.0}
    measured = {
        "sides": {name: {"rate": rate, "mfu": rate / 100} for name, rate in sides.items()},
        "facts": {name: {"peak_memory_bytes": 5e6} for name in sides},
    }
    late = {"ending": "stopped after 9 s", "seconds": 9.0, "measured": None}
    gpu.show({"a": {"ending": "done", "seconds": 3.0, "measured": measured}, "b": late})
    shown = capsys.readouterr().out.splitlines()
    row = next(line.split() for line in shown if "ours compiled" in line)
    assert row == ["a", "ours", "compiled", "60", "6.00", "3.00", "60.0%", "5", "MB"]
    assert shown[-1] == "b: stopped after 9 s (9 s)"


def test_local_attention_counts_its_window_only(tmp_path):
    config = ModernBertConfig()
    config.save_pretrained(tmp_path)
    flops = {length: training_flops_per_token(tmp_path, length, 0.0) for length in (1, 8192)}
    weights = 22 * (4 * 768**2 + 3 * 768 * 1152)
    num_full = config.layer_types.count("full_attention")
    seen = num_full * 8192 + (22 - num_full) * 129
    assert flops[1] == 3 * (2 * weights + 4 * 768 * 22)
    assert flops[8192] == 3 * (2 * weights + 4 * 768 * seen)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert len(stored["layer_types"]) == 22
