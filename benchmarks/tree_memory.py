"""Measures the memory of a process and all its descendants together."""

import threading
from typing import Self

import psutil

SECONDS_BETWEEN_SAMPLES = 0.2


class TreeMemory:
    """Samples the memory of a process and its descendants while its context is open.

    Args:
        pid: The id of the process.

    Attributes:
        peak_bytes: The most that they held at once. A page that several of them share counts once
            (Linux's PSS), and pages of mapped files count while they are in memory.
        peak_own_bytes: `peak_bytes` without pages of files, which the system can take back.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peak_bytes = self.peak_own_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ended.wait(SECONDS_BETWEEN_SAMPLES)
            held = own = 0
            for process in self._processes():
                try:
                    memory = process.memory_full_info()  # slow, but PSS is nowhere else
                except psutil.Error:  # it has ended meanwhile
                    continue
                held += memory.pss
                own += memory.rss - memory.shared
            self.peak_bytes = max(self.peak_bytes, held)
            self.peak_own_bytes = max(self.peak_own_bytes, own)

    def _processes(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return []
