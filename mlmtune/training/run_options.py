"""The options of the command line for a run, which need no library to be read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunOptions:
    """The options of a run besides its config; none of them changes the experiment.

    Attributes:
        resume: `never`, `auto` (the newest valid checkpoint, if there is one), or a checkpoint.
        overwrite: Delete the run that the output directory holds.
        allow_changes: Resume even though settings that decide the result have changed.
        is_quiet: Print only the result.
        is_silent: Show only the bar of steps, for a command that trains many runs.
        config_text: The config file as the user wrote it, which is kept beside the result without
            the queries of its URLs.
        command: `train` or `finetune`, the config's path, and the overrides. Empty if no such
            command started the run.
    """

    resume: str = "never"
    overwrite: bool = False
    allow_changes: bool = False
    is_quiet: bool = False
    is_silent: bool = False
    config_text: str | None = None
    command: tuple[str, ...] = ()
