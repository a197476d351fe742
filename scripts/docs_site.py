"""A hook of MkDocs: the navigation is that of docs/README.md, and links that leave docs/ work.

Pages outside docs/ become pages of the site. A linked file that is not Markdown becomes a page that
shows it. The sources keep the links that GitHub follows. The reports of docs/gallery.md are shown
on that page if scripts/gallery.py has made them.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\(([^)\s#]+)")
REPORT = re.compile(r"^`runs/(gallery/\S+\.html)`$", re.MULTILINE)
LANGUAGES = {".py": "python", ".yaml": "yaml"}

OUTSIDE = {
    "Overview": "README.md",
    "Benchmarks": "benchmarks/README.md",
    "Contributing": "CONTRIBUTING.md",
    "Changelog": "CHANGELOG.md",
}
"""The pages outside docs/, by their titles in the navigation."""


def on_config(config: Any) -> None:
    contents = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    guide, reference = (
        [{title: page} for title, page in re.findall(r"^(?:\d+\.|-) \[(.+)\]\((.+)\)", part, re.M)]
        for part in contents.split("\nReference:\n")
    )
    project = [{title: site_path(path)} for title, path in OUTSIDE.items()]
    config.nav = [{"Contents": "README.md"}, {"Guide": guide}, {"Reference": reference},
                  {"Project": project}]  # fmt: skip


def on_files(files: Any, config: Any) -> None:
    pages = [*OUTSIDE.values(), *(f"docs/{page.src_uri}" for page in files.documentation_pages())]
    shown = set(OUTSIDE.values())
    for page in pages:
        shown |= {path for path in linked_files(page) if not path.startswith("docs/")}
    for path in sorted(shown):
        text = (ROOT / path).read_text(encoding="utf-8")
        if not path.endswith(".md"):
            language = LANGUAGES[posixpath.splitext(path)[1]]
            text = f"# {path}\n\n~~~~ {language}\n{text}~~~~\n"
        files.append(File.generated(config, site_path(path), content=text))
    for name in REPORT.findall((ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")):
        if (report := ROOT / "runs" / name).is_file():
            files.append(File.generated(config, name, content=report.read_text(encoding="utf-8")))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    here = page.file.src_uri
    source = next((path for path in OUTSIDE.values() if site_path(path) == here), f"docs/{here}")

    def as_site_link(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        if not (ROOT / path).is_file():
            return link[0]
        return f"]({posixpath.relpath(site_path(path), posixpath.dirname(here) or '.')}"

    def as_shown_report(name: re.Match[str]) -> str:
        if not (ROOT / "runs" / name[1]).is_file():
            return name[0]
        shown = name[1].removeprefix("gallery/")  # from the page's own address, gallery/
        frame = f'<iframe class="report" src="{shown}" title="{shown}" loading="lazy"></iframe>'
        return f"[Open the whole page]({name[1]})\n\n{frame}"

    return REPORT.sub(as_shown_report, LINK.sub(as_site_link, markdown))


def linked_files(page: str) -> set[str]:
    """Return the repository's files to which a page links, from the repository's root."""
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = {
        posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
        for target in LINK.findall(text)
    }
    return {path for path in paths if (ROOT / path).is_file()}


def site_path(path: str) -> str:
    """Return the place on the site of a file of the repository."""
    if path == "README.md":
        return "overview.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.endswith(".md") else f"{path}.md"
