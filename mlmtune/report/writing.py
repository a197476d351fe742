"""The files of a report: writing them, and adding probes to them."""

import json
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from mlmtune.console import Console
from mlmtune.errors import ResourceError
from mlmtune.files import read_json, write_text
from mlmtune.printable import printable
from mlmtune.report.findings import FORMAT_VERSION, Probe, Report
from mlmtune.report.rendering import to_html, to_markdown
from mlmtune.shell import own_command


def write_report(report: Report, folder: Path) -> Path:
    """Write report.html, report.md and report.json into a folder.

    Returns:
        The path of report.html.

    Raises:
        ResourceError: A file cannot be written.
    """
    record = json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    contents = {
        "report.json": f"{record}\n",
        "report.md": to_markdown(report),
        "report.html": to_html(report),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # All three are rendered by now, so that an error leaves the old report complete.
        for name, content in contents.items():
            write_text(folder / name, content)
    except OSError as error:
        raise ResourceError(
            f"{folder}: the report cannot be written ({error.strerror}); give another --output"
        ) from error
    return folder / "report.html"


def renew_report(path: Path, console: Console) -> None:
    """Write the report of a run again with the probes made since; without a report, do nothing.

    Raises:
        ResourceError: A file cannot be written.
    """
    if not (path / "report.json").exists():
        return
    content = read_json(path / "report.json") or {}
    try:
        if content.pop("format_version", None) != FORMAT_VERSION:
            raise ValueError("it is of another version, or broken")
        report = TypeAdapter(Report).validate_python(content)
    except ValueError:  # pydantic's, too
        console.say(
            f"{path / 'report.json'} cannot be read, so the probe is not in the report; make it "
            f"again: {own_command('report', path)}"
        )
        return
    write_report(replace(report, probes=read_probes([path], console)), path)


def read_probes(paths: list[Path], console: Console) -> tuple[Probe, ...]:
    """Read the probes that `mlmtune probe` left in the directories of runs.

    One that is damaged, or of another version, is named and left out.
    """
    reader = TypeAdapter(Probe)
    probes: dict[Probe, None] = {}  # a probe of several runs is in the directory of each
    for path in (path / "probe.json" for path in paths):
        for task, content in (read_json(path) or {}).items():
            try:
                probes[reader.validate_python(content)] = None
            except ValueError:  # pydantic's
                console.say(
                    f"{path}: the probe of {printable(task)} is of another version of mlmtune, or "
                    "broken, and is not in the report; mlmtune probe makes it again"
                )
    return tuple(probes)
