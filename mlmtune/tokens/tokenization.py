"""Documents -> TokenStore: each document is tokenized once, by the tokenizer's Rust threads."""

import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from filelock import FileLock
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mlmtune.config import CorpusConfig, TokenizationConfig
from mlmtune.corpus.cleaning import CLEANING_VERSION
from mlmtune.corpus.funnel import Funnel
from mlmtune.corpus.reading import KeptDocument, read_documents
from mlmtune.corpus.scanning import Listing, scan
from mlmtune.errors import ResourceError
from mlmtune.tokens.encoding import Encoder, Tokens, plain_backend
from mlmtune.tokens.store import FORMAT_VERSION, StoreWriter, TokenStore, writing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH_DOCUMENTS = 256
"""Documents handed to the tokenizer at once: enough to keep its threads busy."""
BATCH_CHARACTERS = 2_000_000
"""Characters handed over at once, more or less: the tokenizer takes 100 bytes and more for each."""
PIECE_CHARACTERS = 500_000
"""A longer document is handed over in pieces."""

SINGLE_SPACE = re.compile(r"(?<=\S)\s(?=\S)")
"""Where a text may be cut: what stands on the two sides never makes one token."""

# What decides which side a document is on is left out of the fingerprint: the store holds both
# sides, and the split is drawn when it is opened.
FIELDS_APART = {
    "validation_fraction", "split_by", "max_train_chunks", "max_validation_chunks",
}  # fmt: skip


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that frame a sequence, as the tokenizer's own template puts them.

    Attributes:
        prefix: before a sequence ([CLS]).
        suffix: after it ([SEP]).
        separator: between documents in one chunk ([SEP]); empty where the tokenizer has none.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    separator: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerFast") -> "SpecialTokens":
        """Read the frame off the tokenizer's template; else take its cls and sep tokens."""
        encoding = plain_backend(tokenizer).encode("a", add_special_tokens=True)
        is_special = np.asarray(encoding.special_tokens_mask, dtype=bool)
        body = np.flatnonzero(~is_special)
        separator_id = tokenizer.sep_token_id
        if separator_id is None:
            separator_id = tokenizer.eos_token_id
        separator = () if separator_id is None else (int(separator_id),)
        if not is_special.any():
            cls_id = tokenizer.cls_token_id
            return cls(() if cls_id is None else (int(cls_id),), separator, separator)
        return cls(tuple(encoding.ids[: body[0]]), tuple(encoding.ids[body[-1] + 1 :]), separator)


def cache_directory(config: TokenizationConfig) -> Path:
    """The folder that holds token stores, made if it is not there.

    Raises:
        ResourceError: it cannot be made or written.
    """
    default = os.environ.get("MLMTUNE_CACHE") or "~/.cache/mlmtune"
    directory = Path(config.cache_dir or default).expanduser() / "tokens"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{directory}: the token cache cannot be made ({error.strerror}); "
            "set tokenization.cache_dir or MLMTUNE_CACHE to a folder that can be written"
        ) from error
    return directory


def fingerprint(config: CorpusConfig, listing: Listing, backend: Tokenizer) -> str:
    """Name of a store: the files (paths, sizes, times), how they are read, and the tokenizer."""
    parts = [
        f"{FORMAT_VERSION}.{CLEANING_VERSION}",
        json.dumps(config.model_dump(exclude=FIELDS_APART), sort_keys=True),
        listing.signature(),
        backend.to_str(),
    ]
    return xxhash.xxh3_128_hexdigest("\0".join(parts).encode())


def open_store(
    corpus: CorpusConfig,
    tokenization: TokenizationConfig,
    tokenizer: "PreTrainedTokenizerFast",
    say: Callable[[str], None],
) -> TokenStore:
    """Open the corpus's token store; read and tokenize the corpus first if there is none yet.

    Processes that start together wait for the one that builds, on a file lock: no collective
    that times out, and nothing is left locked when the builder dies.

    Args:
        corpus: where the text is.
        tokenization: where stores are kept.
        tokenizer: a fast tokenizer.
        say: told in one line what takes time.

    Raises:
        DataError: there is no usable text.
        ResourceError: the cache cannot be written.
    """
    listing = scan(corpus)
    backend = plain_backend(tokenizer)
    name = fingerprint(corpus, listing, backend)
    directory = cache_directory(tokenization) / name
    if not directory.exists():
        try:
            with FileLock(directory.with_name(name + ".lock")):
                if not directory.exists():
                    say("reading and tokenizing the corpus (once; the result is cached)")
                    _build(directory, corpus, listing, backend)
        except OSError as error:
            raise ResourceError(
                f"{directory.parent}: the token cache cannot be written ({error.strerror}); "
                "make room, or set tokenization.cache_dir to another place"
            ) from error
    return TokenStore.open(directory)


def _build(
    directory: Path,
    corpus: CorpusConfig,
    listing: Listing,
    backend: Tokenizer,
) -> None:
    funnel = Funnel()
    largest_id = max(backend.get_vocab().values())
    with writing(directory, largest_id + 1) as writer:
        batches = _batches(read_documents(corpus, listing, funnel))
        for batch, tokens in _tokenized(batches, Encoder(backend)):
            _append(writer, batch, *tokens)
        writer.finish(funnel.to_json())


def _batches(documents: Iterator[KeptDocument]) -> Iterator[list[KeptDocument]]:
    batch: list[KeptDocument] = []
    num_characters = 0
    for kept in documents:
        batch.append(kept)
        num_characters += len(kept.document.text)
        if len(batch) == BATCH_DOCUMENTS or num_characters >= BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _tokenized(
    batches: Iterator[list[KeptDocument]], encode: Encoder
) -> Iterator[tuple[list[KeptDocument], Tokens]]:
    """Each batch with its tokens; the next is read while the Rust threads work on this one."""
    waiting: deque[tuple[list[KeptDocument], Future[Tokens]]] = deque()
    with ThreadPoolExecutor(max_workers=1) as tokenizing:
        for batch in batches:
            waiting.append((batch, tokenizing.submit(_tokenize, batch, encode)))
            if len(waiting) > 1:
                done, tokens = waiting.popleft()
                yield done, tokens.result()
        for done, tokens in waiting:
            yield done, tokens.result()


def _tokenize(batch: list[KeptDocument], encode: Encoder) -> Tokens:
    """The documents of a batch, one after the other."""
    pieces = [
        (number, piece) for number, kept in enumerate(batch) for piece in _cut(kept.document.text)
    ]
    encoded = [encode(group) for group in _groups([piece for _, piece in pieces])]
    ids, word_starts, piece_lengths = map(np.concatenate, zip(*encoded, strict=True))
    lengths = np.zeros(len(batch), dtype=np.int64)
    np.add.at(lengths, [number for number, _ in pieces], piece_lengths)
    return ids, word_starts, lengths


def _append(
    writer: StoreWriter,
    batch: list[KeptDocument],
    ids: NDArray[np.int32],
    word_starts: NDArray[np.bool_],
    lengths: NDArray[np.int64],
) -> None:
    writer.append(
        ids,
        word_starts,
        lengths,
        np.asarray([kept.content_hash for kept in batch], dtype=np.uint64),
        np.asarray([kept.validation for kept in batch], dtype=bool),
        np.asarray([len(kept.document.text) for kept in batch], dtype=np.int64),
        [(kept.document.id, kept.document.source) for kept in batch],
    )


def _cut(text: str) -> Iterator[str]:
    """A long text in pieces that give the same tokens; each but the first begins with a space."""
    start = 0
    while place := SINGLE_SPACE.search(text, start + PIECE_CHARACTERS):
        yield text[start : place.start()]
        start = place.start()
    yield text[start:]


def _groups(texts: list[str]) -> Iterator[list[str]]:
    """The texts in order, in groups that just reach BATCH_CHARACTERS."""
    group: list[str] = []
    num_characters = 0
    for text in texts:
        group.append(text)
        num_characters += len(text)
        if num_characters >= BATCH_CHARACTERS:
            yield group
            group, num_characters = [], 0
    if group:
        yield group
