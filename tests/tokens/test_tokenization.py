import copy
import json
import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import TEXTS, build, documents_of, ids_of

from mlmtune.tokens import tokenization
from mlmtune.tokens.encoding import Encoder, plain_backend, role_tokens
from mlmtune.tokens.store_format import MANIFEST


@pytest.fixture(params=["tokenizer", "byte_tokenizer"])
def any_tokenizer(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("batch_documents", [1, 3, 256])
def test_no_token_is_lost_or_moved(corpus, any_tokenizer, monkeypatch, batch_documents):
    monkeypatch.setattr(tokenization, "BATCH_DOCUMENTS", batch_documents)
    store, _ = build(corpus(), any_tokenizer)
    alone = [any_tokenizer.encode(text.strip(), add_special_tokens=False) for text in TEXTS]
    assert documents_of(store) == alone
    assert store.num_tokens == sum(map(len, alone))
    assert store.documents.num_characters.tolist() == [len(text) for text in TEXTS]


def test_several_processes_write_the_bytes_of_one(corpus, any_tokenizer, monkeypatch):
    settings = corpus()
    one, _ = build(settings, any_tokenizer)
    digests = json.loads((one.directory / MANIFEST).read_bytes())["shards"]
    shutil.rmtree(one.directory)
    monkeypatch.setattr(tokenization, "BATCH_DOCUMENTS", 1)
    monkeypatch.setattr(tokenization, "SMALL_CHARACTERS", 0)
    monkeypatch.setattr(tokenization, "num_processors", lambda: 2)
    several, _ = build(settings, any_tokenizer)
    assert json.loads((several.directory / MANIFEST).read_bytes())["shards"] == digests


def test_no_document_is_lost_where_a_batch_is_full_of_characters(corpus, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenization, "BATCH_CHARACTERS", 50)
    store, _ = build(corpus(), tokenizer)
    assert documents_of(store) == [tokenizer.encode(t, add_special_tokens=False) for t in TEXTS]


@pytest.mark.parametrize("batch_documents", [1, 2, 256])
def test_word_starts_are_the_borders_of_the_text(
    corpus, any_tokenizer, monkeypatch, batch_documents
):
    monkeypatch.setattr(tokenization, "BATCH_DOCUMENTS", batch_documents)
    store, _ = build(corpus(), any_tokenizer)
    # BERT sets ideographs apart; to byte-level BPE they are letters.
    ideograph = "[一-鿿]|" if any_tokenizer.vocab_size < 200 else ""
    expected = []
    for text in TEXTS:
        borders = {found.start() for found in re.finditer(rf"{ideograph}\w+|\S", text)}
        begins, last = plain_backend(any_tokenizer).encode(text, add_special_tokens=False), -1
        for start, _ in begins.offsets:
            first = start + len(text[start:]) - len(text[start:].lstrip())
            expected.append(first in borders and first != last)
            last = first
    assert 0 < sum(expected) < len(expected)
    assert store.tokens_at(np.arange(store.num_tokens))[1].tolist() == expected


def test_names_and_hashes_belong_to_their_documents(corpus, tokenizer):
    store, _ = build(corpus(), tokenizer)
    numbers = range(len(TEXTS))
    assert store.document_ids(numbers) == [f"{n:03}.txt" for n in numbers]
    alone, _ = build(corpus(TEXTS[:1]), tokenizer)
    assert len(set(store.documents.content_hashes.tolist())) == len(TEXTS)
    assert alone.documents.content_hashes[0] == store.documents.content_hashes[0]


def unigram_tokenizer():
    """Like SentencePiece models: its vocabulary holds the special tokens, and likes them best."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    special = ["[CLS]", "[SEP]", "<unk>", "[MASK]", "</s>", "<pad>"]
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz<>/[]▁" + "".join(special)))
    pieces = [(token, 0.0) for token in special] + [(letter, -3.0) for letter in letters]
    backend = Tokenizer(Unigram(pieces, special.index("<unk>"), False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", eos_token="</s>", pad_token="<pad>",
    )  # fmt: skip


@pytest.fixture(params=["word pieces", "bytes", "unigram", "words"])
def tokenizer_of_each_kind(request, tokenizer, byte_tokenizer, word_tokenizer):
    if request.param == "word pieces":
        return tokenizer
    if request.param == "unigram":
        return unigram_tokenizer()
    return {"bytes": byte_tokenizer, "words": word_tokenizer}[request.param]


def test_text_that_spells_a_special_token_stays_text(corpus, tokenizer_of_each_kind):
    spelled = tokenizer_of_each_kind.all_special_tokens
    text = "a " + " b ".join(spelled) + " a " + "".join(spelled)
    text += " [MASK] </s> <mask> [SEP]"
    store, _ = build(corpus([text]), tokenizer_of_each_kind)
    forbidden = set(tokenizer_of_each_kind.all_special_ids)
    forbidden.discard(tokenizer_of_each_kind.unk_token_id)
    assert store.num_tokens > 6
    assert not forbidden & set(ids_of(store))


MARKED = "a [DRUG]b[/DRUG] a  [DRUG] b b [/DRUG]\n[URL]a see[URL] é[DRUG] {HERB}b"
"""Text with tokens that a user added."""


def with_added_tokens(tokenizer, folder):
    """The tokenizer with entity markers, as AutoTokenizer reads it from a folder."""
    from transformers import AddedToken, AutoTokenizer

    marked = copy.deepcopy(tokenizer)
    herb = AddedToken("{HERB}", lstrip=True, special=True)
    marked.add_special_tokens({"extra_special_tokens": ["[DRUG]", "[/DRUG]", herb]})
    marked.add_tokens(["[URL]"])
    marked.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_special_tokens_that_a_user_added_are_tokens(corpus, tokenizer_of_each_kind, tmp_path):
    tokenizer = with_added_tokens(tokenizer_of_each_kind, tmp_path / "tokenizer")
    store, _ = build(corpus([MARKED]), tokenizer)
    assert ids_of(store) == tokenizer(MARKED, add_special_tokens=False).input_ids
    added = tokenizer.convert_tokens_to_ids(["[DRUG]", "[/DRUG]", "{HERB}", "[URL]"])
    assert [ids_of(store).count(id_) for id_ in added] == [3, 2, 1, 2]
    # Those with a role stay hidden beside them.
    roles = "".join(role_tokens(tokenizer))
    hidden, _ = build(corpus([f"[DRUG]{roles} a [DRUG]"]), tokenizer)
    forbidden = set(role_tokens(tokenizer).values()) - {tokenizer.unk_token_id}
    assert ids_of(hidden).count(added[0]) == 2
    assert not forbidden & set(ids_of(hidden))


def test_plain_text_gets_the_ids_it_always_had(tokenizer_of_each_kind):
    """Hiding special tokens from text moves no id, added tokens included."""
    tokenizer = copy.deepcopy(tokenizer_of_each_kind)
    tokenizer.add_tokens(["kubernetes", "helm"])
    text = "a b kubernetes a helm b"
    ids = plain_backend(tokenizer).encode(text, add_special_tokens=False).ids
    assert ids == tokenizer.encode(text, add_special_tokens=False)
    assert {tokenizer.convert_tokens_to_ids(t) for t in ("kubernetes", "helm")} <= set(ids)


def test_a_tokenizer_that_truncates_and_pads_loses_nothing_and_is_left_alone(corpus, tokenizer):
    cutting = copy.deepcopy(tokenizer)
    cutting.backend_tokenizer.enable_truncation(8)
    cutting.backend_tokenizer.enable_padding(length=8)
    before = cutting.backend_tokenizer.to_str()
    store, _ = build(corpus(), cutting)
    assert cutting.backend_tokenizer.to_str() == before
    assert documents_of(store) == [tokenizer.encode(t, add_special_tokens=False) for t in TEXTS]


@given(
    texts=st.lists(
        st.text(alphabet="abdeginorst STOR.,'#_-\n\té文字 [MASK]", max_size=60), max_size=5
    )
)
def test_pieces_that_continue_words_are_known_without_offsets(tokenizer, texts):
    backend = plain_backend(tokenizer)
    fast, slow = Encoder(backend), Encoder(backend)
    assert fast._continues_word is not None
    slow._continues_word = None
    for quick, exact in zip(fast(texts), slow(texts), strict=True):
        assert quick.tolist() == exact.tolist()


def test_offsets_are_kept_where_the_vocabulary_does_not_tell(tokenizer, byte_tokenizer):
    assert Encoder(plain_backend(byte_tokenizer))._continues_word is None
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["pre_tokenizer"] = {"type": "WhitespaceSplit"}  # there "##" may begin a word
    backend = type(tokenizer.backend_tokenizer).from_str(json.dumps(content))
    encode = Encoder(backend)
    assert encode._continues_word is None
    piece = next(token for token in tokenizer.get_vocab() if token.startswith("##"))
    ids, word_starts, _ = encode([f"{piece} {piece}"])
    assert (len(ids), word_starts.tolist()) == (2, [True, True])


def test_the_store_knows_which_tokens_are_the_title(corpus, any_tokenizer):
    texts = ["Scale-set test\n\nThe storage account.", "No title.\n\nThe storage.", "word"]
    store, _ = build(corpus(texts), any_tokenizer)
    title = any_tokenizer.encode("Scale-set test", add_special_tokens=False)
    assert store.documents.title_lengths.tolist() == [len(title), 0, 0]
    assert documents_of(store)[0][: len(title)] == title
