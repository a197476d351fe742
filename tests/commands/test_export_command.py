"""`mlmtune export` on real runs of a tiny model, and what stands in its way."""

import errno
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForMaskedLM, AutoTokenizer

from mlmtune.commands import export as export_command
from mlmtune.commands import export_plan
from mlmtune.commands.export import export_model
from mlmtune.commands.export_plan import TARGETS, plan_export
from mlmtune.commands.push import push_run
from mlmtune.errors import CheckpointError, ConfigError, ResourceError
from mlmtune.evaluation.agreement import Agreement, measure_agreement
from mlmtune.locations import DERIVED_FOLDERS
from mlmtune.modeling import onnx_file
from mlmtune.training.run_dir import open_run_dir


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if "onnx" in path.name}


def with_onnxruntime(file: Path, inputs: Any) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(str(file))
    feed = {each.name: inputs[each.name].numpy() for each in session.get_inputs()}
    assert set(feed) == set(inputs)
    return session.run(["logits"], feed)[0]  # type: ignore[no-any-return]


def with_openvino(file: Path, inputs: Any) -> np.ndarray[Any, Any]:
    # Without what it sends to its maker.
    openvino = import_module("mlmtune.modeling.openvino_file").openvino
    compiled = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(dict(inputs))["logits"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("to", "title", "compute"),
    [
        ("onnx", "ONNX", with_onnxruntime),
        pytest.param("openvino", "OpenVINO", with_openvino, marks=pytest.mark.own_process),
    ],
)
def test_a_run_is_exported_with_its_tokenizer_and_what_8_bits_cost(
    runs: Any,
    console: Any,
    here: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    to: str,
    title: str,
    compute: Any,
) -> None:
    run, target = runs.train(), TARGETS[to]
    export_model(plan_export(run.path, to, None, has_int8=True), console)
    folder = run.path / to
    record = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    assert record["agreement"]["largest_difference"] < 1e-5
    assert record["agreement"]["same_token_share"] == 1.0
    fp32, int8 = record["int8"]
    assert fp32["loss"]["value"] == pytest.approx(run.json("eval_results.json")["loss"], abs=1e-5)
    change = int8["loss"]["value"] - fp32["loss"]["value"]
    assert int8["change"]["loss"]["value"] == pytest.approx(change)
    assert change != 0
    assert set(record["tokens_per_second"]) == {
        "PyTorch", f"{title} fp32", f"{title} int8",
    }  # fmt: skip
    sizes = [file.stat().st_size for file in folder.glob("*_quantized.*")]
    assert record["num_bytes"][f"{title} int8"] == sum(sizes)
    out = capsys.readouterr().out
    assert f"{title} agrees with PyTorch on" in out
    assert "100.0% have the same likeliest token" in out
    assert f"int8 changes the loss by {change:+.3f} [" in out

    # As a user would, without mlmtune.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(["start the [MASK] now", "the node"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = AutoModelForMaskedLM.from_pretrained(run.path / "model").eval()(**inputs).logits
    keep = inputs["attention_mask"].bool()
    logits = torch.from_numpy(compute(folder / target.fp32, inputs))
    torch.testing.assert_close(logits[keep], expected[keep], rtol=0, atol=1e-5)

    # Pushed, with a card whose code prints what it says.
    [code] = re.findall(
        r"```python\n(.*?)```", card := (folder / "README.md").read_text(), re.DOTALL
    )
    [printed] = re.findall(r"prints\n\n```\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(folder)
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out == printed
    assert len(printed.splitlines()) == 3
    assert f"library_name: {to}\n" in card
    difference = record["agreement"]["largest_difference"]
    assert f"| largest difference of logits from PyTorch | {difference:.1e} |" in card
    push_run(folder, "tiny", is_private=True, console=console)
    pushed = here.repos["someone/tiny"].files
    assert set(pushed) == {path.name for path in folder.iterdir()} - {"export.json"}
    assert b'model = "someone/tiny"\n' in pushed["README.md"]
    assert str(run.path.parent).encode() not in b"".join(pushed.values())
    monkeypatch.chdir(run.path.parent)
    [code] = re.findall(r"```python\n(.*?)```", pushed["README.md"].decode(), re.DOTALL)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(run.path.parent / "hub"))
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out.endswith(f"\n{printed}")

    with pytest.raises(ConfigError, match="was written by mlmtune export, and is not a run"):
        plan_export(folder, to, None, has_int8=False)

    # It is the run's own, so a run that replaces it deletes it.
    with pytest.raises(ConfigError, match=rf"{to} exists already; delete it, or .* --output"):
        plan_export(run.path, to, None, has_int8=False)
    runs.train(overwrite=True)
    assert not folder.exists()


def test_what_does_not_predict_the_same_is_not_written(
    runs: Any, console: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.train()

    def other_weights(loaded: Any, path: Path) -> None:
        path.write_bytes(b"")

    def measure(first: Any, second: Any, masks: Any) -> Agreement:
        worse = AutoModelForMaskedLM.from_config(first.config).eval()
        same = measure_agreement(first, first, masks)
        assert (same.largest_difference, same.same_token_share) == (0.0, 1.0)
        return measure_agreement(first, worse, masks)

    monkeypatch.setattr(onnx_file, "write", other_weights)
    monkeypatch.setattr(onnx_file, "open_model", lambda path: None)
    monkeypatch.setattr(export_command, "measure_agreement", measure)
    plan = plan_export(run.path, "onnx", None, has_int8=False)
    with pytest.raises(ConfigError, match=r"logits differ by up to .* nothing was written"):
        export_model(plan, console)
    monkeypatch.setattr(
        export_command, "measure_agreement", lambda *arguments: Agreement(float("nan"), 1, 1, 1)
    )
    with pytest.raises(ConfigError, match="logits differ by up to nan"):
        export_model(plan, console)
    assert left_in(run.path) == set()

    def no_room(loaded: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(onnx_file, "write", no_room)
    with pytest.raises(ResourceError, match=r"No space left .* set --output to another folder"):
        export_model(plan, console)
    assert left_in(run.path) == set()
    with (
        open_run_dir(run.path, may_be_in_use=True),
        pytest.raises(ConfigError, match="another process"),
    ):
        export_model(plan, console)


def test_a_merged_model_is_checked_on_the_text_of_its_run(runs: Any, tmp_path: Path) -> None:
    run, merged = runs.train(training={"max_steps": 1}), tmp_path / "half"
    merged.mkdir()
    record = {"runs": [str(run.path)], "files": {}}
    (merged / "merge.json").write_text(json.dumps(record), encoding="utf-8")
    plan = plan_export(merged, "onnx", None, has_int8=False)
    assert (plan.model.folder, plan.folder) == (merged, merged / "onnx")
    assert plan.model.run.path == run.path
    inner = plan_export(run.path / "model", "onnx", tmp_path / "out", has_int8=True)
    assert (inner.model.folder, inner.folder) == (run.path / "model", tmp_path / "out")
    record["runs"] = [str(tmp_path / "gone")]
    (merged / "merge.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"half: the run that it was merged from is not in .*gone"
    ):
        plan_export(merged, "onnx", None, has_int8=False)
    (merged / "merge.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"half: merge.json is broken"):
        plan_export(merged, "onnx", None, has_int8=False)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "there is no run in it"),
        ("running", "the run is not finished"),
        ("finished", "model/config.json is missing"),
    ],
)
def test_what_is_no_finished_run_is_not_exported(
    runs: Any, state: str | None, message: str
) -> None:
    run = runs.at()
    if state is not None:
        run = runs.train(training={"max_steps": 1})
        (run.path / "model" / "config.json").unlink()
        (run.path / "status.json").write_text(json.dumps({"state": state}), encoding="utf-8")
    with pytest.raises((ConfigError, CheckpointError), match=message):
        plan_export(run.path, "onnx", None, has_int8=False)


def test_the_format_and_its_packages_are_checked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = "write --to onnx or --to openvino"
    with pytest.raises(ConfigError, match=rf"--to tflite: is not a format .* {formats}"):
        plan_export(tmp_path, "tflite", None, has_int8=False)
    monkeypatch.setattr(export_plan, "find_spec", lambda name: None)
    for to in TARGETS:
        told = rf"--to {to} needs {to}; .*pip install 'mlmtune\[{to}\]'"
        with pytest.raises(ConfigError, match=told):
            plan_export(tmp_path, to, None, has_int8=False)
        assert to in DERIVED_FOLDERS
