import argparse
import json
import math
from dataclasses import replace

import models
import ours
import pytest
import quality
import quality_sides
import torch
from accelerate.state import AcceleratorState, GradientState
from interleaved import SideFailed
from transformers import AutoModel, AutoTokenizer


@pytest.fixture(autouse=True)
def accelerate_as_it_was():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def curve(*points):
    return [{"step": step, "seconds": s, "loss": loss} for step, (s, loss) in enumerate(points)]


PEER = curve((0, 8.0), (10, 6.0), (20, 5.0))


@pytest.mark.parametrize(
    ("loss", "seconds"), [(9.0, 0), (8.0, 0), (7.0, 5), (5.5, 15), (5.0, 20), (4.9, math.inf)]
)
def test_seconds_to_a_loss_lie_on_the_line_between_points(loss, seconds):
    assert quality.seconds_to(PEER, loss) == seconds


def test_a_loss_counts_when_it_is_first_reached():
    assert quality.seconds_to(curve((0, 8.0), (10, 6.0), (20, 7.0), (30, 5.0)), 6.0) == 10


@pytest.mark.parametrize(
    ("side", "ratio"),
    [
        (PEER, 1.0),
        (curve((0, 8.0), (5, 6.0), (10, 5.0)), 2.0),
        (curve((0, 8.0), (5, 6.0), (9, 4.0)), 20 / 7),
        (curve((0, 4.0), (5, 3.0)), 4.0),  # no less than its first turn
        (curve((0, 8.0), (5, 9.0)), 0.0),
        (curve((0, 8.0), (5, 6.0)), 2.0),  # ends where the peer was after 10 seconds
    ],
)
def test_a_ratio_is_taken_at_a_loss_that_both_reach(side, ratio):
    assert quality.ratio(PEER, side) == pytest.approx(ratio)


def test_losses_between_points_and_after_the_end():
    assert quality.loss_after(PEER, 0) == 8.0
    assert quality.loss_after(PEER, 15) == 5.5
    assert quality.loss_after(PEER, 20) == 5.0
    assert quality.loss_after(PEER, 20.1) is None


def test_tables_have_a_line_for_each_side_and_share():
    seeds = [{"peer": PEER, "engine": PEER, "recommended": curve((0, 7.0), (5, 5.0))}]
    assert [line[-1] for line in quality.results(seeds)] == [
        "1.00 (1.00 to 1.00)", "1.00 (1.00 to 1.00)", "4.00 (4.00 to 4.00)",
    ]  # fmt: skip
    half = f"{math.exp(6.0):.2f}"
    assert [line for line in quality.perplexities(seeds) if line[0] == "50%"] == [
        ["50%", half, half, "ended"]
    ]


def test_finished_seeds_are_read_and_those_of_other_settings_refused(tmp_path, setting):
    options = argparse.Namespace(
        results=tmp_path, model="minilm", learning_rate=5e-5, steps=2, recommended_steps=1, every=1,
        start=None,
    )  # fmt: skip
    curves = {"peer": PEER}
    kept = {"setting": quality.described(options, setting), "curves": curves}
    (tmp_path / "seed-0.json").write_text(json.dumps(kept))
    assert quality.kept_or_computed(options, setting) == curves
    options.steps = 3
    with pytest.raises(SideFailed, match="other settings"):
        quality.kept_or_computed(options, setting)


def test_sides_of_a_start_with_a_head_start_alike_and_learn(setting):
    setting = replace(setting, max_steps=3, seed=3)
    sides = [quality_sides.Side(name, setting, 5e-3) for name in quality.SIDES]
    for side in sides:
        assert side.run(2).num_steps == 2
        assert side.run(2).num_steps == 1  # where the schedule ends
        assert side.run(2).num_steps == 0
        steps = [point["step"] for point in side.facts()["curve"]]
        assert steps == [0, 2, 3]
        assert side.curve[-1].loss < side.curve[0].loss
    assert len({side.curve[0].loss for side in sides}) == 1


def test_our_side_draws_the_head_that_is_saved_for_the_others(setting):
    headless = setting.workspace / "headless"
    AutoModel.from_pretrained(setting.model).save_pretrained(headless)
    AutoTokenizer.from_pretrained(setting.model).save_pretrained(headless)
    saved = replace(setting, model=models.with_head(headless, setting.workspace, 3), seed=3)
    drawn = replace(setting, model=headless, seed=3)
    theirs, ours_ = (ours.Training(s).module.state_dict() for s in (saved, drawn))
    different = {name for name in theirs if not torch.equal(theirs[name], ours_[name])}
    assert different == {"cls.predictions.bias", "cls.predictions.decoder.bias"}
