"""Messages about what is wrong with a config, made from the errors that pydantic reports.

The words come from the schema itself: a field's type and bounds say what was expected. So a new
setting in `mlmtune.config` needs no line here.
"""

import difflib
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from mlmtune.config import PHASES, Config, keys_of
from mlmtune.config_schema import alternatives, list_item, optional_of, section_in, section_of
from mlmtune.redaction import is_secret_name
from mlmtune.yaml_document import KeyPath, Origin, YamlDocument, dotted

FIRST_OVERRIDE = 2**31
"""The rank of the first override's origin, so that overrides come after all lines of the file."""

NAMES_IN_TRANSFORMERS = {
    "block_size": "chunking.chunk_length",
    "bf16": "training.precision",
    "eval_steps": "evaluation.every",
    "fp16": "training.precision",
    "gradient_accumulation_steps": "training.global_batch_size",
    "logging_steps": "training.log_every",
    "lr": "optimizer.learning_rate",
    "lr_scheduler_type": "optimizer.schedule",
    "max_length": "chunking.chunk_length",
    "max_seq_length": "chunking.chunk_length",
    "model_name_or_path": "model.name_or_path",
    "num_train_epochs": "training.epochs",
    "per_device_eval_batch_size": "evaluation.batch_size",
    "per_device_train_batch_size": "training.micro_batch_size",
    "save_steps": "checkpoint.every",
    "save_total_limit": "checkpoint.keep",
}
"""The keys of Hugging Face's scripts, and the nearest setting for each."""

NAMES_IN_TASKS = {
    **NAMES_IN_TRANSFORMERS,
    **dict.fromkeys(("block_size", "max_seq_length"), "data.max_length"),
    "best_by": "evaluation.metric",
}
"""The same for a task."""

SECRETS = ("token", "hub_token", "hf_token", "use_auth_token", "api_key", "password")
"""Keys that are refused in every section."""
_REFUSED_SECRET = (
    "refused: a config is copied and shared; set a token in the environment (HF_TOKEN), and other "
    "credentials where their own programs look for them"
)

_KINDS: dict[Any, tuple[str, str]] = {
    str: ("text", "texts"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    type(None): ("null", "null"),
}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "of length >="}
SHORT_FOR = {
    "md": "markdown", "txt": "text", "jsonl": "json", "ndjson": "json", "tsv": "csv",
    "arrow": "parquet", "py": "python", "huggingface": "dataset", "hf": "dataset",
    "wwm": "whole_word", "tokens": "token", "float16": "fp16", "half": "fp16", "bfloat16": "bf16",
    "float32": "fp32", "nsp": "mlm+nsp", "sop": "mlm+sop",
}  # fmt: skip
"""Short names that people write, and the values that they mean."""

_YES_AND_NO = {"yes": "true", "on": "true", "no": "false", "off": "false"}


def report(error: ValidationError, document: YamlDocument, kind: type[BaseModel]) -> None:
    """Add what pydantic found in the values of a document to the problems of the document."""
    suggested: set[str] = set()
    missing: list[tuple[KeyPath, str]] = []
    for finding in error.errors(include_url=False):
        located = _locate(finding["loc"], document, kind)
        if located is None:
            continue
        path, field = located
        match finding["type"]:
            case "missing":
                missing.append((path, _missing(field)))
                continue
            case "extra_forbidden":
                path = (*path, finding["loc"][-1])
                message, names = _unknown_key(path, section_in(field.annotation), kind)
                suggested.update(names)
            case "value_error" if document.has_problem_below(path):
                continue  # a key that could not be read breaks the rules between keys, too
            case "value_error":  # a rule between keys
                message = str(finding["ctx"]["error"])
                document.report(path, message, _origin_of_rule(message, path, document))
                continue
            case _:
                value = document.value_at(path)
                expected = expectation(field.annotation, field.metadata)
                message = f"expected {expected}, got {_shown(value)}{_hint(field, value)}"
        document.report(path, message, _origin_of(path, document))
    for path, message in missing:
        # A mistyped key is one mistake, not two: it is not also reported as missing.
        name = dotted(path)
        if not any(other == name or other.startswith(name + ".") for other in suggested):
            document.report(path, message)


def _origin_of(path: KeyPath, document: YamlDocument) -> Origin:
    """Return where a section or key was written: the last override below it, else the file."""
    below = [origin for key, origin in document.origins.items() if key[: len(path)] == path]
    return max(filter(_is_of_override, below), default=document.origin_of(path))


def _origin_of_rule(message: str, path: KeyPath, document: YamlDocument) -> Origin:
    """Return where a key was written that the message about the section at `path` names.

    A key that an override changed is preferred, because the file alone may have been right. If the
    message names no key that the user wrote, this is the origin of the section.
    """
    named = [(*path, *name.split(".")) for name in re.findall(r"\w+(?:\.\w+)*", message)]
    origins = [
        document.origins[key]
        for key in named
        if key in document.origins and not isinstance(document.value_at(key), dict)
    ]
    if origins:
        return next(filter(_is_of_override, origins), origins[0])
    return _origin_of(path, document)


def _is_of_override(origin: Origin) -> bool:
    return origin.rank >= FIRST_OVERRIDE


def _locate(
    location: tuple[int | str, ...], document: YamlDocument, kind: type[BaseModel]
) -> tuple[KeyPath, FieldInfo] | None:
    """Return the path of keys that pydantic's location begins with, and the field at its end.

    The rest of a location is internal to pydantic, such as the branch of a union that failed. If a
    branch is a section, pydantic reports each branch; None marks one that was not meant.
    """
    field: FieldInfo = FieldInfo(annotation=kind)
    path: KeyPath = ()
    for part in location:
        section, item = section_in(field.annotation), list_item(field.annotation)
        if section is not None and len(alternatives(optional_of(field.annotation))) > 1:
            is_meant = isinstance(document.value_at(path), dict)
            if is_meant != (part == section.__name__):
                return None
            if not is_meant:
                return path, field
            field = FieldInfo(annotation=section)
            continue
        if section is not None and part in keys_of(section):
            field = keys_of(section)[str(part)]
        elif item is not None and isinstance(part, int):
            field = FieldInfo.from_annotation(item)
        elif get_origin(mapping := optional_of(field.annotation)) is dict:
            field = FieldInfo.from_annotation(get_args(mapping)[1])
        else:
            return path, field
        path = (*path, part)
    return path, field


def _required_keys(section: type[BaseModel]) -> list[str]:
    return [name for name, field in keys_of(section).items() if field.is_required()]


def known_keys(section: type[BaseModel] = Config, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the dotted names of all keys and sections; `0` is any entry of a list of sections."""
    for name, field in keys_of(section).items():
        yield ".".join((*path, name))
        if (inner := section_of(field.annotation)) is not None:
            entry = ["0"] if list_item(field.annotation) else []
            yield from known_keys(inner, (*path, name, *entry))


def _unknown_key(
    path: KeyPath, section: type[BaseModel] | None, kind: type[BaseModel]
) -> tuple[str, list[str]]:
    """Return the message about a key that its section does not have, and the suggested names."""
    assert section is not None
    key = str(path[-1])
    if key == "trust_remote_code":
        return "refused: mlmtune never runs code from a model repository; remove the key", []
    if key.lower() in SECRETS:
        return _REFUSED_SECRET, []
    around = [str(part) for part in path[:-1]]
    siblings = {name: ".".join((*around, name)) for name in keys_of(section)}
    if (colon := key.partition(":"))[0] in siblings and colon[2]:
        return f"YAML needs a space after the colon: {colon[0]}: {colon[2]}", [siblings[colon[0]]]
    names = _meant(key.lower().replace("-", "_"), siblings, kind)
    if not names and is_secret_name(key):
        return _REFUSED_SECRET, []
    if not names:
        subject = f"the keys of {'.'.join(around)}" if around else "the sections"
        return f"unknown key; {subject} are {_listed(list(siblings), 'and')}", []
    shown = [name.rpartition(".")[2] if name in siblings.values() else name for name in names]
    return f"unknown key; did you mean {_listed([repr(name) for name in shown])}?", names


def _meant(key: str, siblings: dict[str, str], kind: type[BaseModel]) -> list[str]:
    """Return the dotted names of the settings that an unknown key may have meant.

    `siblings` has the dotted names of the keys of its section, by key.
    """
    names_by_key: dict[str, list[str]] = defaultdict(list)
    for name in known_keys(kind):
        # Those of sources and phases have the names of other settings.
        if not name.startswith(("corpus.validation_sources.", f"{PHASES}.")):
            names_by_key[name.rpartition(".")[2]].append(name)
    elsewhere = NAMES_IN_TRANSFORMERS if kind is Config else NAMES_IN_TASKS
    meanings = {known: [name] for known, name in elsewhere.items()} | names_by_key
    meanings |= {known: [name] for known, name in siblings.items()}
    if key in meanings:
        return meanings[key]
    close = difflib.get_close_matches(key, siblings, n=1)
    # Stricter among all keys, because one of so many is always a little similar.
    close = close or difflib.get_close_matches(key, names_by_key, n=1, cutoff=0.75)
    return meanings[close[0]] if close else []


def _missing(field: FieldInfo) -> str:
    section = section_in(field.annotation)
    if section is None:
        return f"missing; it is {expectation(field.annotation, field.metadata)}"
    return f"missing; the section needs {_listed(_required_keys(section), 'and')}"


def expectation(annotation: Any, metadata: list[Any], plural: bool = False) -> str:
    """Return in words what a field accepts: `a whole number >= 1 or 'epoch'`.

    Args:
        annotation: The type of the field.
        metadata: Its limits, as pydantic keeps them.
        plural: Whether the words describe the entries of a list.
    """
    if len(kinds := alternatives(annotation)) > 1:
        return _listed([expectation(kind, [], plural) for kind in kinds])
    if get_origin(annotation) is Annotated:
        kind, *details = get_args(annotation)
        bounds = [bound for detail in details for bound in getattr(detail, "metadata", [detail])]
        return expectation(kind, bounds, plural)
    if get_origin(annotation) is Literal:
        return _listed([repr(value) for value in get_args(annotation)])
    if get_origin(annotation) is list:
        word = f"a list of {expectation(get_args(annotation)[0], [], plural=True)}"
    elif get_origin(annotation) is dict:
        word = f"names with {expectation(get_args(annotation)[1], [], plural=True)}"
    elif (section := section_in(annotation)) is not None:
        keys = _required_keys(section)
        word = "sections" if plural else "a section"
        if keys and not plural:
            word += f" of {_listed(keys, 'and')}"
    else:
        word = _KINDS[annotation][plural]
    return word + _bounds(metadata)


def _bounds(metadata: list[Any]) -> str:
    """Return the limits among a field's metadata (objects of annotated-types) in words."""
    words = [
        f"{sign} {limit:g}" if isinstance(limit, float) else f"{sign} {limit}"
        for bound in metadata
        for attribute, sign in _SIGNS.items()
        if (limit := getattr(bound, attribute, None)) is not None
    ]
    return " " + " and ".join(words) if words else ""


def _listed(words: list[str], conjunction: str = "or") -> str:
    *first, last = words
    return f"{', '.join(first)} {conjunction} {last}" if first else last


def _shown(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str() if len(value) > 60:
            return f"{value[:57] + '...'!r}"
        case list():
            return "a list"
        case dict():
            return "a section"
    return repr(value)


def _hint(field: FieldInfo, value: Any) -> str:
    """Return the likely mistake behind a value of the wrong kind; empty if none is likely."""
    kinds = [
        get_args(kind)[0] if get_origin(kind) is Annotated else kind
        for kind in alternatives(field.annotation)
    ]
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    section = section_in(field.annotation)
    if value is None and section is not None:
        return "; remove the section or give it a key"
    if isinstance(value, str):
        key, _, rest = value.partition(":")
        if section is not None and key in keys_of(section) and rest:
            return f"; YAML needs a space after the colon: {key}: {rest}"
        if bool in kinds and value.lower() in _YES_AND_NO:
            return f"; write {_YES_AND_NO[value.lower()]}"
        meant = SHORT_FOR.get(value.lower())
        close = [meant] if meant in words else difflib.get_close_matches(value.lower(), words, n=1)
        if close:
            return f"; did you mean {close[0]!r}?"
    number = _number_meant(value)
    if number is not None and (float in kinds or (int in kinds and number.is_integer())):
        for near in (number, abs(number), number / 100):  # the last is for percentages
            candidate = int(near) if int in kinds and near.is_integer() else near
            # A suggestion that would be refused itself is no help.
            if repr(candidate) != repr(value) and _is_valid(field, candidate):
                return f"; did you mean {candidate}?"
    if str in kinds and isinstance(value, (bool, int, float)):
        return "; put it in quotes"
    if str in kinds and isinstance(value, (list, dict)):
        return "; text that begins with [ or has a colon needs quotes"
    return ""


def _is_valid(field: FieldInfo, value: float) -> bool:
    annotation: Any = field.annotation
    if field.metadata:
        annotation = Annotated[field.annotation, *field.metadata]
    try:
        TypeAdapter(annotation, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError:
        return False
    return True


def _number_meant(value: Any) -> float | None:
    """Return the number that `"3"`, `10_000`, `15%` or `1e4` means; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value.removesuffix("%") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
