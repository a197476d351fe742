import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from damages import flip_a_bit
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.config import CorpusConfig, SourceConfig, TokenizationConfig
from mlmtune.console import Console
from mlmtune.errors import ConfigError, DataError, ResourceError
from mlmtune.tokens import tokenization
from mlmtune.tokens.encoding import Encoder, plain_backend, role_tokens
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.store_writer import StoreWriter
from mlmtune.tokens.tokenization import SpecialTokens, list_text, open_store

TEXTS = [
    "The storage account.",
    "scale-set, running: update deployed services!",
    "word " * 37 + "end",
    "Ünïcode né 服务 test",
    "xyzzy [unused1] 100% -- a",
]


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


def open_(corpus, tokenizer, tokenization=None, console=None, **options):
    tokenization = tokenization or TokenizationConfig()
    console = console or Console(is_quiet=True)
    listing = list_text(corpus, tokenization, console)
    return open_store(corpus, tokenization, tokenizer, listing, console, **options)


def build(corpus, tokenizer):
    """The store, and whether it had to be built."""
    with patch.object(tokenization, "_build", wraps=tokenization._build) as build_:
        return open_(corpus, tokenizer), build_.called


def ids_of(store):
    return store.tokens_at(np.arange(store.num_tokens))[0].tolist()


def documents_of(store):
    ids = ids_of(store)
    return [ids[a:b] for a, b in zip(store.offsets, store.offsets[1:], strict=False)]


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


def word_tokenizer():
    """Words between white space are looked up as they are."""
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


@pytest.fixture(params=["word pieces", "bytes", "unigram", "words"])
def tokenizer_of_each_kind(request, tokenizer, byte_tokenizer):
    if request.param == "word pieces":
        return tokenizer
    return {"bytes": lambda: byte_tokenizer, "unigram": unigram_tokenizer,
            "words": word_tokenizer}[request.param]()  # fmt: skip


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


# The fingerprint.


def test_a_corpus_that_was_read_is_opened_without_reading(corpus, tokenizer, monkeypatch):
    config = corpus()
    first, built = build(config, tokenizer)
    assert built
    monkeypatch.setattr(tokenization, "read_corpus", lambda *_: pytest.fail("it was read again"))
    second, built = build(config, tokenizer)
    assert not built
    assert second.directory == first.directory
    assert ids_of(second) == ids_of(first)
    assert second.funnel == first.funnel


@pytest.mark.parametrize(
    "settings",
    [
        {"validation_fraction": 0.3},
        {"split_by": "chunk", "max_train_chunks": 5, "max_validation_chunks": 1},
    ],
)
def test_how_the_corpus_is_split_does_not_make_another_store(corpus, tokenizer, settings):
    config = corpus()
    build(config, tokenizer)
    assert not build(config.model_copy(update=settings), tokenizer)[1]


def test_what_changes_the_tokens_makes_another_store(corpus, tokenizer, byte_tokenizer):
    config = corpus()
    stores = [build(config, tokenizer)]
    stores.append(build(config, byte_tokenizer))
    grown = copy.deepcopy(tokenizer)
    grown.add_tokens(["kubernetes"])
    stores.append(build(config, grown))
    stores.append(build(config.model_copy(update={"min_characters": 25}), tokenizer))

    changed = Path(config.sources[0].path) / "000.txt"
    before = changed.stat()
    changed.write_text(TEXTS[0].replace("storage", "stOrage"), encoding="utf-8")
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # same size, other time
    stores.append(build(config, tokenizer))
    changed.write_text(TEXTS[0] + " More.", encoding="utf-8")
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # same time, other size
    stores.append(build(config, tokenizer))
    (changed.parent / "new.txt").write_text("new", encoding="utf-8")
    stores.append(build(config, tokenizer))
    (changed.parent / "new.txt").rename(changed.parent / "newer.txt")
    stores.append(build(config, tokenizer))

    assert all(built for _, built in stores)
    assert len({store.directory for store, _ in stores}) == len(stores)


def test_a_tokenizers_truncation_does_not_make_another_store(corpus, tokenizer):
    config = corpus()
    build(config, tokenizer)
    cutting = copy.deepcopy(tokenizer)
    cutting.backend_tokenizer.enable_truncation(8)
    assert not build(config, cutting)[1]


def test_the_config_names_the_cache_before_the_environment_does(corpus, tokenizer, tmp_path):
    config = TokenizationConfig(cache_dir=str(tmp_path / "elsewhere"))
    store = open_(corpus(), tokenizer, config)
    assert store.directory.parent == tmp_path / "elsewhere" / "tokens"


# Writers that fail, and writers that meet.

CHILD = """
import sys, time
from tokenizers import Tokenizer
from mlmtune.config import CorpusConfig, SourceConfig, TokenizationConfig
from mlmtune.console import Console
from mlmtune.tokens import tokenization
from mlmtune.tokens.store_writer import StoreWriter

class TokenizerOfTheChild:
    backend_tokenizer = Tokenizer.from_file(sys.argv[2])
    unk_token_id = 1
    cls_token = sep_token = pad_token = mask_token = bos_token = eos_token = unk_token = None

append = StoreWriter.append
def append_slowly(writer, documents):
    append(writer, documents)
    print("appended", flush=True)
    time.sleep(float(sys.argv[3]))
StoreWriter.append = append_slowly
tokenization.BATCH_DOCUMENTS = 2

corpus = CorpusConfig(sources=[SourceConfig(format="text", path=sys.argv[1])])
print("ready", flush=True)
sys.stdin.readline()
config, console = TokenizationConfig(), Console(is_quiet=True)
listing = tokenization.list_text(corpus, config, console)
store = tokenization.open_store(corpus, config, TokenizerOfTheChild(), listing, console)
print(store.directory, flush=True)
"""


@pytest.fixture
def start_child(tokenizer, tmp_path):
    """Starts a process that builds the store, with a pause after each batch, once told to go."""
    path = tmp_path / "tokenizer.json"
    tokenizer.backend_tokenizer.save(str(path))
    children = []

    def start(corpus, pause_seconds):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, corpus.sources[0].path, str(path), str(pause_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_a_killed_builder_leaves_no_store_and_the_next_call_builds_it(
    corpus, tokenizer, start_child, token_cache
):
    config = corpus()
    child = start_child(config, pause_seconds=600)
    child.stdin.write("go\n")
    child.stdin.flush()
    assert any(line == "appended\n" for line in child.stdout)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert any(path.name.startswith(".writing-") for path in (token_cache / "tokens").iterdir())
    assert not list((token_cache / "tokens").glob("*/store.json"))

    store, built = build(config, tokenizer)
    assert built
    assert documents_of(store) == [tokenizer.encode(t, add_special_tokens=False) for t in TEXTS]
    assert not build(config, tokenizer)[1]


def test_two_processes_that_start_together_build_one_store(corpus, start_child, token_cache):
    config = corpus()
    children = [start_child(config, pause_seconds=0.2) for _ in range(2)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    outputs = [child.communicate(timeout=60)[0].splitlines() for child in children]

    assert [child.returncode for child in children] == [0, 0]
    assert sum("appended" in output for output in outputs) == 1
    assert outputs[0][-1] == outputs[1][-1]
    stores = [path for path in (token_cache / "tokens").iterdir() if path.is_dir()]
    assert [str(path) for path in stores] == [outputs[0][-1]]
    assert TokenStore.open(stores[0]).num_documents == len(TEXTS)


@pytest.mark.parametrize("name", ["store.json", "shard-00000/ids.bin", "shard-00000/lengths.bin"])
def test_a_damaged_store_of_the_cache_is_made_anew_and_that_is_said(
    corpus, tokenizer, console, name
):
    config = corpus()
    before = open_(config, tokenizer)
    ids = ids_of(before)
    flip_a_bit(before.directory / name)
    store = open_(config, tokenizer, console=console)
    assert console.lines == [
        f"{before.directory / name}: damaged; the store is made anew",
        "reading and tokenizing the corpus (once; the result is kept)",
    ]
    assert ids_of(store) == ids


def test_a_damaged_named_store_is_refused_until_it_is_made_anew(
    corpus, tokenizer, console, tmp_path
):
    config, named = corpus(), TokenizationConfig(store=str(tmp_path / "store"))
    before = ids_of(open_(config, tokenizer, named))
    flip_a_bit(tmp_path / "store" / "shard-00000" / "ids.bin")
    for listing in (list_text(config, named, console), None):
        with pytest.raises(DataError, match=r"ids\.bin: damaged; copy .* by `mlmtune prepare`"):
            open_store(config, named, tokenizer, listing, console)
    assert ids_of(open_(config, tokenizer, named, console, rebuilds=True)) == before
    assert any("the store is made anew" in line for line in console.lines)

    (tmp_path / "store" / "store.json").unlink()
    with pytest.raises(DataError, match=r"store\.json: missing; .* or delete"):
        open_(config, tokenizer, named, rebuilds=True)


@pytest.mark.parametrize("rebuilds", [False, True])
def test_who_waits_for_the_builder_of_a_named_store_does_not_replace_it(
    corpus, tokenizer, byte_tokenizer, tmp_path, console, rebuilds
):
    config, named = corpus(), TokenizationConfig(store=str(tmp_path / "store"))
    lock = FileLock(tmp_path / "store.lock")
    lock.acquire()

    def build_with_another_tokenizer(line):
        assert "waiting for another process, which builds" in line
        with patch.object(tokenization, "_holding_lock", lambda *_: nullcontext()):
            open_(config, byte_tokenizer, named)
        lock.release()

    console.say = build_with_another_tokenizer
    with pytest.raises(ConfigError, match="was made with another tokenizer; name another folder"):
        open_(config, tokenizer, named, console, rebuilds=rebuilds)
    assert ids_of(open_(config, byte_tokenizer, named))


def test_a_cache_that_is_taken_away_under_its_builder_is_said(
    corpus, tokenizer, token_cache, monkeypatch
):
    append = StoreWriter.append

    def append_and_lose(writer, documents):
        append(writer, documents)
        shutil.rmtree(token_cache)

    monkeypatch.setattr(StoreWriter, "append", append_and_lose)
    with pytest.raises(ResourceError, match="was deleted or moved while it was written"):
        build(corpus(), tokenizer)


def test_an_error_while_reading_leaves_no_store(corpus, tokenizer, token_cache):
    with pytest.raises(DataError, match="min_characters"):
        build(corpus(min_characters=10_000), tokenizer)
    assert not [path for path in (token_cache / "tokens").iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_made_is_said(corpus, tokenizer, token_cache):
    token_cache.write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(ResourceError, match=r"cannot be made .*cache_dir"):
        build(corpus(), tokenizer)


def test_a_cache_that_cannot_be_locked_is_said(corpus, tokenizer):
    config = corpus()
    store, _ = build(config, tokenizer)
    lock = store.directory.with_name(store.directory.name + ".lock")
    store.directory.rename(store.directory.with_name("gone"))
    lock.unlink(missing_ok=True)
    lock.mkdir()
    with pytest.raises(ResourceError, match=r"cannot be written .*cache_dir"):
        build(config, tokenizer)


def test_a_full_disk_is_said(corpus, tokenizer, monkeypatch, token_cache):
    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StoreWriter, "append", no_space)
    with pytest.raises(ResourceError, match="No space left"):
        build(corpus(), tokenizer)
    assert not list((token_cache / "tokens").glob("*/store.json"))


# The frame.


def with_template(tokenizer, **template):
    from tokenizers import processors

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(**template)
    return tokenizer


def test_the_frame_of_a_bert(tokenizer):
    cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert SpecialTokens.of(tokenizer) == SpecialTokens((cls_id,), (sep_id,), (sep_id,))


def test_the_frame_of_a_roberta(byte_tokenizer):
    assert SpecialTokens.of(byte_tokenizer) == SpecialTokens((0,), (2,), (2,))


def test_the_frame_follows_the_template_and_not_the_names(tokenizer):
    """T5's kind ends a sequence and does not begin one."""
    cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    ending = with_template(tokenizer, single="$A [SEP]", special_tokens=[("[SEP]", sep_id)])
    assert SpecialTokens.of(ending) == SpecialTokens((), (sep_id,), (sep_id,))
    doubled = with_template(
        tokenizer, single="[CLS] [CLS] $A [SEP]",
        special_tokens=[("[CLS]", cls_id), ("[SEP]", sep_id)],
    )  # fmt: skip
    assert SpecialTokens.of(doubled).prefix == (cls_id, cls_id)


def test_without_a_template_the_frame_is_cls_and_sep():
    tokenizer = word_tokenizer()
    assert SpecialTokens.of(tokenizer) == SpecialTokens((1,), (2,), (2,))


def test_without_a_template_and_without_names_there_is_no_frame():
    tokenizer = word_tokenizer()
    tokenizer.cls_token = tokenizer.sep_token = None
    assert SpecialTokens.of(tokenizer) == SpecialTokens((), (), ())
    tokenizer.eos_token = "b"
    assert SpecialTokens.of(tokenizer) == SpecialTokens((), (6,), (6,))


def test_the_frame_is_whole_under_a_tokenizer_that_truncates_and_pads(tokenizer):
    cutting = copy.deepcopy(tokenizer)
    cutting.backend_tokenizer.enable_truncation(2)
    cutting.backend_tokenizer.enable_padding(length=8)
    assert SpecialTokens.of(cutting) == SpecialTokens.of(tokenizer)


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
