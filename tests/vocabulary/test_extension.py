"""Words become entries of a tokenizer, and nothing else changes."""

import json
import re
from itertools import chain

import pytest
from class_tokenizers import MAKERS, MODEL_TYPES, bert, roberta, tokenizer_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_families import bpe_of_characters
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from mlmtune.errors import ConfigError
from mlmtune.tokens.encoding import Encoder, plain_backend
from mlmtune.tokens.unknown import unknown_token_id
from mlmtune.vocabulary.extension import extend
from mlmtune.vocabulary.plan import Reason

DOMAIN = ["kubernetes", "kubectl", "namespace", "namespaces", "subnets", "hypervisor", "ingress"]
CORPUS = [
    "the kubernetes cluster and its namespaces, a namespace for the hypervisor.",
    "kubectl lists subnets; (kubectl) ingress to the cluster",
    "we are running in the nodes of a netting",
]
FAMILIES = [*MAKERS]
BY_BYTES = ["RoBERTa", "ModernBERT"]
UNIGRAM = ["ALBERT", "XLM-R", "DeBERTa"]

PARTS = ["kuber", "netes", "es", "s", "name", "space", "sub", "net", "hyper", "the", "cluster"]
OTHERS = ["Kubernetes", "集群", "我们", "网络", "ü", "ß", "\U0001f692", "<x>", "3", "don't"]
BETWEEN = [" ", " ", " ", ", ", "-", "\n", "."]
fragments = st.sampled_from([*DOMAIN, *PARTS, *OTHERS, *BETWEEN])
texts_of = st.lists(st.lists(fragments, max_size=12).map("".join), max_size=6)
words_of = st.lists(
    st.lists(fragments, min_size=1, max_size=3).map("".join), min_size=1, max_size=8
)


def ids_of(tokenizer, texts):
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def tokenizer(family):
    return tokenizer_of(family)


def test_a_saved_folder_gives_the_words_as_single_tokens(family, tokenizer, tmp_path):
    extension = extend(tokenizer, DOMAIN, CORPUS)
    assert len(extension.ids) >= 5
    extension.tokenizer.save_pretrained(tmp_path)
    assert not [*tmp_path.glob("vocab.*"), *tmp_path.glob("*.model")]
    config = {"model_type": MODEL_TYPES[family]}  # by which AutoTokenizer may choose a class
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    # RoBERTa's class would not keep that whole words are looked up.
    assert type(loaded) is (PreTrainedTokenizerFast if family == "RoBERTa" else type(tokenizer))
    texts = ["the cluster", "the <mask> in"]
    assert loaded(*texts) == tokenizer(*texts)
    assert loaded.get_vocab() == extension.tokenizer.get_vocab()
    for word, id_ in extension.ids.items():
        assert loaded(f"the {word}", add_special_tokens=False)["input_ids"][-1] == id_
        assert id_ not in loaded.added_tokens_decoder
    assert loaded.decode(loaded(CORPUS[0])["input_ids"], skip_special_tokens=True).split() == (
        tokenizer.decode(tokenizer(CORPUS[0])["input_ids"], skip_special_tokens=True).split()
    )


def test_old_entries_keep_their_ids(tokenizer):
    extension = extend(tokenizer, DOMAIN, CORPUS)
    before, after = tokenizer.get_vocab(), extension.tokenizer.get_vocab()
    changed = {name for name, id_ in before.items() if after.get(name) != id_}
    assert {before[name] for name in changed} <= extension.pieces.keys()
    assert all("unused" in name or "madeup" in name for name in changed)
    extended = extension.tokenizer
    assert extended.all_special_ids == tokenizer.all_special_ids
    assert extended.model_max_length == tokenizer.model_max_length
    assert extended.model_input_names == tokenizer.model_input_names
    assert extended.name_or_path == tokenizer.name_or_path
    first, second = CORPUS[2], "the cluster"
    assert extension.tokenizer(first, second)["input_ids"] == tokenizer(first, second)["input_ids"]


def test_new_ids_know_the_tokens_that_their_text_had(tokenizer):
    extension = extend(tokenizer, DOMAIN, CORPUS)
    for word, id_ in extension.ids.items():
        before = tokenizer(f"the {word}", add_special_tokens=False)["input_ids"]
        assert tuple(before[-len(extension.pieces[id_]) :]) == extension.pieces[id_]
        assert len(extension.pieces[id_]) > 1


def test_words_are_not_added_twice(tokenizer):
    first = extend(tokenizer, DOMAIN, CORPUS)
    second = extend(first.tokenizer, DOMAIN, CORPUS)
    assert second.ids == {}
    assert second.pieces == {}
    assert second.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    known = {word for word, reason in second.dropped.items() if reason is Reason.KNOWN}
    assert known == first.ids.keys()


def without_spaces(text):
    return re.sub(r"(?<=[一-鿿]) (?=[一-鿿])", "", text)


def check_laws(tokenizer, extension, texts):
    extended, unknown = extension.tokenizer, unknown_token_id(tokenizer)
    for old, new in zip(ids_of(tokenizer, texts), ids_of(extended, texts), strict=True):
        assert len(new) <= len(old)
        if not extension.pieces.keys() & set(new):
            assert new == old
        if unknown not in old:
            # BERT's decoder puts a space between two tokens, and Chinese has none.
            assert without_spaces(extended.decode(new)) == without_spaces(tokenizer.decode(old))


@settings(max_examples=12)
@example(texts=["kubernetes kubernetess kubernet", "subnetsting"], words=DOMAIN)
@example(texts=["我们使用集群网络", "集群 集群集群"], words=["集群", "我们使用", "网络集群"])
@given(texts=texts_of, words=words_of)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_laws_hold_on_the_corpus(name, texts, words):
    tokenizer = tokenizer_of(name)
    extension = extend(tokenizer, words, texts)
    check_laws(tokenizer, extension, texts)
    assert extension.ids.keys() | extension.dropped.keys() == set(words)
    assert not extension.ids.keys() & extension.dropped.keys()
    encode = Encoder(plain_backend(extension.tokenizer))
    ids, _, _ = encode(texts)
    assert ids.tolist() == [*chain.from_iterable(ids_of(extension.tokenizer, texts))]


@pytest.mark.parametrize("name", [*BY_BYTES, *UNIGRAM])
def test_no_other_text_gets_longer_either(name):
    tokenizer = tokenizer_of(name)
    extension = extend(tokenizer, [*DOMAIN, "集群"], CORPUS)

    @given(texts=texts_of)
    def check(texts):
        for old, new in zip(
            ids_of(tokenizer, texts), ids_of(extension.tokenizer, texts), strict=True
        ):
            assert len(new) <= len(old)

    check()


@pytest.mark.parametrize("name", UNIGRAM)
def test_other_texts_are_cut_as_before_by_unigram(name):
    tokenizer = tokenizer_of(name)
    extension = extend(tokenizer, DOMAIN, CORPUS)
    check_laws(tokenizer, extension, ["kuber net es", "names spaces subnet hyper", "ingres 集群"])


def test_unused_entries_come_first_and_then_new_ids(family, tokenizer):
    extension = extend(tokenizer, DOMAIN, CORPUS)
    vocabulary = tokenizer.get_vocab()
    unused = [id_ for name, id_ in vocabulary.items() if "unused" in name or "madeup" in name]
    new = sorted(extension.pieces)
    assert new[: len(unused)] == sorted(unused)
    num_new = len(new) - len(unused)
    assert new[len(unused) :] == list(range(len(tokenizer), len(tokenizer) + num_new))
    assert [*extension.ids.values()] == sorted(extension.ids.values())
    assert not any("unused" in name for name in extension.tokenizer.get_vocab())


def test_an_unused_entry_that_a_text_spells_is_kept():
    tokenizer = tokenizer_of("ModernBERT")
    extension = extend(tokenizer, DOMAIN, [*CORPUS, "see [unused1] there"])
    name = "[unused1]"
    assert extension.tokenizer.get_vocab()[name] == tokenizer.get_vocab()[name]
    assert tokenizer.get_vocab()["[unused0]"] in extension.pieces


def test_added_tokens_keep_their_ids_where_the_vocabulary_grows():
    tokenizer = bert()
    tokenizer.add_tokens(["[URL]", "kubecfg"])
    extension = extend(tokenizer, [*DOMAIN, "quota"], ["the kubecfg of [URL]", *CORPUS])
    assert max(extension.ids.values()) >= len(tokenizer)
    texts = ["the kubecfg of [URL]", "kubecfgs"]
    assert ids_of(extension.tokenizer, texts) == ids_of(tokenizer, texts)
    assert {"[URL]", "kubecfg"} <= extension.tokenizer.get_added_vocab().keys()


def test_texts_are_compared_whole_though_the_tokenizer_cuts_and_pads_them():
    tokenizer = bert()
    vocabulary = tokenizer.get_vocab() | {"ku": 900, "##bernetes": 901}
    tokenizer = type(tokenizer)(vocab=vocabulary)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=4)
    extension = extend(tokenizer, ["kubern"], ["the nodes of the kubernetes cluster"])
    assert extension.dropped == {"kubern": Reason.LONGER}
    assert extension.tokenizer.backend_tokenizer.truncation["max_length"] == 4


@pytest.mark.parametrize("fixture", ["byte_tokenizer", "unigram_tokenizer"])
def test_a_tokenizer_made_in_memory_is_extended(request, fixture):
    made = request.getfixturevalue(fixture)
    texts = [text.removesuffix(".") for text in CORPUS]
    extension = extend(made, DOMAIN, texts)
    assert len(extension.ids) >= 5
    check_laws(made, extension, texts)


def test_embeddings_grow_to_a_multiple_and_only_if_they_must():
    extension = extend(bert(), DOMAIN, CORPUS)
    needed = max(extension.tokenizer.get_vocab().values()) + 1
    assert extension.num_rows(needed) == needed
    assert extension.num_rows(needed + 3) == needed + 3
    grown = extension.num_rows(needed - 1)
    assert needed <= grown < needed + 64
    assert grown % 64 == 0


def test_reasons_why_a_word_is_dropped():
    words = ["", "\u200b", "new york", "scale-set", "a集群", "cluster", "Kubectl", "KUBECTL"]
    extension = extend(bert(), [*words, "x" * 101], CORPUS)
    assert extension.dropped == {
        "": Reason.EMPTY,
        "\u200b": Reason.EMPTY,
        "new york": Reason.WHITE_SPACE,
        "scale-set": Reason.SEVERAL_WORDS,
        "a集群": Reason.SEVERAL_WORDS,
        "cluster": Reason.KNOWN,
        "KUBECTL": Reason.REPEATED,
        "x" * 101: Reason.UNREACHABLE,
    }
    assert extension.ids.keys() == {"Kubectl"}
    assert extension.tokenizer.get_vocab()["kubectl"] == extension.ids["Kubectl"]


def test_word_piece_does_not_take_a_word_that_spoils_a_longer_one():
    tokenizer = bert()
    vocabulary = tokenizer.get_vocab() | {"ku": 900, "##bernetes": 901}
    tokenizer = type(tokenizer)(vocab=vocabulary)
    corpus = ["kubernetes", "kubern"]
    extension = extend(tokenizer, ["kubern"], corpus)
    assert extension.dropped == {"kubern": Reason.LONGER}
    # Not if the longer one is a word, too.
    extension = extend(tokenizer, ["kubern", "kubernetes"], corpus)
    assert extension.ids.keys() == {"kubern", "kubernetes"}


def without_look_up():
    """A tokenizer with a whole word that no merges make, which texts would get by a look-up."""
    made = roberta()
    model = json.loads(made.backend_tokenizer.to_str())["model"]
    vocabulary = model["vocab"] | {"Ġkubectls": len(made)}
    return RobertaTokenizer(vocab=vocabulary, merges=[tuple(merge) for merge in model["merges"]])


def test_merges_need_no_step_where_a_shorter_word_is_one():
    tokenizer = without_look_up()
    shorter, longer = "subnet", "subnets"
    alone = extend(tokenizer, [longer], [longer])
    both = extend(tokenizer, [longer, shorter], [f" {longer} {shorter}"])
    assert both.ids.keys() == {longer, shorter}
    assert len(both.pieces) - 2 <= len(alone.pieces) - 1


def test_a_step_that_other_text_would_have_is_not_taken():
    tokenizer = without_look_up()
    word, without_last, without_first = "accountqx", " accountqz", " zqx"
    assert tokenizer.tokenize(f" {word}") == ["Ġaccount", "q", "x"]
    # Either of the two steps can be taken unless a text has it.
    for other in (without_first, without_last):
        extension = extend(tokenizer, [word], [f" {word}", other])
        assert extension.ids.keys() == {word}
        assert ids_of(extension.tokenizer, [other]) == ids_of(tokenizer, [other])
    extension = extend(tokenizer, [word], [f" {word}", without_first, without_last])
    assert extension.dropped == {word: Reason.CHANGED}


@pytest.mark.parametrize("name", BY_BYTES)
def test_words_are_looked_up_where_that_finds_no_old_entries(name):
    extension = extend(tokenizer_of(name), DOMAIN, [f" {word}s" for word in DOMAIN])
    assert extension.ids.keys() == set(DOMAIN)
    assert extension.pieces.keys() == set(extension.ids.values())  # no steps
    assert extension.tokenizer.backend_tokenizer.model.ignore_merges


def test_words_are_not_looked_up_if_old_entries_would_be_found_then():
    extension = extend(without_look_up(), DOMAIN, CORPUS)
    assert extension.ids
    assert isinstance(extension.tokenizer, RobertaTokenizer)
    text = ["the kubectls"]
    assert extension.tokenizer.get_vocab()["Ġkubectls"] not in ids_of(extension.tokenizer, text)[0]


def test_a_word_that_is_dropped_makes_room_for_the_next_one():
    words = ["cluster", "Kubectl", "KUBECTL", "kubern", "hypervisor", "ingress", "subnets"]
    tokenizer = bert()
    vocabulary = tokenizer.get_vocab() | {"ku": 900, "##bernetes": 901}
    tokenizer = type(tokenizer)(vocab=vocabulary)
    extension = extend(tokenizer, words, CORPUS, number=3)
    assert [*extension.ids] == ["Kubectl", "hypervisor", "ingress"]
    assert [*extension.dropped] == ["cluster", "KUBECTL", "kubern"]
    assert extend(tokenizer, words, CORPUS, number=100).ids.keys() == set(words[1:]) - {
        "KUBECTL", "kubern",
    }  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_words_in_runs_without_spaces_have_no_border_mark(name):
    tokenizer = tokenizer_of(name)
    extension = extend(tokenizer, ["集群"], ["我们使用集群网络"])
    ids = ids_of(extension.tokenizer, ["我们使用集群网络"])[0]
    assert extension.ids["集群"] in ids
    assert extension.tokenizer.decode([extension.ids["集群"]]) == "集群"
    before = ids_of(tokenizer, ["我们使用集群网络"])[0]
    pieces = list(extension.pieces[extension.ids["集群"]])
    begin = ids.index(extension.ids["集群"])
    assert before[begin : begin + len(pieces)] == pieces


def test_words_of_ideographs_are_added_again_beside_those_that_are_there():
    texts = ["我们使用集群网络"]
    first = extend(tokenizer_of("BERT"), ["集群"], texts)
    second = extend(first.tokenizer, ["集群", "网络"], texts)
    assert second.dropped == {"集群": Reason.KNOWN}
    assert second.tokenizer.tokenize(texts[0]) == ["我", "们", "使", "用", "集群", "网络"]


@pytest.mark.parametrize("name", UNIGRAM)
def test_a_word_of_unknown_characters_is_not_for_unigram(name):
    extension = extend(tokenizer_of(name), ["Ωmega"], CORPUS)
    assert extension.dropped == {"Ωmega": Reason.UNKNOWN}


def test_word_piece_takes_a_word_that_it_did_not_know():
    tokenizer = bert(do_lower_case=False)
    extension = extend(tokenizer, ["Ωmega"], ["the Ωmega"])
    unknown = tokenizer.unk_token_id
    assert extension.pieces == {extension.ids["Ωmega"]: (unknown,)}
    assert ids_of(extension.tokenizer, ["Ωmega"]) == [[extension.ids["Ωmega"]]]


@pytest.mark.parametrize(
    ("pieces", "reasons"), [("qx", {"abab": Reason.SCORE}), ("ab", {})], ids=["pruned", "trained"]
)
def test_unigram_keeps_its_least_score_if_text_with_unknown_characters_depends_on_it(
    pieces, reasons
):
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary = [*special, ("\u2581", -2.0), ("a", -3.0), ("b", -3.0), (pieces, -4.0)]
    tokenizer = XLMRobertaTokenizer(vocab=vocabulary)
    assert extend(tokenizer, ["abab"], ["abab a"]).dropped == reasons


def test_a_word_that_is_decoded_in_another_way_is_dropped():
    names = ["[UNK]", "[MASK]", "do", "n", "##'", "##t", "##s"]
    vocabulary = {name: id_ for id_, name in enumerate(names)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece(cleanup=True)  # which joins n't with the word before it
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", mask_token="[MASK]"
    )
    extension = extend(tokenizer, ["n't", "dos"], ["dos do n't"])
    assert extension.dropped == {"n't": Reason.DECODING}
    assert extension.ids.keys() == {"dos"}


def test_what_its_class_does_not_build_again_is_kept_by_the_general_class():
    tokenizer = MAKERS["RoBERTa"]()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    extension = extend(tokenizer, DOMAIN, ["The Cluster"])
    assert ids_of(extension.tokenizer, ["The Cluster"]) == ids_of(tokenizer, ["The Cluster"])


def test_a_tokenizer_that_is_another_one_when_it_is_loaded_is_refused():
    tokenizer = MAKERS["BERT"]()
    tokenizer.eos_token = "cluster"
    with pytest.raises(ConfigError, match=r"a saved copy .* does not read 'the clusters'"):
        extend(tokenizer, DOMAIN, ["the clusters"])


def whole_words():
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def characters():
    return PreTrainedTokenizerFast(tokenizer_object=bpe_of_characters(), unk_token="<unk>")


@pytest.mark.parametrize(
    ("make", "kind"), [(whole_words, "WordLevel"), (characters, "BPE that is not byte-level")]
)
def test_another_kind_is_refused_by_its_name(make, kind):
    with pytest.raises(ConfigError, match=kind):
        extend(make(), DOMAIN, CORPUS)
