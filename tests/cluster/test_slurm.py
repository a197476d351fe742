"""The Slurm of these tests runs a task on each node, and runs a job again that lost a node."""

from pathlib import Path

import pytest
from slurm import Slurm, wait_until

pytestmark = pytest.mark.cluster


def test_a_job_that_loses_a_node_runs_again_on_both(slurm: Slurm, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = 'echo "start $SLURM_RESTART_COUNT on $SLURMD_NODENAME"; sleep ${SECONDS_TO_SLEEP}'
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/sh\nexport SECONDS_TO_SLEEP=$((SLURM_RESTART_COUNT ? 0 : 60))\n"
        f"srun sh -c '{program}'\n"
    )
    job = slurm.run(
        "sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", "--requeue",
        "--open-mode=append", f"--output={log}", str(script),
    )  # fmt: skip
    wait_until(lambda: log.exists() and log.read_text().count("start") == 2, "no tasks")
    slurm.kill_node("node2")
    slurm.start_now(job)
    slurm.start_node("node2")
    slurm.wait_for(job, "COMPLETED")
    assert {"start  on node1", "start  on node2", "start 1 on node1", "start 1 on node2"} <= set(
        log.read_text().splitlines()
    )
