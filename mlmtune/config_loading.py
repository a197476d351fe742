"""Loading of a config: a YAML file and `section.key=value` overrides in, a checked `Config` out.

All problems are reported at once, one per line, each with its file, line, key and remedy.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema

from mlmtune import config_problems
from mlmtune.config import ClassificationConfig, Config, Section
from mlmtune.config_schema import take_one_for_a_list
from mlmtune.errors import ConfigError
from mlmtune.printable import counted
from mlmtune.redaction import REDACTED, is_secret_name, redacted, remember_secrets, without_queries
from mlmtune.yaml_document import KeyPath, Origin, YamlDocument, dotted, dump, parse, replace_texts

SettingsT = TypeVar("SettingsT", bound=Section)

MAX_BYTES = 1_000_000
"""The largest size of a config. A larger file is probably data or a model."""

_OVERRIDE = re.compile(r"\s*(?P<key>\w[\w-]*(?:\.\w[\w-]*|\[\d+\])*)\s*=(?P<value>.*)", re.DOTALL)


@overload
def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config: ...
@overload
def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, kind: type[SettingsT]
) -> SettingsT: ...
def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, kind: type[Section] = Config
) -> Section:
    """Load a config.

    Args:
        path: The YAML file.
        overrides: Settings that replace those of the file, each as `section.key=value`. The value
            is YAML; a number in the key is an entry of a list (`corpus.sources.0.path=x`).
        kind: `Config`, or `ClassificationConfig` for a task.

    Raises:
        ConfigError: With all problems, one per line.
    """
    return load_config_text(_read_text(Path(path)), str(Path(path)), overrides, kind=kind)


@overload
def load_config_text(text: str, name: str, overrides: Sequence[str] = ()) -> Config: ...
@overload
def load_config_text(
    text: str, name: str, overrides: Sequence[str] = (), *, kind: type[SettingsT]
) -> SettingsT: ...
def load_config_text(
    text: str, name: str, overrides: Sequence[str] = (), *, kind: type[Section] = Config
) -> Section:
    """Load a config from its text; see `load_config`.

    Args:
        text: The YAML.
        name: What messages call it: the path of its file, or another name.
        overrides: Settings that replace those of the text.
        kind: The kind of config.

    Raises:
        ConfigError: With all problems, one per line.
    """
    document = _parsed(text, name)
    remember_secrets(document.value)
    if isinstance(document.value, dict):
        # Once before the overrides, which may name an entry, and once for what they contain.
        take_one_for_a_list(document, kind)
        for number, override in enumerate(overrides):
            _apply(override, number, document)
        take_one_for_a_list(document, kind)
        try:
            config = kind.model_validate(document.value)
        except ValidationError as error:
            _report_invalid(error, document, kind)
        else:
            if not document.problems:
                return config
    elif not document.problems and document.value is None:
        document.report((), "empty; `mlmtune init` writes a config to start from")
    elif not document.problems:
        document.report((), "expected sections such as `model:`, and their keys below them")
    raise ConfigError("\n".join(map(str, sorted(document.problems))))


def resolved_yaml(config: Section) -> str:
    """Return the whole config, defaults included, as YAML that loads as an equal config."""
    return dump(config.model_dump())


def own_yaml(settings: Section | Mapping[str, Any]) -> str:
    """Return the settings that were given, without the defaults, as YAML."""
    given = settings.model_dump(exclude_unset=True) if isinstance(settings, Section) else settings
    return dump(dict(given))


def recorded_yaml(config: Section) -> str:
    """Return the whole config as a run keeps it: without secrets and the queries of URLs."""
    return dump(redacted(config.model_dump()))


def recorded_text(text: str) -> str:
    """Return a config as the user wrote it, without secrets and the queries of URLs."""
    return without_queries(replace_texts(text, redacted))


def as_override(value: Any) -> str:
    """Return a value as it is written after `section.key=`: YAML on one line."""
    return dump(value).removesuffix("...\n").strip()


class _SchemaForEditors(GenerateJsonSchema):
    def list_schema(self, schema: Any) -> dict[str, Any]:
        """Accept a single entry instead of a list, as loading does."""
        array = super().list_schema(schema)
        return {"anyOf": [array, array["items"]]}


def json_schema(kind: type[Section]) -> dict[str, Any]:
    """Return the JSON schema of a config, for editors. It has no rules between keys."""
    schema = kind.model_json_schema(schema_generator=_SchemaForEditors)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


SHIPPED_TASKS = ("entities", "task")
"""The names of the shipped configs that are those of tasks with labels."""


def shipped_configs() -> dict[str, Path]:
    """Return the paths of the configs that come with mlmtune, by name."""
    # A wheel has them inside the package; in a source tree they are beside it.
    package = Path(__file__).parent
    folders = (package / "configs", package.parent / "configs")
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def _parsed(text: str, name: str) -> YamlDocument:
    return parse(text, lambda line: Origin(line, f"{name}:{line}"))


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # one more, to see whether there is more
    except FileNotFoundError:
        raise ConfigError(_no_such_file(path)) from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; give the YAML file itself") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES:,} bytes, so it is not a config")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: not UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8"
        ) from None


def _no_such_file(path: Path) -> str:
    beside = path.parent.glob("*.y*ml") if path.parent.is_dir() else ()
    names = [file.name for file in beside]
    if close := difflib.get_close_matches(path.name, names, n=1):
        return f"{path}: no such file; did you mean '{path.with_name(close[0])}'?"
    return f"{path}: no such file; `mlmtune init` lists the configs that come with mlmtune"


def _apply(override: str, number: int, document: YamlDocument) -> None:
    """Write the override of an index into the document, or report what is wrong with it."""
    origin = Origin(config_problems.FIRST_OVERRIDE + number, f"override {_shown(override)!r}")
    parts = _OVERRIDE.fullmatch(override)
    if parts is None:
        document.report((), f"expected section.key=value, {_hint_for(override)}", origin)
        return
    # Messages name an entry as Python does: corpus.sources[0].
    keys = re.sub(r"\[(\d+)\]", r".\1", parts["key"]).split(".")
    try:
        container, path = _container(document.value, keys)
    except ValueError as error:
        document.report((), str(error), origin)
        return
    written = parse(parts["value"], lambda _: origin, path)
    document.problems += written.problems
    remember_secrets(written.value)
    if not written.problems:
        container[path[-1]] = written.value
    document.forget_origins_below(path)
    document.origins |= written.origins


def _hint_for(override: str) -> str:
    """Return what an argument without `=` was probably meant to be."""
    if override.lower().endswith((".yaml", ".yml")):
        return f"and the config goes before the settings: --config {override}"
    if (colon := re.fullmatch(r"([\w.-]+):\s*(.+)", override)) and "." in colon[1]:
        return f"did you mean {_shown(f'{colon[1]}={colon[2]}')}?"
    return "such as training.epochs=1"


def _shown(override: str) -> str:
    """Return an override for an error message: without its value if that may hold a secret."""
    if any(map(is_secret_name, re.findall(r"[\w.-]+(?=[\"']?\s*[:=])", override))):
        return f"{re.split('[:=]', override)[0]}={REDACTED}"
    key = re.match(r"[\w.-]+\s*=|", override)
    assert key is not None
    return f"{key[0]}{redacted(override[key.end() :])}"


def _container(container: Any, keys: Sequence[str], path: KeyPath = ()) -> tuple[Any, KeyPath]:
    """Return the section or list that holds the last of `keys`, and the path of that key.

    The first key is in `container`, which is at `path`. Missing sections are created on the way.

    Raises:
        ValueError: A key on the way is neither a section nor an entry of a list.
    """
    key, *rest = keys
    part: str | int = key
    if isinstance(container, list):
        if not (_is_number(key) and int(key) < len(container)):
            raise ValueError(_no_such_entry(dotted(path), keys, len(container)))
        part = int(key)
    elif not isinstance(container, dict):
        raise ValueError(f"{dotted(path)} is not a section")
    path = (*path, part)
    if not rest:
        return container, path
    if isinstance(container, dict) and container.get(key) is None:
        if _is_number(rest[0]):
            raise ValueError(f"{dotted(path)} has no entries; give the whole list")
        container[key] = {}
    return _container(container[part], rest, path)


def _is_number(key: str) -> bool:
    return key.isascii() and key.isdecimal()


def _no_such_entry(name: str, keys: Sequence[str], num_entries: int) -> str:
    entries = counted(num_entries, "entry", "entries")
    if _is_number(keys[0]):
        return f"{name} has no entry {keys[0]}; it has {entries}, and the first is {name}.0"
    return f"{name} is a list of {entries}; did you mean {name}.0.{'.'.join(keys)}?"


def _report_invalid(error: ValidationError, document: YamlDocument, kind: type[Section]) -> None:
    actual = _kind_in(document)
    if actual is not kind and actual is not None:
        document.report((), f"{_KINDS[actual]}; this command takes {_KINDS[kind]}")
    else:
        config_problems.report(error, document, kind)


_KINDS: dict[type[Section], str] = {
    Config: "a config of adaptation (it has the section `corpus`), for `mlmtune train`",
    ClassificationConfig: "a task (it has the section `data`), for `mlmtune finetune`",
}


def kind_of_config(path: str | Path) -> type[Config] | type[ClassificationConfig]:
    """Return the kind of config that a file's sections show; `Config` if they show neither.

    Raises:
        ConfigError: The file cannot be read.
    """
    return _kind_in(_parsed(_read_text(Path(path)), str(path))) or Config


def _kind_in(document: YamlDocument) -> type[Config] | type[ClassificationConfig] | None:
    sections = document.value if isinstance(document.value, dict) else {}
    if ("corpus" in sections) == ("data" in sections):
        return None
    return Config if "corpus" in sections else ClassificationConfig
