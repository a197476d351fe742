"""A store is built once, by one process, and opened by all others."""

import copy
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from damages import flip_a_bit
from filelock import FileLock
from stores import TEXTS, build, documents_of, ids_of, text_of

from mlmtune.config import SourceConfig, TokenizationConfig
from mlmtune.corpus import parts
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import ConfigError, DataError, ResourceError
from mlmtune.tokens.opening import open_store
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.store_writer import ShardWriter


def open_(corpus, tokenizer, tokenization=None, console=None, **options):
    return open_store(text_of(corpus, tokenization, console), tokenizer, **options)


# The fingerprint.


def test_a_corpus_that_was_read_is_opened_without_reading(corpus, tokenizer, monkeypatch):
    config = corpus()
    first, built = build(config, tokenizer)
    assert built
    monkeypatch.setattr(CorpusText, "read", lambda _: pytest.fail("it was read again"))
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


def test_what_decides_which_documents_are_selected_makes_another_store(corpus, tokenizer):
    config = corpus()
    domain = config.sources[0].model_copy(update={"name": "domain"})

    def selected(fraction=0.6, **settings):
        select = {"like": "domain", "fraction": fraction}
        pool = SourceConfig(format="text", path=domain.path, name="pool", select=select)
        changes = {"sources": [domain, pool], "deduplicate": False, **settings}
        return build(config.model_copy(update=changes), tokenizer)

    built = [selected(), selected(0.2), selected(validation_fraction=0.3), selected(split_seed=1)]
    assert all(is_new for _, is_new in built)
    assert len({store.directory for store, _ in built}) == 4
    assert built[0][0].num_documents > built[1][0].num_documents
    assert not selected()[1]


def test_what_changes_the_tokens_makes_another_store(
    corpus, tokenizer, byte_tokenizer, monkeypatch
):
    config = corpus()
    stores = [build(config, tokenizer)]
    stores.append(build(config, byte_tokenizer))
    grown = copy.deepcopy(tokenizer)
    grown.add_tokens(["kubernetes"])
    stores.append(build(config, grown))
    stores.append(build(config.model_copy(update={"min_characters": 25}), tokenizer))
    in_english = config.model_copy(update={"languages": ["en"]})
    stores.append(build(in_english, tokenizer))
    monkeypatch.setattr("mlmtune.corpus.optional_steps.installed_version", lambda package: "0.1")
    stores.append(build(in_english, tokenizer))

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
from mlmtune.corpus.text import CorpusText
from mlmtune.tokens import tokenization
from mlmtune.tokens.opening import find_text, open_store
from mlmtune.tokens.store_writer import ShardWriter

class TokenizerOfTheChild:
    backend_tokenizer = Tokenizer.from_file(sys.argv[2])
    unk_token_id = 1
    cls_token = sep_token = pad_token = mask_token = bos_token = eos_token = unk_token = None

append = ShardWriter.append
def append_slowly(writer, documents):
    append(writer, documents)
    print("appended", flush=True)
    time.sleep(float(sys.argv[3]))
ShardWriter.append = append_slowly
tokenization.BATCH_DOCUMENTS = 2

corpus = CorpusConfig(sources=[SourceConfig(format="text", path=sys.argv[1])])
print("ready", flush=True)
sys.stdin.readline()
text = CorpusText.of(corpus, TokenizationConfig(), Console(is_quiet=True))
store = open_store(find_text(text), TokenizerOfTheChild())
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
def test_a_damaged_store_of_the_cache_is_rebuilt_and_that_is_said(corpus, tokenizer, console, name):
    config = corpus()
    before = open_(config, tokenizer)
    ids = ids_of(before)
    flip_a_bit(before.directory / name)
    store = open_(config, tokenizer, console=console)
    assert console.lines == [
        f"{before.directory / name}: damaged; the store is rebuilt",
        "reading and tokenizing the corpus (once; the result is kept)",
    ]
    assert ids_of(store) == ids


def test_a_damaged_named_store_is_refused_until_it_is_rebuilt(corpus, tokenizer, console, tmp_path):
    config, named = corpus(), TokenizationConfig(store=str(tmp_path / "store"))
    before = ids_of(open_(config, tokenizer, named))
    flip_a_bit(tmp_path / "store" / "shard-00000" / "ids.bin")
    text = text_of(config, named, console)
    for each in (text, replace(text, listing=None)):
        with pytest.raises(DataError, match=r"ids\.bin: damaged; copy .* with `mlmtune prepare`"):
            open_store(each, tokenizer)
    assert ids_of(open_(config, tokenizer, named, console, rebuilds=True)) == before
    assert any("the store is rebuilt" in line for line in console.lines)

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
        assert "waiting for another process that builds" in line
        lock.release()
        open_(config, byte_tokenizer, named)

    console.say = build_with_another_tokenizer
    with pytest.raises(ConfigError, match="was made with another tokenizer; name another folder"):
        open_(config, tokenizer, named, console, rebuilds=rebuilds)
    assert ids_of(open_(config, byte_tokenizer, named))


def test_a_cache_that_is_taken_away_under_its_builder_is_said(
    corpus, tokenizer, token_cache, monkeypatch
):
    append = ShardWriter.append

    def append_and_lose(writer, documents):
        append(writer, documents)
        shutil.rmtree(token_cache)

    monkeypatch.setattr(ShardWriter, "append", append_and_lose)
    with pytest.raises(ResourceError, match="was deleted or moved while it was written"):
        build(corpus(), tokenizer)


def test_an_error_while_reading_leaves_no_store(corpus, tokenizer, token_cache):
    with pytest.raises(DataError, match="min_characters"):
        build(corpus(min_characters=10_000), tokenizer)
    assert not [path for path in (token_cache / "tokens").iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_made_is_said(corpus, tokenizer, token_cache):
    token_cache.write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(ResourceError, match=r"cannot be created .*cache_dir"):
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

    monkeypatch.setattr(ShardWriter, "append", no_space)
    with pytest.raises(ResourceError, match=r"No space left.*set tokenization\.cache_dir"):
        build(corpus(), tokenizer)
    with pytest.raises(ResourceError, match=r"No space left.*set tokenization\.store"):
        open_(corpus(), tokenizer, TokenizationConfig(store=str(token_cache.with_name("named"))))
    assert not list((token_cache / "tokens").glob("*/store.json"))


def test_a_full_disk_under_the_cleaned_text_is_said(corpus, tokenizer, monkeypatch, tmp_path):
    """It is in the cache, even if the store has a name."""

    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts, "to_record_batch", no_space)
    with pytest.raises(ResourceError, match=r"No space left.*set tokenization\.cache_dir"):
        open_(corpus(), tokenizer, TokenizationConfig(store=str(tmp_path / "named")))
