"""The tokenizer of a model. Nothing here imports torch; transformers may."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mlmtune.errors import ConfigError, first_line


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer that has a mask token.

    Raises:
        ConfigError: it is not there, has no mask token, is not a fast one, or cannot be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises nearly every kind here
        raise ConfigError(
            f"model.name_or_path: the tokenizer in {folder} cannot be loaded ({first_line(error)})"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(
            f"model.name_or_path: {folder} has a slow tokenizer ({type(tokenizer).__name__}); "
            "mlmtune needs one with a tokenizer.json"
        )
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        # Where there are no files, transformers makes one up that knows special tokens alone.
        raise ConfigError(
            f"model.name_or_path: there is no tokenizer in {folder}, or it has no vocabulary; put "
            "the model's tokenizer.json there"
        )
    if tokenizer.mask_token_id is None:
        raise ConfigError(
            f"model.name_or_path: the tokenizer in {folder} has no mask token, so this is not a "
            "masked language model; choose another model"
        )
    return tokenizer
