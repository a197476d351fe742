"""What the command line asks of a run besides its config."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunOptions:
    """How this sitting goes about the run; nothing here changes the experiment.

    Attributes:
        resume: `never`, `auto` (the newest valid checkpoint, if there is one), or a checkpoint.
        overwrite: Delete the run that the output directory holds.
        allow_changes: Resume even though seed, data, model or batch size changed.
        is_quiet: Print the result alone.
        is_silent: Show the bar of steps and nothing else, for a command of many runs.
        config_text: The config file as the user wrote it, kept beside the result without the
            queries of its URLs.
        command: How the run was asked for: `train` or `finetune`, the config's path, and the
            overrides. Empty where it was asked for by other means.
    """

    resume: str = "never"
    overwrite: bool = False
    allow_changes: bool = False
    is_quiet: bool = False
    is_silent: bool = False
    config_text: str | None = None
    command: tuple[str, ...] = ()
