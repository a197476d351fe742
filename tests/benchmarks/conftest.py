"""The benchmarks are scripts: they find the modules beside them by their bare names."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))


@pytest.fixture
def setting(tmp_path, model_dir, corpus_dir):
    """A setting of the tiny model and corpus, as both sides are given one."""
    import texts
    from options import Setting

    written = texts.prepare(corpus_dir, tmp_path, 8_000, 2_000)
    return Setting(
        model=model_dir,
        train=written.train,
        validation=written.validation,
        workspace=tmp_path,
        precision="fp32",
        batch_size=4,
        length=16,
    )
