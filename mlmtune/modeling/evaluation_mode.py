"""A model without dropout, for as long as it is measured or probed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def in_evaluation_mode(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode, and afterwards into the mode in which it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
