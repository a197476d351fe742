"""`mlmtune train --on slurm`: submit a run as a job, or show its script."""

import re
import shlex
import sys
from pathlib import Path

from accelerate.utils import parse_flag_from_env

from mlmtune.commands.starting import ChosenConfig, Processes
from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.errors import ConfigError
from mlmtune.files import write_text
from mlmtune.locations import cache_directory, expand_home
from mlmtune.printable import counted
from mlmtune.training.run_dir import open_run_dir, writing_to
from mlmtune.training.run_options import RunOptions
from mlmtune.training.slurm_job import USE_CPU, TrainingJob, check_sbatch, job_script, submit


def submit_training(
    chosen: ChosenConfig, options: RunOptions, processes: Processes, *,
    has_report: bool, is_shown_only: bool,
) -> None:  # fmt: skip
    """Submit a run as a job of Slurm, and print how to follow it.

    Args:
        chosen: The config.
        options: The options of the run; the job starts with them, and resumes after a requeue.
        processes: The number of nodes, and of processes on each.
        has_report: Whether the job makes a report.
        is_shown_only: Whether the script is printed and not submitted.

    Raises:
        MlmtuneError: The options do not suit a job, the output directory is in use, there is no
            Slurm, or it refuses the job.
    """
    settings, console = chosen.settings, Console(is_quiet=options.is_quiet)
    job = _plan(chosen, options, processes, has_report=has_report)
    script = job_script(job, settings.engine)
    if is_shown_only:
        console.result(script.rstrip())
        return
    check_sbatch()
    may_be_in_use = options.overwrite or options.resume != "never"
    with open_run_dir(expand_home(settings.run.output_dir), may_be_in_use=may_be_in_use):
        pass  # the job would find later what is wrong with it
    path = job.log.with_name(f"{job.name}.sh")
    with writing_to(path, "nothing was submitted"):
        job.log.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, script)
    number = submit(path)
    log = str(job.log).replace("%j", number)
    size = f"{counted(job.num_nodes, 'node')} with "
    size += counted(job.num_processes, "process", "processes") + " each" * (job.num_nodes > 1)
    console.result(f"submitted job {number}: {size}")
    console.say(f"follow it: tail -F {shlex.quote(log)}")
    console.say(f"stop it with its state saved, and start it again: scancel --signal=USR1 {number}")
    console.say(f"cancel it: scancel {number}")


def _plan(
    chosen: ChosenConfig, options: RunOptions, processes: Processes, *, has_report: bool
) -> TrainingJob:
    """Decide what the job runs.

    Raises:
        ConfigError: The options do not suit a job.
    """
    nproc = processes.nproc or "1"
    if not (nproc.isascii() and nproc.isdigit()) or int(nproc) < 1:
        raise ConfigError(
            f"--nproc {nproc}: with --on slurm, give the number of processes on each node, which "
            "is the number of its GPUs that they use"
        )
    if processes.rendezvous is not None:
        raise ConfigError("--rendezvous: leave it out with --on slurm; a job finds its own")
    command, *arguments = options.command
    flags = [
        *["--allow-changes"] * options.allow_changes,
        *["--no-report"] * (not has_report),
        *["--quiet"] * options.is_quiet,
    ]
    name = re.sub(r"[^\w.-]", "-", expand_home(chosen.settings.run.output_dir).resolve().name)
    return TrainingJob(
        name=name,
        python=sys.executable,
        command=[command, "--config", *arguments, *flags],
        first_start=["--overwrite"] if options.overwrite else ["--resume", options.resume],
        num_nodes=processes.nodes,
        num_processes=int(nproc),
        uses_gpus=not parse_flag_from_env(USE_CPU),
        working_directory=Path.cwd(),
        log=_folder(chosen.settings) / f"{name}-%j.log",
    )


def _folder(settings: Config) -> Path:
    """Return the folder of scripts and logs, which all nodes must share."""
    if settings.engine.folder is not None:
        return expand_home(settings.engine.folder).resolve() / "training"
    return cache_directory(settings.tokenization.cache_dir, "cluster").resolve() / "training"
