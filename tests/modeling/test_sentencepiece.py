"""Models as their authors published them: a SentencePiece model, and weights in a pickle."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import transformers
from transformers import AutoTokenizer
from vocabulary import WORDS

from mlmtune.config import ModelConfig
from mlmtune.modeling.loading import ModelRequest, load_pretrained

SIZES = {
    "vocab_size": 140, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """What a family is published as.

    Attributes:
        file: of the SentencePiece model.
        trainer: how the family's own SentencePiece model was trained.
        offset: a token's id less that of its piece; families of fairseq put tokens before them.
        around: the tokens around a text.
        settings: of the model's config, apart from SIZES.
    """

    file: str
    trainer: dict[str, Any]
    offset: int
    around: tuple[int, int]
    settings: dict[str, Any] = field(default_factory=dict)


DEBERTA = Layout(
    "spm.model",
    {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]",
     "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"},
    offset=0,
    around=(1, 2),
    settings={"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0,
              "position_biased_input": False},
)  # fmt: skip
ALBERT = Layout(
    "spiece.model",
    {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "pad_piece": "<pad>",
     "control_symbols": "[CLS],[SEP],[MASK]"},
    offset=0,
    around=(2, 3),
    settings={"embedding_size": 8},
)  # fmt: skip
XLM_R = Layout("sentencepiece.bpe.model", {}, offset=1, around=(0, 2))
CAMEMBERT = Layout("sentencepiece.bpe.model", {}, offset=4, around=(5, 6))

LAYOUTS = {
    "DebertaV2": DEBERTA, "Albert": ALBERT, "XLMRoberta": XLM_R, "Camembert": CAMEMBERT,
}  # fmt: skip


@pytest.mark.parametrize("family", LAYOUTS)
def test_a_sentencepiece_model_and_pickled_weights_load(family, tmp_path):
    layout = LAYOUTS[family]
    model = save_as_published(tmp_path, family, layout)
    config = ModelConfig(name_or_path=str(tmp_path))
    request = ModelRequest(config, 16, torch.device("cpu"), "fp32", seed=0)
    loaded = load_pretrained(request, "mlm")
    assert loaded.new_weights == ()
    weights = loaded.model.state_dict()
    assert all(torch.equal(weights[name], w) for name, w in model.state_dict().items())

    text = "the clusters of storage and the network"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / layout.file))
    first, last = layout.around
    expected = [first, *(piece + layout.offset for piece in pieces.encode(text)), last]
    assert loaded.tokenizer(text)["input_ids"] == expected
    assert (
        loaded.tokenizer.mask_token_id
        == loaded.tokenizer(loaded.tokenizer.mask_token)["input_ids"][-2]
    )
    # The result is loaded by those who have no SentencePiece.
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").is_file()
    (tmp_path / "saved" / layout.file).unlink(missing_ok=True)
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved(text)["input_ids"] == expected


def save_as_published(folder: Path, family: str, layout: Layout) -> Any:
    """Write a tiny model of a family as its authors published theirs."""
    draw = random.Random(0)
    with (folder / layout.file).open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(" ".join(draw.choices(WORDS, k=12)) for _ in range(200)),
            model_writer=file,
            vocab_size=120,
            hard_vocab_limit=False,
            minloglevel=2,
            **layout.trainer,
        )
    config = getattr(transformers, f"{family}Config")(**SIZES, **layout.settings)
    model = getattr(transformers, f"{family}ForMaskedLM")(config)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    content = config.to_dict() | {"model_type": config.model_type}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    return model
