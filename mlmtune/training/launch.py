"""`--nproc`: runs a command in several processes of this machine, by torch's own launcher.

With `--rendezvous`, it does so on each of several machines, which are called nodes.
"""

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mlmtune.errors import ConfigError, ResourceError, StoppedAtOnce
from mlmtune.modeling.device import num_gpus
from mlmtune.training.environment import versions
from mlmtune.training.interrupts import STOP_SIGNALS, answered_signals
from mlmtune.training.launched import (
    GRACE_SECONDS,
    LAUNCHER,
    REPORTS,
    STOPPED,
    Ending,
    ProcessReport,
    read_reports,
)
from mlmtune.training.rendezvous import Nodes, meet, parse_address
from mlmtune.training.run_dir import RunDir

CONSEQUENCES = (1, 128 + signal.SIGABRT)
"""Exit codes of a process that waited for one that had ended, or of an unforeseen error."""
RESUMES = "resumes from its last checkpoint with the same command and --resume auto"


def count_processes(asked: str) -> int:
    """Return the number of processes that `--nproc` asks for.

    Raises:
        ConfigError: It is not a number, there are fewer GPUs, or another launcher has started
            this process already.
    """
    if "WORLD_SIZE" in os.environ:
        raise ConfigError(
            f"--nproc {asked}: another launcher has started this process already (WORLD_SIZE is "
            "set); leave --nproc out, or start mlmtune by itself"
        )
    available = num_gpus()
    if asked == "auto":
        return max(available, 1)
    if not (asked.isascii() and asked.isdigit()) or int(asked) < 1:
        raise ConfigError(f"--nproc {asked}: give a number of processes, or auto")
    if 0 < available < int(asked):
        raise ConfigError(
            f"--nproc {asked}: each process needs a GPU of its own, and {available} can be seen "
            "here; give that number or auto, or set ACCELERATE_USE_CPU=true to compute on CPUs"
        )
    return int(asked)


def meet_nodes(address: str, num_nodes: int) -> Nodes:
    """Wait until this command has been started on all nodes.

    Raises:
        MlmtuneError: See `parse_address` and `meet`.
    """
    terms = {
        "their command": sys.argv[1:],
        **{f"the version of {name}": number for name, number in versions().items()},
        "what they compute on": "GPUs" if num_gpus() else "CPUs",
    }
    return meet(parse_address(address), num_nodes, terms)


def launch(
    num_processes: int, run: Path | None, nodes: Nodes | None = None, *, is_quiet: bool = True
) -> Ending:
    """Run the command of this process again, in several processes, and wait for them.

    Args:
        num_processes: The number of processes on this machine; each gets a GPU if there are GPUs.
        run: The run's directory, if the command has one. Its status.json is corrected if the main
            process did not know why it failed.
        nodes: The machines that run the command, if they are several.
        is_quiet: Whether torch's launcher must not log.

    Returns:
        The ending, which is the same on all machines; its message is empty on those without the
        first process, which prints it.
    """
    if is_quiet:
        logging.disable()
    _prepare_environment(num_processes)
    with tempfile.TemporaryDirectory(prefix="mlmtune-") as folder:
        os.environ[REPORTS] = folder
        failures: Mapping[int, ProcessFailure] = {}
        signal_number: int | None = None
        watched = nullcontext(threading.Event()) if nodes is None else nodes.watched()
        with watched as is_lost:
            try:
                # torch replaces ${local_rank} in arguments; "$$" keeps a dollar a dollar.
                arguments = [argument.replace("$", "$$") for argument in sys.orig_argv[1:]]
                config = _launch_config(num_processes, nodes, Path(folder) / "torch")
                elastic_launch(config, sys.executable)(*arguments)
            except ChildFailedError as error:
                failures = error.failures
            except SignalException as error:
                signal_number = error.sigval
            except DistError:  # a node was lost before the processes started
                is_lost.set()
            finally:
                for number in STOP_SIGNALS:
                    signal.signal(number, signal.SIG_IGN)  # only the reports remain to be read
        reports = read_reports(Path(folder))
    if signal_number is not None:
        ending = _ending_by_signal(reports, signal_number)
    elif is_lost.is_set():  # processes of this node may have been killed for it
        ending = _first(_reported(reports)) or Ending(int(bool(failures) or not reports))
    elif failures:
        ending = _ending_by_failure(reports, failures)
    else:
        ending = Ending(0)
    if nodes is not None:
        ending = _agree(nodes, ending)
    if run is not None and ending.exit_code != 0:
        main = reports.get(0) or failures.get(0)
        _correct_status(RunDir(run), None if main is None else main.pid, ending)
    return ending


def _prepare_environment(num_processes: int) -> None:
    """Set the environment variables that the processes inherit."""
    os.environ[LAUNCHER] = str(os.getpid())
    if num_gpus() == 0:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(torch.get_num_threads() // num_processes, 1)))
    # torch 2.12 and later read this; earlier versions wait for 30 seconds.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(GRACE_SECONDS))


def _launch_config(num_processes: int, nodes: Nodes | None, folder: Path) -> LaunchConfig:
    if nodes is None:
        num_nodes, backend, endpoint, configs = 1, "c10d", "127.0.0.1:0", {}
    else:  # they have met already; what remains is torch's exchange of ranks
        num_nodes, backend, endpoint = len(nodes.names), "static", str(nodes.address)
        configs = {"rank": nodes.index}
    return LaunchConfig(
        min_nodes=num_nodes,
        max_nodes=num_nodes,
        nproc_per_node=num_processes,
        run_id="mlmtune",
        rdzv_backend=backend,
        rdzv_endpoint=endpoint,
        rdzv_configs=configs,
        local_addr="127.0.0.1",
        max_restarts=0,
        signals_to_handle=",".join(number.name for number in answered_signals()),
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),  # torch's default folder is not deleted
    )


def _ending_by_signal(reports: Mapping[int, ProcessReport], signal_number: int) -> Ending:
    """Decide the ending of a launch whose launcher received a signal and passed it on."""
    failure, main = _first(_reported(reports)), reports.get(0)
    if failure is not None and failure.exit_code not in (*STOPPED, *CONSEQUENCES):
        return failure  # the checkpoint could not be written
    if main is not None and main.exit_code == 0:
        return Ending(0)  # it had finished already
    code = 128 + signal_number
    if main is not None and main.exit_code in STOPPED:
        return Ending(code, main.message)
    return Ending(code, str(StoppedAtOnce(signal_number)))


def _ending_by_failure(
    reports: Mapping[int, ProcessReport], failures: Mapping[int, ProcessFailure]
) -> Ending:
    """Decide the ending of a launch in which a process failed, so that torch stopped all."""
    first_time = min(failure.timestamp for failure in failures.values())
    endings = _reported(reports)
    endings += [
        _unreported(rank, failure)
        for rank, failure in failures.items()  # in the order in which they were noticed
        # Those that do not answer SIGTERM are killed by torch after 30 seconds.
        if rank not in reports and failure.timestamp - first_time < 20
    ]
    # If there is none, all had reported success before Python's own shutdown failed.
    return _first(endings) or Ending(0)


def _agree(nodes: Nodes, ending: Ending) -> Ending:
    """Decide the ending of a launch on several machines, from those of all of them."""
    if ending.exit_code == 0:
        nodes.exchange(ending)
        return ending
    endings = nodes.exchange(ending)
    lost = [name for name, of_node in zip(nodes.names, endings, strict=True) if of_node is None]
    cause = _first(of_node for of_node in endings if of_node is not None) or ending
    if lost and cause.exit_code in CONSEQUENCES:
        cause = Ending(
            cause.exit_code,
            f"{' and '.join(lost)} ended without a word (killed, or the machine was lost); a "
            f"training run {RESUMES}",
        )
    is_printed = nodes.index == 0 or endings[0] is None
    return cause if is_printed else replace(cause, message="")


def _reported(reports: Mapping[int, ProcessReport]) -> list[Ending]:
    return [Ending(report.exit_code, report.message, rank) for rank, report in reports.items()]


def _first(endings: Iterable[Ending]) -> Ending | None:
    """Return the failure that caused the others; of equal ones, that of the lowest rank."""
    endings = [ending for ending in endings if ending.exit_code != 0]
    if not endings:
        return None
    cause = min(endings, key=lambda ending: _distance(ending.exit_code))
    same = [e for e in endings if (e.exit_code, e.message) == (cause.exit_code, cause.message)]
    return min(same, key=lambda ending: ending.rank)


def _distance(exit_code: int) -> int:
    """Return how far an exit code is from the cause; 0 for mlmtune's own codes, which name it."""
    if exit_code in STOPPED:
        return 3
    if exit_code in CONSEQUENCES:
        return 2
    return int(exit_code > 128)


def _unreported(rank: int, failure: ProcessFailure) -> Ending:
    if failure.exitcode >= 0:
        return Ending(failure.exitcode, f"process {rank} failed; its message is above")
    name = failure.signal_name()
    guess = " (out of memory?)" if name == "SIGKILL" else ""
    return Ending(
        128 - failure.exitcode,
        f"process {rank} was killed by {name}{guess} and the others were stopped; a training run "
        f"{RESUMES}",
    )


def _correct_status(run: RunDir, pid: int | None, ending: Ending) -> None:
    """Write the ending to the status file that the launch's main process (`pid`) wrote last."""
    for name in ("attempt.json", "status.json"):
        status = run.read_json(name) or {}
        if pid is None or status.get("pid") != pid or status.get("state") == "finished":
            continue
        said = status.get("exit_code"), status.get("message", "")
        if said != (ending.exit_code, ending.message):
            state = "interrupted" if ending.exit_code in STOPPED else "failed"
            if name == "attempt.json":
                run.keep_record()
            with suppress(ResourceError):
                run.write_status(state, exit_code=ending.exit_code, message=ending.message)
        return
