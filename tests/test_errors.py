"""An error of the operating system keeps its exit code, whatever library met it."""

import errno
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from mlmtune.errors import (
    CheckpointError,
    DataError,
    HubError,
    errno_of,
    explain,
    named,
    was_taken_away,
)


@pytest.mark.parametrize(
    ("message", "line"),
    [("", "OSError"), (" \nlast\n", "OSError: last"), ("one\ntwo", "OSError: one"),
     (f"{'x' * 190} https://a.b/c?signature=secret", f"OSError: {'x' * 190} https://a")],
)  # fmt: skip
def test_an_error_is_named_by_its_type_and_first_line(message, line):
    assert named(OSError(message)) == line


@pytest.fixture
def full(tmp_path):
    """A file on a full disk; a link, because pyarrow deletes what it could not write."""
    path = tmp_path / "full"
    path.symlink_to("/dev/full")
    return path


def error_of(action, *arguments):
    try:
        action(*arguments)
    except Exception as error:
        return error
    return pytest.fail("nothing was refused")


def caused(error, cause):
    error.__cause__ = cause
    return error


def tokenizer_error(path):
    vocabulary = {str(number): number for number in range(5000)}
    return error_of(Tokenizer(WordLevel(vocabulary, "0")).save, str(path))


@pytest.mark.parametrize(
    "make",
    [
        lambda full: tokenizer_error(full),
        lambda full: error_of(pq.write_table, pa.table({"a": list(range(10**6))}), full),
        lambda _: RuntimeError("Error while serializing: I/O error: ... (os error 28)"),
        lambda _: HubError("git fetch: fatal: write error: No space left on device"),
        lambda _: caused(DataError("the dataset cannot be read"), OSError(errno.EDQUOT, "quota")),
        lambda _: caused(RuntimeError("while building"), OSError(errno.EROFS, "read-only", "/x")),
        lambda _: caused(CheckpointError("checkpoint-7 cannot be read"), OSError(errno.EIO, "I/O")),
    ],
    ids=["tokenizers", "pyarrow", "safetensors", "git", "quota", "read-only", "faulty"],
)
def test_a_fault_of_the_disk_is_told_by_its_cause_and_exits_with_6(make, full):
    error = make(full)
    message, code = explain(error)
    assert code == 6
    assert os.strerror(errno_of(error)) in message
    assert "unexpected" not in message
    assert "\n" not in message


def test_a_file_on_a_full_disk_is_named():
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")
    said = "/data/x: cannot be written (No space left on device); make room"
    assert explain(error) == (said, 6)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("a"), 1),
        (OSError(errno.ECONNREFUSED, "refused"), 1),
        (HubError("no such model (os error 2)"), 7),
        (DataError("a.txt: not UTF-8"), 3),
    ],
)
def test_other_errors_stay_what_they_are(error, code):
    assert explain(error)[1] == code


def test_an_operation_that_cannot_be_repeated_is_named():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        error = error_of(torch.zeros(3).put_, torch.tensor([0]), torch.ones(1))
    finally:
        torch.use_deterministic_algorithms(before)
    message, code = explain(error)
    assert code == 2
    assert "PyTorch computes put_ with other bits" in message


def test_a_circle_of_causes_has_an_end():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert errno_of(first) is None


def test_a_folder_that_is_gone_is_told_from_a_full_disk(tmp_path, full):
    assert was_taken_away(tokenizer_error(tmp_path / "gone" / "tokenizer.json"))
    assert not was_taken_away(tokenizer_error(full))
