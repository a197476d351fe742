"""What the tests share: a tiny tokenizer, tiny models and a small corpus, all made here."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Before transformers is imported: no test may look for a network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Before torch is: tiny models are slower on several threads, on a busy machine by far.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch  # first, since commands that need none hide it where it is not loaded
import yaml
from hypothesis import settings
from local_hub import TOKEN, LocalHub, serving
from vocabulary import VOCABULARY, WORDS

# A shell's background job and nohup ignore signals, and so would the children of the tests.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

pytest.register_assert_rewrite("runs", "tasks")

ALONE = "MLMTUNE_TEST_ALONE"
"""The environment variable of a process that runs one test, which is marked `own_process`."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked `own_process` in a process of its own."""
    if pyfuncitem.get_closest_marker("own_process") is None or ALONE in os.environ:
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", pyfuncitem.nodeid]
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, ALONE: "1"},
        cwd=pyfuncitem.config.rootpath,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return True


settings.register_profile("mlmtune", deadline=None, max_examples=50)
settings.load_profile("mlmtune")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A fast WordPiece tokenizer of some 170 tokens with BERT's template."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: id_ for id_, token in enumerate(VOCABULARY)}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(t, vocabulary[t]) for t in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=64,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """A byte-level BPE tokenizer with RoBERTa's template: <s> ... </s>, and <mask>."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", special.index("</s>")), ("<s>", special.index("<s>"))
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=64,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


@pytest.fixture(scope="session")
def unigram_tokenizer() -> Any:
    """A Unigram tokenizer as of SentencePiece, its pieces with their spaces; ALBERT's template."""
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    pieces = dict.fromkeys(special, 0.0)
    pieces |= {f"\u2581{word}": -6.0 for word in WORDS}
    pieces |= dict.fromkeys(["s", "ed", "ing", "er", "ly", "\u2581", ".", ",", ":", ";", "-"], -8.0)
    pieces |= dict.fromkeys("abcdefghijklmnopqrstuvwxyz0123456789[]", -12.0) | {
        "s": -8.0,
        "\u2581a": -6.0,
    }
    backend = Tokenizer(Unigram(list(pieces.items()), unk_id=special.index("<unk>")))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, special.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=64,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token=AddedToken("[MASK]", lstrip=True),
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def make_store() -> Callable[..., Any]:
    """Builds a token store in memory from the ids of each document."""
    import numpy as np

    from mlmtune.tokens.store import StoredSource, TokenStore
    from mlmtune.tokens.store_format import DocumentArrays, Shard
    from mlmtune.tokens.sums import count_by_document, sum_by_source

    def make(
        documents: Sequence[Sequence[int]],
        word_starts: Sequence[bool] | None = None,
        sources: Sequence[int] | None = None,
    ) -> TokenStore:
        ids = np.asarray([id_ for document in documents for id_ in document], dtype=np.uint16)
        starts = np.ones(len(ids), bool) if word_starts is None else np.asarray(word_starts, bool)
        lengths = np.asarray([len(document) for document in documents], dtype=np.int64)
        document_sources = np.asarray(sources or [0] * len(documents), dtype=np.uint16)
        sizes = np.bincount(document_sources, weights=lengths, minlength=1)
        words = sum_by_source(count_by_document(starts, lengths), document_sources, len(sizes))
        return TokenStore(
            shards=(Shard(ids, np.packbits(starts)),),
            documents=DocumentArrays(
                lengths,
                content_hashes=np.arange(len(documents), dtype=np.uint64),
                num_characters=5 * lengths,
                num_bytes=6 * lengths,
                num_text_words=lengths // 2,
                num_unknown_tokens=0 * lengths,
                num_unknown_bytes=0 * lengths,
                num_unknown_words=0 * lengths,
                title_lengths=0 * lengths,
                sources=document_sources,
            ),
            unknown_characters={},
            sources=tuple(
                StoredSource(f"source {number}", False, int(size), 0, int(num_words))
                for number, (size, num_words) in enumerate(zip(sizes, words, strict=True))
            ),
            funnel={},
            made_of={"fingerprint": "made in memory"},
            directory=Path("nowhere"),
            num_documents_of_shards=(len(documents),),
        )

    return make


def save_tiny_bert(folder: Path, tokenizer: Any, class_name: str) -> Path:
    """Write a BERT of two layers with random weights and no dropout; 64 positions."""
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )
    getattr(transformers, class_name)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_dir(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with a head for masked words."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    return save_tiny_bert(folder, tokenizer, "BertForMaskedLM")


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty text files of 30 to 60 words each, drawn from the tokenizer's words."""
    import random

    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for number in range(40):
        words = draw.choices(WORDS, k=draw.randint(30, 60))
        (folder / f"{number:02}.txt").write_text(" ".join(words) + ".\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_models(
    tokenizer: Any, byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Gives the folder of a tiny model by its family."""
    from trials import TinyModels

    return TinyModels(tmp_path_factory.mktemp("families"), tokenizer, byte_tokenizer)


@pytest.fixture(scope="session")
def byte_model_dir(byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT whose tokenizer is a byte-level BPE."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bytes"
    return save_tiny_bert(folder, byte_tokenizer, "BertForMaskedLM")


@pytest.fixture(scope="session")
def pair_model_dir(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with heads for masked words and for pairs."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert-of-pairs"
    return save_tiny_bert(folder, tokenizer, "BertForPreTraining")


@pytest.fixture(scope="session")
def sentences_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty text files of 3 to 9 sentences, each file about a few words of its own."""
    import random

    folder = tmp_path_factory.mktemp("sentences")
    draw = random.Random(1)
    for number in range(40):
        words = draw.sample(WORDS, k=4)
        sentences = [
            " ".join(draw.choices(words, k=draw.randint(3, 6))).capitalize() + "."
            for _ in range(draw.randint(3, 9))
        ]
        (folder / f"{number:02}.txt").write_text(" ".join(sentences) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def view_of(make_store: Any, tokenizer: Any) -> Callable[..., Any]:
    """A view of whole documents, which are lists of ids and may have a title."""
    from dataclasses import replace

    import numpy as np

    from mlmtune.config import ChunkingConfig
    from mlmtune.tokens.chunking import ChunkView
    from mlmtune.tokens.special_tokens import SpecialTokens

    def view(documents: Sequence[Sequence[int]], titles: Sequence[int] | None = None) -> ChunkView:
        store = make_store(documents)
        lengths = np.asarray(titles or [0] * len(documents), dtype=np.int64)
        store = replace(store, documents=replace(store.documents, title_lengths=lengths))
        config, special = ChunkingConfig(chunk_length=16), SpecialTokens.of(tokenizer)
        return ChunkView.of(store, np.arange(len(documents)), config, special, 0)

    return view


@pytest.fixture(scope="session")
def drawn() -> Callable[..., list[list[int]]]:
    """Documents of random ids, which have no five tokens in common."""

    def draw(num_documents: int, length: int = 80, seed: int = 0) -> list[list[int]]:
        import numpy as np

        ids = np.random.default_rng(seed).integers(5, 60, (num_documents, length))
        return list(ids.tolist())

    return draw


@pytest.fixture
def pages(tmp_path: Path) -> dict[str, Any]:
    """The section `corpus` of sixty pages with titles, of which half are validated on."""
    import random

    folder = tmp_path / "pages"
    folder.mkdir()
    draw = random.Random(0)
    for number in range(60):
        title, body = draw.choices(WORDS, k=4), draw.choices(WORDS, k=40)
        text = f"{' '.join(title)}\n\n{' '.join([*title[::-1], *body])}."
        (folder / f"{number:02}.txt").write_text(text, encoding="utf-8")
    sources = [{"format": "text", "path": str(folder)}]
    return {"sources": sources, "validation_fraction": 0.5}


@pytest.fixture(autouse=True)
def token_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has a token cache of its own."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("MLMTUNE_CACHE", str(cache))
    return cache


@pytest.fixture(scope="module", autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """No module inherits Accelerate's state, which a command that fails leaves as it is."""
    yield
    if "accelerate.state" in sys.modules:
        state = sys.modules["accelerate.state"]
        state.AcceleratorState._reset_state(True)
        state.PartialState._reset_state()


@pytest.fixture
def console() -> Any:
    """A console that keeps what is said, in `lines`."""
    from mlmtune.console import Console

    class Listener(Console):
        def __init__(self) -> None:
            super().__init__(is_quiet=True)
            self.lines: list[str] = []

        def say(self, line: str) -> None:
            self.lines.append(line)

    return Listener()


@pytest.fixture
def config_file(tmp_path: Path, model_dir: Path, corpus_dir: Path) -> Callable[..., Path]:
    """Writes a config for a run of a few small steps; arguments are sections that replace keys."""

    def write(name: str = "config.yaml", **sections: Any) -> Path:
        config: dict[str, Any] = {
            "run": {"output_dir": str(tmp_path / "run")},
            "model": {"name_or_path": str(model_dir)},
            "corpus": {
                "sources": [{"format": "text", "path": str(corpus_dir)}],
                "validation_fraction": 0.2,
            },
            "chunking": {"chunk_length": 16},
            "optimizer": {"learning_rate": 0.001},
            "training": {
                "max_steps": 6, "global_batch_size": 8, "precision": "fp32", "log_every": 1,
            },
            # Two draws of masks, which is not the default: eight would take longer.
            "evaluation": {"every": 3, "mask_draws": 2},
            "checkpoint": {"every": 2},
        }  # fmt: skip
        for section, values in sections.items():
            if isinstance(values, dict):
                config.setdefault(section, {}).update(values)
            else:
                config[section] = values
        path = tmp_path / name
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    return write


@pytest.fixture
def domain(tmp_path: Path) -> dict[str, Any]:
    """Sections of a config whose text has words that the tokenizer cuts into pieces."""
    words = ["kubernetes", "kubectl", "namespaces", "ingress"]
    folder = tmp_path / "domain"
    folder.mkdir()
    for number in range(40):
        named = " and ".join(words[: 2 + number % 3])
        line = f"page {number} deploys {named} to the cluster of the storage account.\n"
        (folder / f"{number}.txt").write_text(4 * line, encoding="utf-8")
    return {"corpus": {"sources": [{"format": "text", "path": str(folder)}]}}


@pytest.fixture
def pair_sections(pair_model_dir: Path, sentences_dir: Path) -> dict[str, Any]:
    """What makes a config one of next-sentence prediction."""
    return {
        "objective": "mlm+nsp",
        "model": {"name_or_path": str(pair_model_dir)},
        "corpus": {"sources": [{"format": "text", "path": str(sentences_dir)}]},
        "chunking": {"chunk_length": 32},
    }


@pytest.fixture
def runs(tmp_path: Path, config_file: Callable[..., Path]) -> Any:
    """Runs in this process, each in a folder of its own."""
    from runs import Runs

    return Runs(tmp_path, config_file)


@pytest.fixture
def tasks(tmp_path: Path, model_dir: Path) -> Any:
    from tasks import Tasks

    return Tasks(tmp_path, model_dir)


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    """A hub on the loopback."""
    with serving() as local:
        yield local


@pytest.fixture
def here(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """The hub of this process, which does not wait between attempts."""
    from huggingface_hub import constants

    from mlmtune.sharing import hub_repository

    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    downloads = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", downloads)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub_repository, "WAITS_SECONDS", (0.0, 0.0))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub
