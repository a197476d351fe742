"""Makes the reports that docs/gallery.md describes, by the commands of that page.

python scripts/gallery.py

`mkdocs build` and `mkdocs serve` then show them on that page.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "gallery.md"
RUNS = ROOT / "runs" / "gallery"


def main() -> None:
    if RUNS.exists():
        sys.exit(f"{RUNS} holds an earlier gallery; delete it to make a new one")
    # The commands that the reports print are then those of a user whose environment is active.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for language, block in re.findall(
        r"^```(\w+)\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S
    ):
        if language == "yaml":
            target = ROOT / block.splitlines()[0].removeprefix("# ")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block, encoding="utf-8")
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("mlmtune "):
                print(f"\n$ {line}", flush=True)
                command = [sys.executable, "-m", *shlex.split(line)]
                done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path})
                if done.returncode:
                    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
