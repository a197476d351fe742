"""Checkpoints: whole or absent, verified before use, without pickles.

    checkpoint-500/
      config.json  model.safetensors  tokenizer files     loads with from_pretrained()
      optimizer.safetensors    moments and step counts, by parameter name: NAME/exp_avg ...
      state.json               format_version, and TrainState
      MANIFEST.json            size and xxh3-128 of each file; written last

No random generator's state is saved, because none is used: every draw is a function of the seed
and the step. A checkpoint is written under a temporary name, made durable, and renamed.
"""

import json
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mlmtune.errors import CheckpointError
from mlmtune.files import read_json, sweep, whole_folder, write_json
from mlmtune.modeling.loading import LoadedModel
from mlmtune.training.checkpoint_folders import checkpoint_path, list_checkpoints, step_of
from mlmtune.training.manifest import MANIFEST, find_damage, manifest_of
from mlmtune.training.run_dir import writing_to
from mlmtune.training.sharding import Moments, Shards
from mlmtune.training.window import Window

FORMAT_VERSION = 3
"""The format of state.json. Version 1 had no version number in the file, and 2 no lineage."""

WITHOUT_MOMENTS = "without_moments"
"""The metadata key of optimizer.safetensors for parameters that have had no gradient so far."""


@dataclass
class TrainState:
    """Everything besides weights and moments that a run needs to continue as if never stopped.

    Sums are over all processes. The identity holds the settings that must not change between
    sittings; see `identity_of`.
    """

    identity: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    num_tokens: int = 0
    totals: Window = field(default_factory=Window)
    """All steps since the start."""
    window: Window = field(default_factory=Window)
    """The steps since the last log line."""
    num_skipped_steps: int = 0
    num_overflows_in_a_row: int = 0
    scaler: dict[str, Any] | None = None
    elapsed_seconds: float = 0.0
    best_step: int | None = None
    best_criterion: float | None = None
    num_evaluations_without_improvement: int = 0
    evaluation_before: dict[str, Any] | None = None
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Evaluations by step, as written in eval_results.json."""
    examples_before: dict[str, Any] = field(default_factory=dict)
    lineage: list[dict[str, Any]] = field(default_factory=list)
    """What the run went on from; see `lineage.Ancestor`."""


def save_model(directory: Path, loaded: LoadedModel) -> None:
    """Write the files that from_pretrained() and pipeline() load, and the weights of other heads.

    Those of sentence-transformers, too, if the model started from a sentence encoder. config.json
    has the dropout rates of the base, with which others will train the model.

    Args:
        directory: The folder, which is made if it does not exist.
        loaded: The model as it is trained so far.
    """
    weights = {**loaded.model.state_dict(), **loaded.kept_weights}
    loaded.model.save_pretrained(directory, state_dict=weights)
    settings = directory / "config.json"
    content = json.loads(settings.read_text(encoding="utf-8"))
    write_json(settings, content | loaded.own_dropout)
    loaded.tokenizer.save_pretrained(directory)
    if loaded.sentence_encoder is not None:
        loaded.sentence_encoder.save(directory)


def save_checkpoint(
    directory: Path, loaded: LoadedModel, moments: Moments, state: TrainState
) -> Path:
    """Write the checkpoint of `state.step`. Called by the main process.

    Raises:
        ResourceError: The disk is full or cannot be written; older checkpoints are as they were.
    """
    final = checkpoint_path(directory, state.step)
    with (
        writing_to(final, "older checkpoints are as they were"),
        whole_folder(final, durable=True) as temporary,
    ):
        save_model(temporary, loaded)
        _save_moments(moments, temporary / "optimizer.safetensors")
        write_json(temporary / "state.json", {"format_version": FORMAT_VERSION, **asdict(state)})
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        write_json(temporary / MANIFEST, manifest_of(temporary, files))
    return final


def find_checkpoint(directory: Path, say: Callable[[str], None]) -> Path | None:
    """Return the newest valid checkpoint; None if there are no checkpoints.

    Newer ones that are passed over are reported.

    Raises:
        CheckpointError: There are checkpoints, and none is valid.
    """
    candidates = list_checkpoints(directory)
    for path in candidates:
        fault = find_fault(path)
        if fault is None:
            return path
        say(f"{path} is passed over: {fault}")
    if candidates:
        raise CheckpointError(
            f"{directory}: none of the {len(candidates)} checkpoints is whole; nothing was "
            "deleted: restore one, or start again with --overwrite"
        )
    return None


def find_fault(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, by its manifest; None if nothing is."""
    manifest = read_json(path / MANIFEST)
    is_sharded = "model.safetensors.index.json" in ((manifest or {}).get("files") or ())
    model = "model.safetensors.index.json" if is_sharded else "model.safetensors"
    return find_damage(path, manifest, (model, "optimizer.safetensors", "state.json"))


def load_state(path: Path) -> TrainState:
    """Read a checkpoint's TrainState.

    Raises:
        CheckpointError: state.json cannot be read, or another version of mlmtune wrote it.
    """
    with _reading(path / "state.json") as file:
        values = dict(json.loads(file.read_text(encoding="utf-8")))
        version = values.pop("format_version", 1)
        if version == FORMAT_VERSION:
            values |= {name: Window(**values[name]) for name in ("totals", "window")}
            return TrainState(**values)
    raise CheckpointError(
        f"{path} is a checkpoint of format {version}, and this mlmtune reads format "
        f"{FORMAT_VERSION}; finish the run with the version of mlmtune that started it "
        "(packages.mlmtune in environment.json), or start again with --overwrite"
    )


def load_weights(path: Path, model: Any) -> None:
    """Load a checkpoint's weights into `model`, as from_pretrained() reads them."""
    # Names in a file may differ from those in memory, and only from_pretrained() maps them.
    with _reading(path):
        saved, report = type(model).from_pretrained(
            path, dtype=torch.float32, output_loading_info=True
        )
    if report["missing_keys"]:
        raise CheckpointError(f"{path}: weights are missing: {sorted(report['missing_keys'])[:3]}")
    try:
        model.load_state_dict(saved.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the weights do not fit {type(model).__name__}; are they of another model?"
        ) from error


def load_optimizer(
    path: Path, optimizer: torch.optim.Optimizer, shards: Shards | None = None
) -> None:
    """Load a checkpoint's moments and step counts into `optimizer`.

    Args:
        path: The checkpoint.
        optimizer: The optimizer of the model.
        shards: The parameters whose moments are loaded; those of the others are checked only. None
            for all.

    Raises:
        CheckpointError: The checkpoint holds moments of another shape, or of no parameter.
    """
    with (
        _reading(path / "optimizer.safetensors") as file,
        safe_open(file, "pt") as opened,
    ):
        without_moments = json.loads(opened.metadata()[WITHOUT_MOMENTS])
        saved: dict[str, list[str]] = {}
        for key in opened.keys():  # noqa: SIM118, because it is no dict
            saved.setdefault(key.rpartition("/")[0], []).append(key)
        for group in optimizer.param_groups:
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                keys = saved.pop(name, None)
                if keys is None and name in without_moments:
                    continue
                if keys is None or _shape(opened, f"{name}/exp_avg") != parameter.shape:
                    raise CheckpointError(
                        f"{path}: optimizer.safetensors does not fit {name}; is it of another "
                        "model?"
                    )
                if shards is None or shards.keeps(parameter):
                    optimizer.state[parameter] = {
                        key.rpartition("/")[2]: opened.get_tensor(key).to(parameter.device)
                        for key in keys
                    }
    if saved:
        raise CheckpointError(
            f"{path}: optimizer.safetensors has moments of {next(iter(saved))}, which the model "
            "does not have; is it of another model?"
        )


def _shape(opened: Any, key: str) -> torch.Size:
    return torch.Size(opened.get_slice(key).get_shape())


def moments_of(optimizer: torch.optim.Optimizer) -> Moments:
    """Return the moments and step counts that an optimizer has in this process."""
    return {
        name: optimizer.state.get(parameter, {})
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }


def drop_checkpoints_after(directory: Path, step: int) -> list[Path]:
    """Delete and return the checkpoints of later steps, which a resumed run takes again."""
    later = [path for path in list_checkpoints(directory) if step_of(path) > step]
    for path in later:
        _delete(path)
    return later


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a checkpoint of another run to the place where this run would have written it.

    Raises:
        ResourceError: The disk is full or cannot be written.
    """
    with (
        writing_to(target, f"{source} is as it was"),
        whole_folder(target, durable=True) as temporary,
    ):
        shutil.copytree(source, temporary, dirs_exist_ok=True)


def prune(directory: Path, keep: int, steps: Collection[int]) -> None:
    """Delete all checkpoints but the `keep` newest and those of some steps.

    Also deletes what killed saves left.
    """
    for path in list_checkpoints(directory)[keep:]:
        if step_of(path) not in steps:
            _delete(path)
    sweep(directory)


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Turn the errors of reading a file into one line."""
    try:
        yield path
    # Any of these, because a file whose checksum is right may still have been written wrong.
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); resume from another checkpoint"
        ) from error


def _delete(path: Path) -> None:
    if not path.is_dir():  # a file that has the name of a checkpoint
        path.unlink(missing_ok=True)
        return
    # The manifest goes first, so that a half-deleted checkpoint is not taken for whole.
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _save_moments(moments: Moments, path: Path) -> None:
    tensors = {
        f"{name}/{key}": value.detach().cpu().contiguous()  # for safetensors
        for name, fields in moments.items()
        for key, value in fields.items()
    }
    without_moments = [name for name, fields in moments.items() if not fields]
    save_file(tensors, path, {WITHOUT_MOMENTS: json.dumps(without_moments)})
