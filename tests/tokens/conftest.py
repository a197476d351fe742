import pytest
from stores import TEXTS

from mlmtune.config import CorpusConfig, SourceConfig


@pytest.fixture
def corpus(tmp_path):
    """A folder of text files, and its config."""
    folder = tmp_path / "corpus"
    folder.mkdir()

    def write(texts=TEXTS, **settings):
        for number, text in enumerate(texts):
            (folder / f"{number:03}.txt").write_text(text, encoding="utf-8")
        return CorpusConfig(sources=[SourceConfig(format="text", path=str(folder))], **settings)

    return write


@pytest.fixture
def word_tokenizer():
    """Words between white space are looked up as they are; there is no template."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    names = ["[UNK]", "[CLS]", "[SEP]", "[MASK]", "[PAD]", "a", "b"]
    backend = Tokenizer(WordLevel({name: id_ for id_, name in enumerate(names)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", pad_token="[PAD]",
    )  # fmt: skip
