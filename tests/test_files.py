"""Written whole or not at all: what a process that is killed at any moment leaves behind."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import mlmtune
from mlmtune.files import (
    file_of_user,
    put_in_place,
    read_json,
    sweep,
    temporary_name,
    whole_file,
    whole_folder,
    write_bytes,
    write_json,
    write_text,
)

OLD = "old"
NEW = "new " * 10_000  # more than a buffer holds
NAME = "the-name"


def write_folder(path: Path, text: str, *, durable: bool = False) -> None:
    with whole_folder(path, durable=durable) as folder:
        (folder / "first").write_text(text, encoding="utf-8")
        (folder / "inner").mkdir()
        (folder / "inner" / "second").write_text(text, encoding="utf-8")


def write_folder_step_by_step(path: Path, text: str) -> None:
    temporary = temporary_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "inner").mkdir(parents=True)
    write_bytes(temporary / "first", text.encode(), durable=True)
    write_bytes(temporary / "inner" / "second", text.encode(), durable=True)
    put_in_place(path)


WRITERS: dict[str, Callable[[Path, str], None]] = {
    "text": write_text,
    "json": write_json,
    "durable": lambda path, text: write_bytes(path, text.encode(), durable=True),
    "shared": lambda path, text: write_bytes(path, text.encode(), shared=True),
    "folder": write_folder,
    "durable folder": lambda path, text: write_folder(path, text, durable=True),
    "folder step by step": write_folder_step_by_step,
}


def seen_at(path: Path) -> Any:
    """What has a name: nothing, the text of a file, or the texts in a folder."""
    if path.is_dir():
        return {file.name: file.read_text() for file in path.rglob("*") if file.is_file()}
    return path.read_text() if path.exists() else None


def is_killed(write: Callable[[], None], moment: int) -> bool:
    """Write in a process that is killed before or after a call of the system, by number.

    Returns:
        Whether there were so many calls.
    """
    child = os.fork()
    if child == 0:
        left = [moment]

        def look(_: Any, event: str, called: Any) -> None:
            if event not in ("c_call", "c_return"):
                return
            if (called.__module__ or type(called.__self__).__module__) in ("posix", "_io"):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(look)
            write()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def kill_at_each_moment(folder: Path, writer: str, *, over_old: bool) -> dict[str, Any]:
    """What the name leads to after each kill, in order, and the states of a complete write."""
    write, path = WRITERS[writer], folder / NAME

    def begin() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if over_old:
            write(path, OLD)

    begin()
    before = seen_at(path)
    write(path, NEW)  # also fills the caches, which would be calls in each child
    after = seen_at(path)
    seen, moment = [], 0
    begin()
    while is_killed(lambda: write(path, NEW), moment):
        state = seen_at(path)
        # Between two renames nothing has a folder's name; the new one is complete by then.
        is_between = over_old and state is None
        seen.append(seen_at(temporary_name(path)) if is_between else state)
        if seen[-1] not in (before, after):
            raise AssertionError(f"at moment {moment}: {str(seen[-1])[:200]}")
        write(path, NEW)
        sweep(folder)
        assert seen_at(path) == after
        assert [entry.name for entry in folder.iterdir()] == [NAME]
        begin()
        moment += 1
    return {
        "num_moments": moment,
        "num_changes": sum(a != b for a, b in pairwise(seen)),
        "first_is_old": seen[0] == before,
        "last_is_new": seen[-1] == after,
    }


@pytest.mark.parametrize("over_old", [False, True])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_killed_process_leaves_the_old_or_the_new(
    tmp_path: Path, writer: str, over_old: bool
) -> None:
    """Killed before and after each call of the system in turn; then written again, then swept."""
    # In a process without threads, which can fork.
    child = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "folder"), writer, str(int(over_old))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    said = json.loads(child.stdout)
    assert said["num_moments"] > 5
    assert (said["num_changes"], said["first_is_old"], said["last_is_new"]) == (1, True, True)


@pytest.mark.parametrize("function", ["open", "fsync", "replace"])
def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    write_text(tmp_path / NAME, OLD)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, refuse)
        with pytest.raises(OSError, match="No space left"):
            write_bytes(tmp_path / NAME, NEW.encode(), durable=True)
    assert seen_at(tmp_path) == {NAME: OLD}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_the_old_content_alone(
    tmp_path: Path, error: type[BaseException]
) -> None:
    write_text(tmp_path / "file", OLD)
    write_folder(tmp_path / "folder", OLD)
    before = seen_at(tmp_path)

    def fail_in(path: Path) -> None:
        path.write_text("half", encoding="utf-8")
        raise error

    with pytest.raises(error), whole_file(tmp_path / "file") as temporary:
        fail_in(temporary)
    with pytest.raises(error), whole_folder(tmp_path / "folder") as temporary:
        fail_in(temporary / "first")
    assert seen_at(tmp_path) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_what_is_durable_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)
        fsync(descriptor)

    def noted_rename(source: Path, target: Path) -> None:
        rename(source, target)
        events.append("renamed")

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    write_folder(tmp_path / NAME, NEW, durable=True)
    assert set(events[:-2]) == {"first", "inner", "second", f".writing-{NAME}"}
    assert events[-2:] == ["renamed", tmp_path.name]


def write_for_user(path: Path, content: bytes) -> None:
    with file_of_user(path) as target:
        target.write_bytes(content)


def test_a_file_of_the_user_replaces_neither_a_pipe_nor_an_open_file_nor_a_link(
    tmp_path: Path,
) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "stdout"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with ThreadPoolExecutor(1) as executor:
            reading = executor.submit(pipe.read_bytes)
            write_for_user(path, b"to a reader")
            assert reading.result(timeout=30) == b"to a reader"
    assert pipe.is_fifo()
    assert link.is_symlink()

    redirected, link_to_file = tmp_path / "redirected", tmp_path / "link"
    link_to_file.symlink_to(redirected)
    with redirected.open("wb") as file:
        write_for_user(Path(f"/dev/fd/{file.fileno()}"), b"to an open file")
        assert os.path.samestat(os.fstat(file.fileno()), redirected.stat())
    assert redirected.read_bytes() == b"to an open file"
    write_for_user(link_to_file, b"to a link")
    assert link_to_file.is_symlink()
    assert redirected.read_bytes() == b"to a link"


def test_a_folder_replaces_a_file_and_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_text(OLD, encoding="utf-8")
    for name in ("link", "file"):
        write_folder(tmp_path / name, NEW)
        assert seen_at(tmp_path / name) == {"first": NEW, "second": NEW}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["elsewhere", "file", "link"]


def test_a_folder_that_was_taken_away_is_not_made_anew(tmp_path: Path) -> None:
    gone = tmp_path / "gone" / NAME
    for write in WRITERS.values():
        if write is not write_folder_step_by_step:
            with pytest.raises(FileNotFoundError):
                write(gone, NEW)
    assert list(tmp_path.iterdir()) == []


def test_text_and_json_are_written_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-secret-of-1234567890")
    write_text(tmp_path / "text", "the token a-secret-of-1234567890")
    write_json(tmp_path / "json", {"token": "a-secret-of-1234567890"})
    assert (tmp_path / "text").read_text() == "the token [redacted]"
    assert read_json(tmp_path / "json") == {"token": "[redacted]"}


def test_only_this_module_renames_and_syncs() -> None:
    """A second way to write something whole would have faults of its own."""
    root = Path(mlmtune.__file__).parent
    named = {
        (path.relative_to(root).as_posix(), node.attr)
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        if node.attr in ("rename", "fsync", "mkstemp") or ast.unparse(node) == "os.replace"
    }
    assert named == {("files.py", "rename"), ("files.py", "fsync")}


if __name__ == "__main__":
    os.fsync = lambda descriptor: None  # slow, and changes nothing that another process sees
    print(json.dumps(kill_at_each_moment(Path(sys.argv[1]), sys.argv[2],
                                         over_old=sys.argv[3] == "1")))  # fmt: skip
