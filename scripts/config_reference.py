"""Writes docs/config.md from mlmtune/config.py; a test checks that the page is current.

python scripts/config_reference.py
"""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mlmtune.config import ClassificationConfig, Config, keys_of
from mlmtune.config_problems import expectation
from mlmtune.config_schema import section_of

TARGET = Path(__file__).parent.parent / "docs" / "config.md"

INTRODUCTION = """\
# The config

Every key, with the values that it takes and its default. `python scripts/config_reference.py` makes
this page from `mlmtune/config.py`; do not edit it.

A config is one YAML file. `mlmtune train`, `check`, `corpus`, `prepare`, `eval` and `sweep` take a
config of adaptation; `finetune`, `probe` and `sweep` take one of a [task](classification.md). Only
keys that are marked *required* must be given. Any key can be given on the command line, which takes
precedence over the file; the value is YAML, and a number in a key is an entry of a list:

```bash
mlmtune check --config mine.yaml training.max_steps=100 'corpus.sources.0.exclude=["**/old/**"]'
```

Unknown keys, keys that are given twice and values of the wrong kind are all reported at once, with
file, line and the nearest valid name (exit code 2). `1e-5` and the like are numbers here, although
YAML reads them as text. Editors check and complete a config by its JSON schema:

```bash
mlmtune init --schema --output mlmtune.schema.json
mlmtune init task --schema --output mlmtune-task.schema.json
```

The first line of the config names it: `# yaml-language-server: $schema=mlmtune.schema.json`.
"""


def sections(kind: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the sections of a whole config by their names."""
    of_keys = {name: section_of(field.annotation) for name, field in keys_of(kind).items()}
    return {name: section for name, section in of_keys.items() if section is not None}


def reference() -> str:
    """Return the whole page."""
    of_adaptation, of_task = sections(Config), sections(ClassificationConfig)
    links = [
        ", ".join(f"[`{name}`](#{name})" for name in names) for names in (of_adaptation, of_task)
    ]
    parts = [
        INTRODUCTION,
        f"Sections of adaptation: {links[0]}; and the key [`objective`](#objective).\n\n"
        f"Sections of a task: {links[1]}; and the key [`task`](#task).\n",
    ]
    for name, kind in of_adaptation.items():
        parts += tables(name, kind)
        if name == "masking":
            parts.append(single("objective", keys_of(Config)["objective"]))
    parts.append(single("task", keys_of(ClassificationConfig)["task"]))
    for name, kind in of_task.items():
        if name not in of_adaptation:
            parts += tables(name, kind)
        elif kind is not of_adaptation[name]:
            parts += tables(name, kind, title=f"`{name}` of a task")
    return "\n".join(parts)


def single(key: str, field: FieldInfo) -> str:
    """Return the paragraph of a key that is in no section."""
    return (
        f"## `{key}`\n\n"
        f"{_takes(field)}; by default `{field.default}`. {_words(field.description)}\n"
    )


def tables(name: str, kind: type[BaseModel], title: str = "") -> Iterator[str]:
    """Yield the lines of a section's table, and of the tables of the sections inside it."""
    yield f"## {title or f'`{name}`'}\n"
    yield f"{_words(kind.__doc__)}\n"
    yield "| key | takes | default | |"
    yield "|---|---|---|---|"
    inner: dict[type[BaseModel], str] = {}
    for key, field in keys_of(kind).items():
        yield row(key, field)
        if (section := section_of(field.annotation)) is not None:
            inner.setdefault(section, f"{name}.{key}")
    yield ""
    for section, inner_name in inner.items():
        yield from tables(inner_name, section)


def row(key: str, field: FieldInfo) -> str:
    """Return the row of a key."""
    default = "*required*" if field.is_required() else _default(field)
    cells = [f"`{key}`", _takes(field), default, _words(field.description)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _takes(field: FieldInfo) -> str:
    words = expectation(field.annotation, field.metadata).replace(str(2**63), "2^63")
    if words.endswith(" or null"):  # the column of defaults shows this
        *first, last = words.removesuffix(" or null").split(", ")
        words = f"{', '.join(first)} or {last}" if first else last
    return re.sub(r"'([^']*)'", r"`\1`", words)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return "empty"
    if isinstance(value, BaseModel):
        return "see below"
    shown = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return f"`{shown.removesuffix('...' + chr(10)).strip()}`"


def _words(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
    print(f"wrote {TARGET}")
