import memory_shapes
import pytest


@pytest.mark.parametrize("name", ["bert-base", "EuroBERT-210m"])
def test_a_layer_keeps_about_what_is_estimated(name):
    measured = memory_shapes.layers(name, 64, "fp32")
    assert measured["estimated"] == pytest.approx(measured["kept"], rel=0.1)


def test_sharding_saves_moments_and_full_sharding_everything_that_is_held():
    whole, checkpointed = memory_shapes.fits("bert-base", 128, 8, (2, 8))
    for case in (whole, checkpointed):
        total = case["total_bytes"]
        assert total["whole"] > total["sharded 2"] > total["sharded 8"] > total["full 8"]
        assert case["bytes"]["full 8"]["weights"] == case["bytes"]["whole"]["weights"] // 8
    assert checkpointed["total_bytes"]["whole"] < whole["total_bytes"]["whole"]
