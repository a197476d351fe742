"""The identity of a run: the settings that decide its result, by config key."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlmtune.config import PHASES
from mlmtune.errors import CheckpointError
from mlmtune.training.task import Task

NUM_PROCESSES = "num_processes"


def identity_of(task: Task, num_processes: int) -> dict[str, Any]:
    """Return the settings that a resumed run must share with the one that wrote the checkpoint."""
    config, own = task.config, task.identity()
    sections: dict[str, Any] = {
        "run": {"seed": config.run.seed},
        "model": config.model.model_dump(
            include={"name_or_path", "revision", "attn_implementation", "dropout"}
        ),
        **own,
        "training": config.training.model_dump(include={"precision", "compile"}),
    }
    if not own.get(PHASES):  # else each phase has these
        sections["optimizer"] = config.optimizer.model_dump()
        sections["training"] |= {
            "global_batch_size": config.training.global_batch_size,
            "max_steps (or as many as its epochs or tokens take)": task.plan.max_steps,
        }
    return {**flat(sections), NUM_PROCESSES: num_processes}


def phases_added(then: Sequence[str], now: Sequence[str]) -> Sequence[str]:
    """Return the phases that follow those of an earlier run; none if those have changed."""
    return now[len(then) :] if then and list(now[: len(then)]) == list(then) else []


def is_of_phases(key: str, names: Sequence[str]) -> bool:
    """Whether a key is one of the named phases, or the list of phases that they were added to."""
    return bool(names) and (key == PHASES or key.split(".")[:2] in [[PHASES, n] for n in names])


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all sections by their dotted keys."""
    keys: dict[str, Any] = {}
    for section, values in config.items():
        if isinstance(values, dict):
            keys |= {f"{section}.{name}": value for name, value in values.items()}
        else:
            keys[section] = values
    return keys


def check_identity(
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    checkpoint: Path,
    *,
    keys_dropout: bool,
    allow_changes: bool,
    say: Callable[[str], None],
) -> None:
    """Refuse to resume a run with other settings than those of the checkpoint.

    Phases may have been added after the others. What decides how the run is measured cannot change
    at all, because its results compare the model with what was measured before training, and the
    words that were added cannot, because the rows of the model are theirs.

    Args:
        then: The identity in the checkpoint.
        now: The identity of this sitting.
        checkpoint: The checkpoint's folder.
        keys_dropout: Whether dropout does not depend on the number of processes; see `Learner`.
        allow_changes: Whether other changes are reported only.
        say: Reports what has changed.

    Raises:
        CheckpointError: Settings that decide the result have changed.
    """
    added = phases_added(then.get(PHASES, []), now.get(PHASES, []))
    changed = [
        key for key, value in now.items() if then.get(key) != value and not is_of_phases(key, added)
    ]
    if NUM_PROCESSES in changed:
        changed.remove(NUM_PROCESSES)  # not refused, because batches and masks do not depend on it
        dropout = "and so does dropout" if keys_dropout else "dropout does not"
        say(
            f"processes: {then.get(NUM_PROCESSES)} then, {now[NUM_PROCESSES]} now; batches and "
            f"masks stay the same, {dropout}"
        )
    if not changed:
        return
    table = "\n".join(
        f"  {key}: {then.get(key)} in the checkpoint, {now[key]} now" for key in changed
    )
    if any(key.startswith("evaluation.") for key in changed):
        raise CheckpointError(
            f"{checkpoint}: until then, the run was measured with other settings of evaluation, "
            "and later measurements would not compare; change them back and give them to mlmtune "
            f"report when the run is finished, or start again with --overwrite:\n{table}"
        )
    if any(key.startswith("vocabulary.") for key in changed):
        raise CheckpointError(
            f"{checkpoint}: its model has rows for other words, which cannot change; change "
            "vocabulary and the text that its words are chosen by back, or start again with "
            f"--overwrite:\n{table}"
        )
    if allow_changes:
        say(f"resuming although this changed:\n{table}")
        if any(key.startswith(("corpus.", "chunking.")) for key in changed):
            say("what was measured until now is of the earlier text, and does not compare exactly")
        return
    raise CheckpointError(
        f"{checkpoint} belongs to another run; change these back, start again with --overwrite, or "
        f"resume all the same with --allow-changes:\n{table}"
    )
