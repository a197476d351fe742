"""Each family of models trains, and its result loads: the rows of docs/models.md."""

import copy
import json
import math
import random
import re
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoTokenizer,
    pipeline,
)
from vocabulary import WORDS

from mlmtune.config import EvaluationConfig, ModelConfig
from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.evaluation.retrieval import RetrievalProbe
from mlmtune.masking.collator import IGNORE_INDEX
from mlmtune.merging.interpolation import Interpolation
from mlmtune.modeling.device import build_accelerator
from mlmtune.modeling.loading import LoadedModel, ModelRequest, load_pretrained
from mlmtune.modeling.masked_head import MaskedHead
from mlmtune.modeling.packing import Packing
from mlmtune.modeling.pair_head import model_types_with_pair_head
from mlmtune.training.masked_lm import build_masked_lm

WORDPIECE, BYTE_BPE, UNIGRAM = "tokenizer", "byte_tokenizer", "unigram_tokenizer"
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
}  # fmt: skip
LONG = 512
STILL = r"_global\.|\.pooler\.|\.embed_positions\.|\.bottleneck\.attention\."
"""Weights that two steps need not move: of Longformer's global attention and of poolers, which
masked tokens do without; RoFormer's sines; and MobileBERT's before scores that are all but equal.
"""


@dataclass(frozen=True)
class Family:
    """How a tiny model of a family is built.

    Attributes:
        tokenizer: the fixture of the kind of tokenizer that the family has.
        settings: of its config, apart from SIZES.
        chunk_length: what it is trained on.
        num_padding_positions: rows of positions that are no input's.
        is_sparse: whether its head runs on masked positions only.
        packs: whether several sequences can share a row.
        pad_token: the token that pads, if it is not the tokenizer's own.
    """

    tokenizer: str
    settings: dict[str, Any] = field(default_factory=dict)
    chunk_length: int = 32
    num_padding_positions: int = 0
    is_sparse: bool = True
    packs: bool = True
    pad_token: str | None = None


SMALL_EMBEDDINGS = {"embedding_size": 8}
MOBILEBERT = SMALL_EMBEDDINGS | {"intra_bottleneck_size": 8, "true_hidden_size": 8}
DISENTANGLED = {
    "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
}  # fmt: skip
GROUPS = (
    "q_groups", "k_groups", "v_groups", "post_attention_groups", "intermediate_groups",
    "output_groups",
)  # fmt: skip
FUNNEL = {
    "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 24, "block_sizes": [1, 1],
    "num_decoder_layers": 1,
}  # fmt: skip
OWN_NAMES = {"distilbert", "funnel"}
"""Families whose configs call sizes otherwise."""

FAMILIES = {
    "bert": Family(WORDPIECE),
    "distilbert": Family(WORDPIECE, {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}),
    "electra": Family(WORDPIECE, SMALL_EMBEDDINGS),
    "albert": Family(UNIGRAM, SMALL_EMBEDDINGS),
    "roberta": Family(BYTE_BPE, num_padding_positions=2),
    "xlm-roberta": Family(UNIGRAM, {"pad_token_id": 0}, num_padding_positions=1),
    "deberta-v2": Family(UNIGRAM, DISENTANGLED),
    "modernbert": Family(BYTE_BPE),
    # MPNet's positions take the id 1 for padding, whatever its config says.
    "mpnet": Family(WORDPIECE, num_padding_positions=2, pad_token="[UNK]"),
    "mobilebert": Family(WORDPIECE, MOBILEBERT, packs=False),
    "longformer": Family(
        BYTE_BPE,
        {"attention_window": [32, 64]},
        chunk_length=LONG,
        num_padding_positions=2,
        packs=False,
    ),
    "big_bird": Family(
        UNIGRAM, {"block_size": 16, "num_random_blocks": 2}, chunk_length=LONG, packs=False
    ),
    "megatron-bert": Family(WORDPIECE),
    "ernie": Family(WORDPIECE),
    "fnet": Family(UNIGRAM, packs=False),
    "camembert": Family(UNIGRAM, num_padding_positions=1),
    "xmod": Family(UNIGRAM, {"default_language": "en_XX"}, num_padding_positions=1),
    "xlm-roberta-xl": Family(UNIGRAM, num_padding_positions=1),
    "rembert": Family(UNIGRAM, {"input_embedding_size": 8, "output_embedding_size": 8}),
    "deberta": Family(BYTE_BPE, DISENTANGLED),
    "roberta-prelayernorm": Family(BYTE_BPE, num_padding_positions=2),
    "data2vec-text": Family(BYTE_BPE, num_padding_positions=2),
    "ibert": Family(BYTE_BPE, num_padding_positions=2),
    "eurobert": Family(BYTE_BPE, {"num_key_value_heads": 2}),
    "roformer": Family(WORDPIECE, {"embedding_size": 16}, packs=False),
    "convbert": Family(WORDPIECE, {"embedding_size": 16}, packs=False),
    "squeezebert": Family(WORDPIECE, {"embedding_size": 16} | dict.fromkeys(GROUPS, 1)),
    "nomic_bert": Family(WORDPIECE),
    "funnel": Family(WORDPIECE, FUNNEL, packs=False),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty texts of sentences whose words often have two tokens."""
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    for number in range(40):
        words = [word + draw.choice(["", "s", "ed"]) for word in draw.choices(WORDS, k=120)]
        sentences = [" ".join(words[at : at + 6]).capitalize() for at in range(0, 120, 6)]
        (folder / f"{number}.txt").write_text(". ".join(sentences) + ".", encoding="utf-8")
    return folder


@pytest.fixture
def model_of(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Saves a tiny model of a family with its tokenizer."""

    def save(model_type: str, auto_class: Any = AutoModelForMaskedLM) -> Path:
        family = FAMILIES[model_type]
        tokenizer = copy.deepcopy(request.getfixturevalue(family.tokenizer))
        tokenizer.model_max_length = family.chunk_length
        tokenizer.pad_token = family.pad_token or tokenizer.pad_token
        config = AutoConfig.for_model(model_type, **{
            **({} if model_type in OWN_NAMES else SIZES),
            "vocab_size": len(tokenizer),
            "max_position_embeddings": family.chunk_length + family.num_padding_positions,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.cls_token_id, "cls_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id, "sep_token_id": tokenizer.sep_token_id,
            **family.settings,
        })  # fmt: skip
        torch.manual_seed(0)
        folder = tmp_path / model_type
        auto_class.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


def sections_of(family: Family, folder: Path, text: Path) -> dict[str, Any]:
    return {
        "model": {"name_or_path": str(folder)},
        "corpus": {"sources": [{"format": "text", "path": str(text)}]},
        "chunking": {"chunk_length": family.chunk_length},
        "masking": {"strategy": "whole_word"},
        "training": {"max_steps": 2, "global_batch_size": 2 if family.chunk_length == LONG else 8},
        "evaluation": {"every": 2},
        "checkpoint": {"every": 2, "export": "last"},
    }


def assert_trained(run: Any, base: Path, auto_class: Any) -> None:
    """Losses are finite, weights have moved, and the class of the base loads the result."""
    assert len(run.losses) == 2
    assert all(map(math.isfinite, [*run.losses, *run.evaluations.values()]))
    before = auto_class.from_pretrained(base).state_dict()
    after, report = auto_class.from_pretrained(run.path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    still = {n for n, p in after.named_parameters() if torch.equal(p, before[n])}
    assert all(re.search(STILL, name) for name in still), still


def assert_merges(base: LoadedModel, adapted: Path, folder: Path) -> None:
    """Its merged models are the base and the result at the ends, and load between them."""
    shutil.copytree(adapted, folder)
    weights = Interpolation(base, "base", [adapted], folder / "base")
    assert weights.new_weights == ()
    weights.write(folder, 1.0)
    file = "model.safetensors"
    assert (folder / file).read_bytes() == (adapted / file).read_bytes()
    weights.write(folder, 0.0)
    for name, tensor in AutoModelForMaskedLM.from_pretrained(folder).state_dict().items():
        assert torch.equal(tensor, base.model.state_dict()[name]), name


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_is_trained_on_masked_tokens(
    runs: Any, model_of: Any, text: Path, tmp_path: Path, model_type: str
) -> None:
    family = FAMILIES[model_type]
    folder = model_of(model_type)
    sections = sections_of(family, folder, text)
    run = runs.train(**sections)
    assert_trained(run, folder, AutoModelForMaskedLM)

    fill = pipeline("fill-mask", model=str(run.path / "model"))
    found = fill(f"the {fill.tokenizer.mask_token} is ready.")
    assert len(found) == 5
    assert all(0 < prediction["score"] < 1 for prediction in found)

    parts = build_masked_lm(load_config(runs.config(**sections)), build_accelerator("fp32"),
                        Console(is_quiet=True))  # fmt: skip
    head, loaded = parts.setup.head, parts.loaded
    assert head.is_sparse == family.is_sparse
    run_encoder = partial(head.outputs, loaded.model)
    packing = Packing.if_possible(loaded, family.chunk_length, run_encoder)
    assert (packing is not None) == family.packs
    tokenizer = AutoTokenizer.from_pretrained(folder)
    frame = tokenizer.cls_token_id, tokenizer.sep_token_id
    encoded = tokenizer("the node")["input_ids"]
    assert (encoded[0], encoded[-1]) == frame
    assert_merges(parts.loaded, run.path / "model", tmp_path / "merged")
    for batch in parts.stream.micro_batches(0):
        originals = torch.where(batch.labels == IGNORE_INDEX, batch.input_ids, batch.labels)
        assert originals.shape[1] == family.chunk_length
        for row in originals:
            (chunk,) = row[row != tokenizer.pad_token_id][None]
            assert (chunk[0], chunk[-1]) == frame


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_embeds_a_text_as_its_encoder_does_alone(
    model_of: Any, view_of: Any, drawn: Any, model_type: str
) -> None:
    """So an embedding depends neither on the other texts of a batch nor on padding."""
    folder, cpu = model_of(model_type), torch.device("cpu")
    length = min(FAMILIES[model_type].chunk_length, 64)
    config = ModelConfig(name_or_path=str(folder))
    loaded = load_pretrained(ModelRequest(config, length, cpu, "fp32", 0), "mlm")
    MaskedHead(loaded.model, len(loaded.tokenizer))  # its hook is on the encoder
    documents = [ids[: 66 + 2 * number] for number, ids in enumerate(drawn(24, length=120))]
    probe = RetrievalProbe(
        view_of(documents, [3, 5, 7, 9] * 3 + [0] * 12), loaded, EvaluationConfig()
    )
    texts = [*probe.pool.queries, *probe.pool.targets]
    assert len({len(ids) for ids in texts}) > 3
    encoder = AutoModel.from_pretrained(folder).eval()
    cls, sep = loaded.tokenizer.cls_token_id, loaded.tokenizer.sep_token_id
    with torch.inference_mode():
        alone = [encoder(torch.tensor([[cls, *ids.tolist(), sep]]))[0].mean(dim=1) for ids in texts]
    embeddings = probe.embeddings(loaded.model, cpu)
    torch.testing.assert_close(embeddings, torch.cat(alone), rtol=0.0, atol=1e-5)


OWN_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3},
    "distilbert": {"dropout": 0.2, "attention_dropout": 0.3},
    "modernbert": {"embedding_dropout": 0.2, "mlp_dropout": 0.3, "attention_dropout": 0.4},
    "funnel": {"hidden_dropout": 0.2, "attention_dropout": 0.3, "activation_dropout": 0.4},
}  # fmt: skip


@pytest.mark.parametrize("model_type", OWN_DROPOUT)
def test_the_result_has_the_dropout_rates_of_its_base(
    runs: Any, model_of: Any, text: Path, tmp_path: Path, model_type: str
) -> None:
    """Whatever its family calls them, and whatever the run was trained with."""
    folder, own = model_of(model_type), OWN_DROPOUT[model_type]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | own), encoding="utf-8")
    sections = sections_of(FAMILIES[model_type], folder, text)
    sections["model"]["dropout"] = 0.0
    run = runs.train(**sections)
    # A checkpoint, too, because other runs go on from it.
    for saved in ("checkpoints/checkpoint-2", "model"):
        written = run.json(f"{saved}/config.json")
        assert {name: written[name] for name in own} == own


@pytest.mark.parametrize(
    ("model_type", "objective"),
    [(t, "mlm+nsp") for t in model_types_with_pair_head()] + [("albert", "mlm+sop")],
)
def test_a_family_with_a_head_for_pairs_is_trained_on_them(
    runs: Any, model_of: Any, text: Path, model_type: str, objective: str
) -> None:
    folder = model_of(model_type, AutoModelForPreTraining)
    sections = sections_of(FAMILIES[model_type], folder, text)
    run = runs.train(**sections, objective=objective)
    assert_trained(run, folder, AutoModelForPreTraining)
    before = load_file(folder / "model.safetensors")
    of_pairs = [name for name in before if re.search(r"pooler\.|seq_relationship|sop_", name)]
    assert len(of_pairs) == 4
    assert not any(torch.equal(run.weights[name], before[name]) for name in of_pairs)
    records = [record for record in run.metrics if "loss" in record]
    assert all(0 < record["pair_loss"] < 5 for record in records)
    _, report = AutoModelForMaskedLM.from_pretrained(run.path / "model", output_loading_info=True)
    assert not report["missing_keys"]


def test_the_page_has_a_row_for_each_family() -> None:
    """docs/models.md says of each what is held here."""
    page = Path(__file__).parents[2] / "docs" / "models.md"
    kinds = {WORDPIECE: "WordPiece", BYTE_BPE: "byte-level BPE", UNIGRAM: "Unigram"}
    lines = page.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    title, _, *rows = (row for row in cells if len(row) == 6)
    assert title[0] == "model_type"
    assert rows == [
        [
            model_type,
            kinds[family.tokenizer],
            str(family.chunk_length),
            "yes" if family.is_sparse else "no",
            "yes" if family.packs else "no",
            "yes" if model_type in model_types_with_pair_head() else "no",
        ]
        for model_type, family in FAMILIES.items()
    ]
