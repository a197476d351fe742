"""Loading a model's tokenizer, with remarks on what is likely wrong with it."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast, PythonBackend
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from mlmtune.errors import first_line, is_fault_of_machine
from mlmtune.modeling.locating import ModelFolder
from mlmtune.shell import pip_install

FEWEST_KNOWN = 0.9
"""Smallest share of embedding rows that a model's own tokenizer has ids for; some are spare."""
MOST_CAPITALS = 0.1
"""Largest share of pieces with capital letters in the vocabulary of a lower-casing tokenizer."""


def load_tokenizer(folder: ModelFolder) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer that has a mask token.

    Raises:
        ConfigError: It does not exist, has no mask token, is not a fast one, or cannot be read.
    """
    name = _class_name(folder.path)
    known = None if name is None else tokenizer_class_from_name(name)
    # PythonBackend, the base class, names no format; transformers then reads tokenizer.json.
    is_fast = known is not None and issubclass(known, PreTrainedTokenizerFast)
    if not is_fast and known not in (None, PythonBackend):
        raise folder.refused(_slow(str(name)))
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False)
    except Exception as error:  # transformers raises nearly every kind here
        if is_fault_of_machine(error):
            raise
        unknown = name if known is None else None
        raise folder.refused(_why_not_loadable(folder.path, unknown, error)) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise folder.refused(_slow(type(tokenizer).__name__))
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        # Without files, transformers makes a tokenizer that knows special tokens only.
        raise folder.refused(_NO_TOKENIZER)
    if tokenizer.mask_token_id is None:
        raise folder.refused(
            "has a tokenizer that has no mask token, so it is not a masked language model; choose "
            "another model"
        )
    return tokenizer


_NO_TOKENIZER = (
    "has no tokenizer, or one without a vocabulary; put the model's tokenizer.json beside its "
    "config.json"
)


def _slow(name: str) -> str:
    return (
        f"has a slow tokenizer ({name}), which exists in Python only; mlmtune needs one with a "
        "tokenizer.json: choose another model"
    )


def _class_name(folder: Path) -> str | None:
    """Return the tokenizer class that the files name; tokenizer_config.json comes first."""
    for file in ("tokenizer_config.json", "config.json"):
        try:
            name = json.loads((folder / file).read_text(encoding="utf-8")).get("tokenizer_class")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(name, str):
            return name
    return None


def _why_not_loadable(folder: Path, unknown_class: str | None, error: Exception) -> str:
    reason = first_line(error)
    if "trust_remote_code" in str(error):
        return CODE_OF_ITS_OWN
    if "Couldn't instantiate the backend tokenizer" in reason:
        if unknown_class is None:
            return _NO_TOKENIZER
        return (
            f"names the tokenizer class {unknown_class}, which transformers does not have, and has "
            "no tokenizer.json; choose another model"
        )
    models = [path.name for path in sorted(folder.glob("*.model"))]
    if models and "tiktoken" in reason:  # which transformers tries after SentencePiece
        if find_spec("sentencepiece") is None:  # a dependency, but not every install has them
            return f"has a {models[0]}, which needs sentencepiece; {pip_install('sentencepiece')}"
        return f"has a {models[0]} that is not a SentencePiece model; fetch it again"
    return f"has a tokenizer that cannot be loaded ({reason}); fetch or save it again"


CODE_OF_ITS_OWN = (
    "needs code from its own repository (trust_remote_code), which mlmtune never runs; choose an "
    "architecture that transformers has"
)


def tokenizer_notes(tokenizer: PreTrainedTokenizerFast, model_config: Any) -> Iterator[str]:
    """Yield remarks on a tokenizer that is likely wrong, or not the model's own.

    Each remark follows the model's name.
    """
    vocabulary = tokenizer.get_vocab()
    rows = getattr(model_config, "vocab_size", None)
    if rows is not None and len(vocabulary) < FEWEST_KNOWN * rows:
        yield (
            f"has a tokenizer of {len(vocabulary):,} tokens and embeddings for {rows:,}; is it the "
            "model's own?"
        )
    has_ends = None not in (tokenizer.cls_token_id, tokenizer.sep_token_id)
    if has_ends and not tokenizer("")["input_ids"]:
        yield (
            f"has a tokenizer that puts no {tokenizer.cls_token} and no {tokenizer.sep_token} "
            "around a text; its tokenizer.json may be missing"
        )
    normalizer = tokenizer.backend_tokenizer.normalizer
    if normalizer is not None and normalizer.normalize_str("A") == "a":
        pieces = vocabulary.keys() - set(tokenizer.all_special_tokens)
        capital = sum(piece != piece.lower() for piece in pieces)
        if capital > MOST_CAPITALS * len(pieces):
            yield (
                f"has a tokenizer that lower-cases all letters, and {capital / len(pieces):.0%} of "
                'its vocabulary has capital letters, which no text can match; set "do_lower_case": '
                "false in its tokenizer_config.json"
            )
