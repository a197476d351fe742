"""Clusters that are started for the tests, and stopped after them."""

import os
from collections.abc import Iterator

import pytest
from slurm import INSTALL, Slurm


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A real Slurm of two nodes; `sbatch` of this process and its children reaches it."""
    if missing := Slurm.missing():
        pytest.fail(f"{', '.join(missing)}: not installed; on Debian and Ubuntu: {INSTALL}")
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(cluster.config)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        del os.environ["SLURM_CONF"]
        if before is not None:
            os.environ["SLURM_CONF"] = before
