import copy
import itertools
import json
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast
from vocabulary import WORDS

from mlmtune.config import ModelConfig
from mlmtune.corpus.cleaning import content_hash
from mlmtune.corpus.document import Document
from mlmtune.errors import DataError, DivergedError
from mlmtune.evaluation import word_cloze
from mlmtune.evaluation.cloze_words import DrawnWord, draw_words
from mlmtune.evaluation.word_cloze import ClozeText, WordCloze, WordCutter
from mlmtune.modeling.loading import ModelRequest, load_pretrained
from mlmtune.modeling.masked_head import MaskedHead

CPU = torch.device("cpu")


def load(folder):
    request = ModelRequest(ModelConfig(name_or_path=str(folder)), 64, CPU, "fp32", 0)
    return load_pretrained(request, "mlm")


@pytest.fixture(scope="module")
def loaded(model_dir):
    return load(model_dir)


@pytest.fixture(scope="module")
def head(loaded):
    return MaskedHead(loaded.model, len(loaded.tokenizer))


@pytest.fixture(scope="module")
def documents():
    draw = random.Random(0)
    endings = ["", "s", "ing", "edly"]
    texts = [
        " ".join(draw.choice(WORDS) + draw.choice(endings) for _ in range(40)) for _ in range(30)
    ]
    return [Document(text, str(n), 0, content_hash(text)) for n, text in enumerate(texts)]


def logits_at(loaded, ids):
    with torch.no_grad():
        logits = loaded.model.eval()(input_ids=torch.as_tensor(ids)[None]).logits[0]
    return logits.log_softmax(dim=-1)


def test_each_piece_is_masked_with_those_after_it(loaded, head, documents):
    text = ClozeText.of({"all": draw_words(documents, 0)}, [loaded.tokenizer], 48)
    scores = WordCloze(text, loaded, head).measure(loaded.model, CPU)
    assert {1, 2, 3} <= {*scores.num_pieces.tolist()}
    mask = loaded.tokenizer.mask_token_id
    for number, window in enumerate(text.windows):
        encoding = loaded.tokenizer(window.text, return_offsets_mapping=True)
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        pieces = [n for n, (a, b) in enumerate(offsets) if window.begin <= a < b <= window.end]
        assert len(pieces) == scores.num_pieces[number]
        loss = 0.0
        for done in range(len(pieces)):
            masked = list(ids)
            for place in pieces[done:]:
                masked[place] = mask
            loss -= float(logits_at(loaded, masked)[pieces[done], ids[pieces[done]]])
        assert scores.losses[number] == pytest.approx(loss, abs=1e-4)


def test_of_a_single_piece_it_is_the_masked_loss(loaded, head):
    text = " ".join(WORDS)
    document = Document(text, "0", 0, content_hash(text))
    words = [word for word in draw_words([document], 0) if word.form in WORDS]
    cloze = ClozeText.of({"all": words}, [loaded.tokenizer], 48)
    scores = WordCloze(cloze, loaded, head).measure(loaded.model, CPU)
    assert (scores.num_pieces == 1).all()
    assert np.allclose(scores.counts(cloze.samples["all"]), 0.0)  # nothing else to be counted
    for window, loss in zip(cloze.windows, scores.losses.tolist(), strict=True):
        hidden = f"{window.text[: window.begin]}[MASK]{window.text[window.end :]}"
        ids = loaded.tokenizer(hidden)["input_ids"]
        place = ids.index(loaded.tokenizer.mask_token_id)
        label = loaded.tokenizer.convert_tokens_to_ids(window.text[window.begin : window.end])
        assert loss == pytest.approx(-float(logits_at(loaded, ids)[place, label]), abs=1e-4)


@pytest.fixture(scope="module")
def of_two_letters(tmp_path_factory):
    """A model that knows the letters a and b, with which it spells every word."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: id_ for id_, token in enumerate([*special, "a", "b"])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{f"{token[1:4].lower()}_token": token for token in special[:4]},
        mask_token="[MASK]",
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("two")
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded = load(folder)
    with torch.no_grad():
        loaded.model.get_output_embeddings().bias[: len(special)] = -1e4
        for weight in loaded.model.parameters():
            weight.mul_(5.0)  # so that the letters are not all alike
    return loaded


def test_the_probabilities_of_all_words_add_up_to_one(of_two_letters):
    loaded, words = of_two_letters, []
    for number, letters in enumerate(
        letters for length in (1, 2, 3, 4) for letters in itertools.product("ab", repeat=length)
    ):
        form = "".join(letters)
        words.append(DrawnWord(number, 4, 4 + len(form), f"bab {form} abba"))
    text = ClozeText.of({"all": words}, [loaded.tokenizer], 48)
    head = MaskedHead(loaded.model, len(loaded.tokenizer))
    scores = WordCloze(text, loaded, head).measure(loaded.model, CPU)
    assert scores.losses.std() > 0.1
    for length in (1, 2, 3, 4):
        of_length = scores.losses[scores.num_pieces == length]
        assert len(of_length) == 2**length
        assert np.exp(-of_length).sum() == pytest.approx(1.0, abs=1e-4)
    every = np.ones(len(words), dtype=bool)
    for which in (every, scores.num_pieces < 4):
        in_all = np.exp(-scores.losses - scores.counts(which)).sum()
        assert in_all == pytest.approx(1.0, abs=1e-4)


def test_it_depends_on_no_order_and_no_batch_size(loaded, head, documents, monkeypatch):
    def by_word(some_documents):
        text = ClozeText.of({"all": draw_words(some_documents, 0)}, [loaded.tokenizer], 48)
        scores = WordCloze(text, loaded, head).measure(loaded.model, CPU)
        return dict(zip(text.words, scores.losses.tolist(), strict=True))

    losses = by_word(documents)
    assert by_word(documents[::-1]) == losses
    monkeypatch.setattr(word_cloze, "GROUP_SEQUENCES", 1)
    assert by_word(documents) == pytest.approx(losses, abs=1e-5)


def test_two_tokenizers_are_asked_for_the_same_words(
    loaded, head, documents, byte_tokenizer, byte_model_dir
):
    strange = Document("the vault is größe ready", "strange", 0, 1)
    words = draw_words([*documents, strange], 0)
    tokenizers = [loaded.tokenizer, byte_tokenizer]
    text = ClozeText.of({"all": words}, tokenizers, 64, num_words=len(words))
    reversed_ = ClozeText.of({"all": words}, tokenizers[::-1], 64, num_words=len(words))
    assert (reversed_.words, reversed_.windows) == (text.words, text.windows)
    # The tokenizer of word pieces knows no ß, so the byte-level one is not asked for it, either.
    assert text.num_left_out == 1
    assert set(text.words) == {word for word in words if word.form != "größe"}
    other = load(byte_model_dir)
    other_head = MaskedHead(other.model, len(other.tokenizer))
    for model, of_model in ((loaded, head), (other, other_head)):
        scores = WordCloze(text, model, of_model).measure(model.model, CPU)
        assert (scores.num_pieces >= 1).all()
        assert len(scores.losses) == len(text.words)


def test_a_piece_with_other_text_belongs_to_no_word(tokenizer, unigram_tokenizer):
    windows = [DrawnWord(0, 4, 9, "the vault.").window(50)]
    for some in (tokenizer, unigram_tokenizer):
        assert [word.num_pieces for word in WordCutter(some)(windows)] == [1]
    joins = copy.deepcopy(unigram_tokenizer)
    content = json.loads(joins.backend_tokenizer.to_str())
    content["model"]["vocab"].append(["\u2581vault.", -1.0])
    joins._tokenizer = Tokenizer.from_str(json.dumps(content))
    assert [word.num_pieces for word in WordCutter(joins)(windows)] == [0]


def test_all_models_see_a_window_that_fits_into_the_shortest(loaded, documents, byte_tokenizer):
    words = draw_words(documents, 0)
    long = ClozeText.of({"all": words}, [loaded.tokenizer], 64)
    short = ClozeText.of({"all": words}, [loaded.tokenizer, byte_tokenizer], 24)
    assert {*short.words} <= {*long.words}
    for cutter in map(WordCutter, (loaded.tokenizer, byte_tokenizer)):
        assert max(len(word.ids) for word in cutter(short.windows)) <= 24
    assert len(max(long.windows, key=lambda w: len(w.text)).text) > 100


def test_samples_have_words_of_their_kind(loaded, documents):
    words = draw_words(documents, 0)
    ends = [word for word in words if word.form.endswith("ing")]
    few = ends[:3]
    text = ClozeText.of({"all": words, "ing": ends, "few": few}, [loaded.tokenizer], 48, 40)
    assert list(text.samples) == ["all", "ing"]  # a few words are no sample
    assert text.samples["all"].sum() == text.samples["ing"].sum() == 40
    assert all(
        word.form.endswith("ing")
        for word, is_in in zip(text.words, text.samples["ing"], strict=True) if is_in
    )  # fmt: skip
    assert len(text.words) < 80  # a word of both samples is one
    with pytest.raises(DataError, match="of 3 words, 3 are whole pieces of every tokenizer"):
        ClozeText.of({"few": few}, [loaded.tokenizer], 48)


class OneOf:
    """An accelerator of one of several processes, whose sums are those of all of them."""

    def __init__(self, process_index, num_processes, others=()):
        self.process_index, self.num_processes = process_index, num_processes
        self.device, self.autocast = CPU, Accelerator().autocast
        self.given, self._others = [], others

    def reduce(self, tensor, reduction):
        self.given.append(tensor.clone())
        return sum((other.given[len(self.given) - 1] for other in self._others), tensor)


def test_any_number_of_processes_gives_the_same_bits(loaded, head, documents):
    text = ClozeText.of({"all": draw_words(documents, 0)}, [loaded.tokenizer], 48)
    cloze = WordCloze(text, loaded, head)
    here = cloze.measure(loaded.model, CPU)
    others = [OneOf(1, 3), OneOf(2, 3)]
    for other in others:
        cloze.run(other, loaded.model)
    shared = cloze.run(OneOf(0, 3, others), loaded.model)
    assert np.array_equal(shared.losses, here.losses)
    assert np.array_equal(cloze.run(OneOf(0, 1), loaded.model).losses, here.losses)


def test_a_broken_model_is_refused_in_one_line(model_dir, documents):
    loaded = load(model_dir)
    head = MaskedHead(loaded.model, len(loaded.tokenizer))
    text = ClozeText.of({"all": draw_words(documents, 0)}, [loaded.tokenizer], 48)
    cloze = WordCloze(text, loaded, head)
    with torch.no_grad():
        next(loaded.model.parameters()).fill_(torch.nan)
    with pytest.raises(DivergedError, match="the loss of a word is not finite"):
        cloze.measure(loaded.model, CPU)
