"""Writes docs/config.md from mlmtune/config.py; a test holds that it is current.

python scripts/config_reference.py
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mlmtune.config import ClassificationConfig, Config, keys_of
from mlmtune.config_problems import expectation

TARGET = Path(__file__).parent.parent / "docs" / "config.md"

INTRODUCTION = """\
# The config

Every key, with what it takes and its default. The page is made from `mlmtune/config.py` by
`python scripts/config_reference.py`; do not edit it.

A config is one YAML file. `mlmtune train`, `check`, `corpus`, `prepare`, `eval` and `sweep` take
one of adaptation; `finetune`, `probe` and `sweep` one of a [task](classification.md). Only what
says *required* must be there. Any key can be given on the command line, which goes before the
file; the value is YAML, and a number in a key is an entry of a list:

```bash
mlmtune check --config mine.yaml training.max_steps=100 'corpus.sources.0.exclude=["**/old/**"]'
```

An unknown key, a key that stands twice, a value of the wrong kind: all are told at once, with file,
line and the nearest valid name (exit code 2). Numbers such as `1e-5` are numbers here, though YAML
takes them for text. Editors check and complete a config by its JSON schema:

```bash
mlmtune init --schema --output mlmtune.schema.json
mlmtune init task --schema --output mlmtune-task.schema.json
```

and a first line in the config that names it: `# yaml-language-server: $schema=mlmtune.schema.json`.
"""


def sections(kind: type[BaseModel]) -> dict[str, FieldInfo]:
    """The sections of a whole config, by their names."""
    return {name: field for name, field in keys_of(kind).items() if section_of(field) is not None}


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field is, or may be, or is a list of."""
    kinds: list[Any] = [field.annotation]
    while kinds:
        kind = kinds.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        kinds += get_args(kind)
    return None


def reference() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    of_both = sections(Config)
    of_both |= {n: f for n, f in sections(ClassificationConfig).items() if n not in of_both}
    listed = [", ".join(f"[`{name}`](#{anchor(name)})" for name in sections(kind))
              for kind in (Config, ClassificationConfig)]  # fmt: skip
    parts.append(
        f"Sections of adaptation: {listed[0]}; and the key [`objective`](#objective).\n\n"
        f"Sections of a task: {listed[1]}.\n"
    )
    for name, field in of_both.items():
        kind = section_of(field)
        assert kind is not None
        parts.append("\n".join(section(name, kind)))
        if name == "masking":
            parts.append("\n".join(objective()))
    theirs = section_of(keys_of(ClassificationConfig)["evaluation"])
    assert theirs is not None
    parts.append("\n".join(section("evaluation", theirs, title="`evaluation` of a task")))
    return "\n".join(parts)


def anchor(name: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w -]", "", name).replace(" ", "-").lower()


def section(name: str, kind: type[BaseModel], title: str = "") -> Iterator[str]:
    """A section's table, and those of the sections inside it."""
    yield f"## {title or f'`{name}`'}\n"
    yield f"{_words(kind.__doc__)}\n"
    yield "| key | takes | default | |"
    yield "|---|---|---|---|"
    inner: list[tuple[str, type[BaseModel]]] = []
    for key, field in keys_of(kind).items():
        yield row(key, field)
        of_field = section_of(field)
        known = [one for _, one in inner]
        if of_field is not None and of_field not in known and of_field is not kind:
            inner.append((f"{name}.{key}", of_field))
    yield ""
    for inner_name, inner_kind in inner:
        yield from section(inner_name, inner_kind)


def objective() -> Iterator[str]:
    """The one key that stands by itself."""
    field = keys_of(Config)["objective"]
    yield "## `objective`\n"
    yield f"{_takes(field)}; by default `{field.default}`. {_words(field.description)}\n"


def row(key: str, field: FieldInfo) -> str:
    """A key in a table."""
    default = "*required*" if field.is_required() else _default(field)
    cells = [f"`{key}`", _takes(field), default, _words(field.description)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _takes(field: FieldInfo) -> str:
    said = expectation(field.annotation, field.metadata).replace(str(2**63), "2^63")
    if said.endswith(" or null"):  # the default says so
        *first, last = said.removesuffix(" or null").split(", ")
        said = f"{', '.join(first)} or {last}" if first else last
    return re.sub(r"'([^']*)'", r"`\1`", said)


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
