"""What the programs of Slurm say when they fail; this needs no extra."""

import re

_ERROR = re.compile(r"^\w+: (?:error|fatal): (.*)$", re.MULTILINE)
_MESSAGE = re.compile(r"^\w+: (.*)$", re.MULTILINE)


def complaints(stderr: str) -> list[str]:
    """Return what a program says is wrong, by what it writes to standard error."""
    return _ERROR.findall(stderr) or _MESSAGE.findall(stderr)[:1] or ["it gives no reason"]
