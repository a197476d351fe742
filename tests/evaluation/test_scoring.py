from itertools import chain

import numpy as np
import pytest
import torch

from mlmtune.errors import ResourceError
from mlmtune.evaluation.scoring import FittingBatches


def limited(most, sizes):
    """A function that runs out of memory on more than `most` sequences; notes the sizes asked."""

    def function(batch):
        sizes.append(len(batch))
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return batch.tolist()

    return function


def test_smaller_batches_from_where_memory_has_run_out_on():
    sizes: list[int] = []
    batches = FittingBatches(8, "chunking.chunk_length")
    first = batches.map(limited(3, sizes), np.arange(8))
    assert list(chain(*first)) == list(range(8))
    assert sizes == [8, 4, 2, 2, 2, 2]
    # It is not found out again.
    second = batches.map(limited(3, sizes), np.arange(8, 13))
    assert list(chain(*second)) == list(range(8, 13))
    assert sizes[6:] == [2, 2, 1]


def test_memory_that_does_not_suffice_for_one_is_an_error():
    with pytest.raises(ResourceError, match="one validation sequence"):
        FittingBatches(4, "chunking.chunk_length").map(limited(0, []), np.arange(4))


def test_other_errors_are_passed_on():
    def broken(batch):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        FittingBatches(4, "chunking.chunk_length").map(broken, np.arange(4))
