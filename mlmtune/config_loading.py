"""Loading a config: a YAML file and `section.key=value` overrides in, a checked `Config` out.

Whatever is wrong is reported at once: one line a problem, with file, line, key and the remedy.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import ValidationError

from mlmtune import config_problems
from mlmtune.config import ClassificationConfig, Config, Section
from mlmtune.config_schema import take_one_for_a_list
from mlmtune.errors import ConfigError
from mlmtune.printable import counted
from mlmtune.redaction import REDACTED, is_secret_name, redacted, remember_secrets, without_queries
from mlmtune.yaml_document import KeyPath, Origin, YamlDocument, dotted, dump, parse, replace_texts

SettingsT = TypeVar("SettingsT", bound=Section)

MAX_BYTES = 1_000_000
"""A larger file is no config: someone gave the path of their data or of a model."""

_OVERRIDE = re.compile(r"\s*(?P<key>\w[\w-]*(?:\.\w[\w-]*|\[\d+\])*)\s*=(?P<value>.*)", re.DOTALL)
_AFTER_THE_FILE = 2**31


@overload
def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config: ...
@overload
def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, kind: type[SettingsT]
) -> SettingsT: ...
def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, kind: type[Section] = Config
) -> Section:
    """Loads a config.

    Args:
        path: the YAML file.
        overrides: settings that take the place of the file's, each as `section.key=value`. The
            value is YAML; a number in the key is an entry of a list (`corpus.sources.0.path=x`).
        kind: `Config`, or `ClassificationConfig` for a task.

    Raises:
        ConfigError: with all problems, a line each.
    """
    path = Path(path)
    document = parse(_read_text(path), lambda line: Origin(line, f"{path}:{line}"))
    remember_secrets(document.value)
    if isinstance(document.value, dict):
        take_one_for_a_list(document, kind)
        overridden = [
            place
            for number, override in enumerate(overrides)
            if (place := _apply(override, number, document)) is not None
        ]
        take_one_for_a_list(document, kind)
        config = _validated(document, overridden, kind)
        if config is not None and not document.problems:
            return config
    elif not document.problems and document.value is None:
        document.report((), "empty; `mlmtune init` writes a config to start from")
    elif not document.problems:
        document.report((), "expected sections such as `model:`, and their keys below them")
    raise ConfigError("\n".join(map(str, sorted(document.problems))))


def resolved_yaml(config: Section) -> str:
    """The whole config, defaults included, as YAML that loads as an equal config."""
    return dump(config.model_dump())


def recorded_yaml(config: Section) -> str:
    """The whole config as a run keeps it: without secrets, and without the queries of URLs."""
    return dump(redacted(config.model_dump()))


def recorded_text(text: str) -> str:
    """A config as the user wrote it, comments and all, without the same."""
    return without_queries(replace_texts(text, redacted))


def as_override(value: Any) -> str:
    """A value as it stands behind `section.key=`: YAML on one line."""
    return dump(value).removesuffix("...\n").strip()


def json_schema(kind: type[Section]) -> dict[str, Any]:
    """What a config may hold, for editors; rules between keys are told on loading alone."""
    schema = _with_one_for_a_list(kind.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _with_one_for_a_list(schema: Any) -> Any:
    """A JSON schema that takes an entry of a list where it takes the list, as loading does."""
    if isinstance(schema, list):
        return [_with_one_for_a_list(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _with_one_for_a_list(part) for key, part in schema.items()}
    if schema.get("type") != "array":
        return schema
    kind = {key: schema.pop(key) for key in ("type", "items", "minItems") if key in schema}
    return {**schema, "anyOf": [kind, kind["items"]]}


SHIPPED_TASK = "task"
"""The one of the shipped configs that is a classification task's."""


def shipped_configs() -> dict[str, Path]:
    """The configs that come with mlmtune, by name.

    A wheel carries them inside the package; in a source tree they stand beside it.
    """
    package = Path(__file__).parent
    folders = (package / "configs", package.parent / "configs")
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(_no_such_file(path)) from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; give the YAML file itself") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES:,} bytes, so it is no config")
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


def _apply(override: str, number: int, document: YamlDocument) -> KeyPath | None:
    """Writes one override into the document, or reports what is wrong with it.

    Args:
        override: `section.key=value`.
        number: its place among the overrides.
        document: changed in place.

    Returns:
        The path written to, if the override names one.
    """
    origin = Origin(_AFTER_THE_FILE + number, f"override {_shown(override)!r}")
    parts = _OVERRIDE.fullmatch(override)
    if parts is None:
        document.report((), f"expected section.key=value, {_hint_for(override)}", origin)
        return None
    # Messages name an entry as Python does: corpus.sources[0].
    keys = re.sub(r"\[(\d+)\]", r".\1", parts["key"]).split(".")
    try:
        container, path = _container(document.value, keys)
    except ValueError as error:
        document.report((), str(error), origin)
        return None
    written = parse(parts["value"], lambda _: origin, path)
    document.problems += written.problems
    remember_secrets(written.value)
    if not written.problems:
        container[path[-1]] = written.value
    for below in [known for known in document.origins if known[: len(path)] == path]:
        del document.origins[below]
    document.origins |= written.origins
    return path


def _hint_for(override: str) -> str:
    """What an argument that is no setting probably was meant to be."""
    if override.lower().endswith((".yaml", ".yml")):
        return f"and the config goes before the settings: --config {override}"
    if (colon := re.fullmatch(r"([\w.-]+):\s*(.+)", override)) and "." in colon[1]:
        return f"did you mean {_shown(f'{colon[1]}={colon[2]}')}?"
    return "such as training.epochs=1"


def _shown(override: str) -> str:
    """An override as errors name it: with no value where it, or a key in it, is a secret's."""
    if any(map(is_secret_name, re.findall(r"[\w.-]+(?=[\"']?\s*[:=])", override))):
        return f"{re.split('[:=]', override)[0]}={REDACTED}"
    key = re.match(r"[\w.-]+\s*=|", override)
    assert key is not None
    return f"{key[0]}{redacted(override[key.end() :])}"


def _container(settings: dict[str, Any], keys: Sequence[str]) -> tuple[Any, KeyPath]:
    """The section or list that holds the last of `keys`, made where it is missing, and the path.

    Raises:
        ValueError: a key on the way is neither a section nor an entry of a list.
    """
    container: Any = settings
    path: KeyPath = ()
    for depth, key in enumerate(keys):
        if isinstance(container, list):
            if not (_is_number(key) and int(key) < len(container)):
                raise ValueError(_no_such_entry(dotted(path), key, keys[depth:], len(container)))
            path = (*path, int(key))
        elif isinstance(container, dict):
            path = (*path, key)
        else:
            raise ValueError(f"{dotted(path)} is not a section")
        if depth == len(keys) - 1:
            break
        if isinstance(container, dict) and container.get(key) is None:
            if _is_number(keys[depth + 1]):
                raise ValueError(f"{dotted(path)} has no entries; give the whole list")
            container[key] = {}
        container = container[path[-1]]
    return container, path


def _is_number(key: str) -> bool:
    return key.isascii() and key.isdecimal()


def _no_such_entry(name: str, key: str, rest: Sequence[str], num_entries: int) -> str:
    """What to say of a key below a list that is no entry of it."""
    entries = counted(num_entries, "entry", "entries")
    if _is_number(key):
        return f"{name} has no entry {key}; it has {entries}, and the first is {name}.0"
    return f"{name} is a list of {entries}; did you mean {name}.0.{'.'.join(rest)}?"


def kind_of(path: str | Path) -> type[Config] | type[ClassificationConfig]:
    """What a file is by its sections; `Config` where they do not say.

    Raises:
        ConfigError: it cannot be read.
    """
    document = parse(_read_text(Path(path)), lambda line: Origin(line, f"{path}:{line}"))
    return _kind_of(document) or Config


def _validated(
    document: YamlDocument, overridden: list[KeyPath], kind: type[Section]
) -> Section | None:
    try:
        return kind.model_validate(document.value)
    except ValidationError as error:
        other = _kind_of(document)
        if other is not kind and other is not None:
            document.report((), f"{_KINDS[other]}; this command takes {_KINDS[kind]}")
        else:
            config_problems.report(error, document, overridden, kind)
        return None


_KINDS: dict[type[Section], str] = {
    Config: "a config of adaptation (it has the section `corpus`), for `mlmtune train`",
    ClassificationConfig: "a task (it has the section `data`), for `mlmtune finetune`",
}


def _kind_of(document: YamlDocument) -> type[Config] | type[ClassificationConfig] | None:
    """What a file's sections say it is; None where they say neither, or both."""
    if not isinstance(document.value, dict):
        return None
    sections = [section for section in ("corpus", "data") if section in document.value]
    if len(sections) != 1:
        return None
    return Config if sections == ["corpus"] else ClassificationConfig
