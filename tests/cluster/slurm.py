"""A real Slurm on this machine: munged, slurmctld, and a slurmd for each of two nodes."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
INSTALL = "apt-get install slurmctld slurmd slurm-client munge"
TIMEOUT_SECONDS = 60

CONFIG = """\
ClusterName=mlmtune
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
MailProg=/bin/true
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
ReturnToService=2
KillWait=20
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.2 Port={ports[1]} CPUs=4 RealMemory=64000
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.3 Port={ports[2]} CPUs=4 RealMemory=64000
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
"""Nodes claim four processors each, whatever this machine has. A job that is stopped has twenty
seconds until it is killed."""


class Slurm:
    """A cluster of this machine, of the user who starts it; root is not needed.

    Attributes:
        folder: Everything that it writes, logs among it.
        partition: The only partition, which is the default.
        nodes: The names of the nodes.
    """

    partition = "debug"
    nodes = ("node1", "node2")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @staticmethod
    def missing() -> list[str]:
        """Programs that are not installed."""
        return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]

    def start(self) -> None:
        """Start all daemons, and wait until both nodes are idle."""
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(64))
        key.chmod(0o600)
        ports, user = _free_ports(3), getpass.getuser()
        self.config.write_text(
            CONFIG.format(folder=self.folder, ports=ports, user=user, host=socket.gethostname())
        )
        self._start(
            "munged", "--foreground", "--force", f"--key-file={key}",
            *(f"--{name}-file={self.folder}/munge.{name}" for name in ("pid", "seed", "log")),
            f"--socket={self.folder}/munge.socket",
        )  # fmt: skip
        wait_until((self.folder / "munge.socket").exists, "munged does not start")
        self._start("slurmctld", "-D")
        for node in self.nodes:
            self.start_node(node)

    def stop(self) -> None:
        """End every process, those of jobs among them."""
        for node in self.nodes:
            self._kill_node(node)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            daemon.wait(TIMEOUT_SECONDS)

    def run(self, *command: str) -> str:
        """Run a program of Slurm, and return what it prints."""
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
            env={**os.environ, "SLURM_CONF": str(self.config)},
        )  # fmt: skip
        assert ended.returncode == 0, f"{command}: {ended.stderr}{ended.stdout}"
        return ended.stdout.strip()

    def start_node(self, node: str) -> None:
        """Start a node, also after `kill_node`, and wait until jobs can use it."""
        self._start("slurmd", "-D", "-N", node)
        usable = ("idle", "mixed", "allocated")
        wait_until(lambda: self._state_of(node) in usable, f"{node} does not start")

    def kill_node(self, node: str) -> None:
        """Kill a node with all that runs on it, as a loss of power does, and report it as lost."""
        self._kill_node(node)
        # Slurm would notice after half a minute.
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def processes_of(self, node: str) -> list[psutil.Process]:
        """The processes of jobs on a node, with those of Slurm that started them."""
        found = []
        for process in psutil.process_iter():
            try:
                variables = process.environ()
                if (variables.get("SLURM_CONF"), variables.get("SLURMD_NODENAME")) == (
                    str(self.config), node,
                ):  # fmt: skip
                    parent = process.parent()
                    if parent is not None and parent.name().startswith("slurmstepd"):
                        found.append(parent)
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def state(self, job: str) -> str:
        """The state of a job: PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, CANCELLED ..."""
        return self.run("squeue", "--noheader", "--states=all", f"--job={job}", "--format=%T")

    def wait_for(self, job: str, *states: str) -> None:
        """Wait until a job has one of these states."""
        wait_until(lambda: self.state(job) in states, f"job {job} does not become {states}")

    def start_now(self, job: str) -> None:
        """Start a requeued job without the two minutes for which Slurm holds it back.

        Nodes must be up again before: one that returns ends what it still has of the job.
        """
        self.wait_for(job, "PENDING")
        time.sleep(2)  # nodes refuse a job whose credential is as old as its requeue, in seconds
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def _kill_node(self, node: str) -> None:
        if node in self._daemons:
            daemon = self._daemons.pop(node)
            daemon.kill()  # first, so that it does not report the end of the others
            daemon.wait(TIMEOUT_SECONDS)
        lost = self.processes_of(node)
        for process in lost:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(lost, timeout=TIMEOUT_SECONDS)

    def _state_of(self, node: str) -> str:
        ended = subprocess.run(
            ["sinfo", "--noheader", f"--nodes={node}", "--format=%T"],
            capture_output=True, text=True, env={**os.environ, "SLURM_CONF": str(self.config)},
        )  # fmt: skip
        return ended.stdout.strip()

    def _start(self, program: str, *arguments: str) -> None:
        name = arguments[-1] if program == "slurmd" else program
        with (self.folder / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                [program, *arguments], stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                env={**os.environ, "PATH": _path(), "SLURM_CONF": str(self.config)},
                start_new_session=True,
            )  # fmt: skip


def wait_until(
    happens: Callable[[], bool], otherwise: str, seconds: float = TIMEOUT_SECONDS
) -> None:
    """Wait, and fail with the line `otherwise` if it does not happen in time."""
    until = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < until, otherwise
        time.sleep(0.1)


def _path() -> str:
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])  # where daemons are


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
