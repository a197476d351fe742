import os
import subprocess
import sys

from tree_memory import TreeMemory

MANY_BYTES = 64 << 20

# Its child holds the memory, and waits until it is told to end.
PARENT = """
import subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""
CHILD = f"""
held = b"x" * {MANY_BYTES}
print("held", flush=True)
input()
"""


def test_memory_of_a_child_counts():
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with TreeMemory(process.pid) as memory:
            pass
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait() == 0
    assert MANY_BYTES < memory.peak_own_bytes < memory.peak_bytes < 2 * MANY_BYTES


def test_a_process_that_ends_is_no_error():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        memory = TreeMemory(process.pid)
        process.communicate(b"\n")
    with memory:
        pass
    assert memory.peak_bytes == 0
    assert not os.path.exists(f"/proc/{process.pid}")
