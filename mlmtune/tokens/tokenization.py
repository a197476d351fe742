"""Documents -> TokenStore: each document is tokenized once, by the tokenizer's Rust threads."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import xxhash
from filelock import FileLock, Timeout
from tokenizers import Tokenizer

from mlmtune.config import CorpusConfig, TokenizationConfig
from mlmtune.console import Console
from mlmtune.corpus.cleaning import CLEANING_VERSION, count_words
from mlmtune.corpus.corpus import read_corpus
from mlmtune.corpus.document import Document
from mlmtune.corpus.funnel import with_endings_not_read
from mlmtune.corpus.listing import Listing
from mlmtune.corpus.scanning import scan
from mlmtune.errors import ConfigError, DataError, MlmtuneError, ResourceError, was_taken_away
from mlmtune.files import write_bytes
from mlmtune.integrity import Damaged
from mlmtune.locations import cache_directory, expand_home
from mlmtune.tokens.borders import Offsets
from mlmtune.tokens.encoding import Encoder, Tokens, framed, largest_id, plain_backend
from mlmtune.tokens.pieces import cut
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.store_format import (
    FORMAT_VERSION,
    DocumentArrays,
    check_free,
    is_finished,
    read_manifest,
)
from mlmtune.tokens.store_writer import StoreWriter, TokenizedDocuments
from mlmtune.tokens.unknown import UnknownText, UnknownTextFinder, unknown_token_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

T = TypeVar("T")

BATCH_DOCUMENTS = 256
"""Documents handed to the tokenizer at once: enough to keep its threads busy."""
BATCH_CHARACTERS = 2_000_000
"""Characters of documents that wait for the tokenizer, more or less."""

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
        encoding = framed(tokenizer)
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


@dataclass(frozen=True)
class Ingredients:
    """What a store is made of, found out before it is opened or built.

    Attributes:
        listing: the text.
        made_of: what the store follows from, by name; `fingerprint` sums it up.
    """

    listing: Listing
    made_of: dict[str, str]

    @property
    def name(self) -> str:
        """Names the store within the cache.

        Files of two folders may have the same names, sizes and times by chance; in the cache they
        are told apart.
        """
        return _digest(self.made_of["fingerprint"] + self.listing.place())


def describe(config: CorpusConfig, listing: Listing, backend: Tokenizer) -> Ingredients:
    """What a store of this text follows from: files (paths, sizes, times), settings, tokenizer."""
    apart = set(FIELDS_APART)
    if config.near_duplicates is not None:
        apart -= {"validation_fraction", "split_by"}  # they say which near-duplicate stays
    elif all(
        source.max_documents is None for source in (*config.sources, *config.validation_sources)
    ):
        apart.add("split_seed")
    if not config.exclude_overlap_with:
        apart.add("overlap_words")
    sections = config.model_dump(exclude=apart)
    for section in ("sources", "validation_sources", "exclude_overlap_with"):
        for source in sections[section]:
            del source["weight"], source["license"]
            if config.near_duplicates is None:
                del source["replay"]  # else it says which near-duplicate stays
    made_of = {
        "format": f"{FORMAT_VERSION}.{CLEANING_VERSION}",
        "corpus": _digest(json.dumps(sections, sort_keys=True)),
        "text": listing.signature(),
        "tokenizer": _digest(backend.to_str()),
    }
    made_of["fingerprint"] = _digest("\0".join(made_of.values()))
    return Ingredients(listing, made_of)


def _digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def list_text(
    corpus: CorpusConfig,
    tokenization: TokenizationConfig,
    console: Console,
    *,
    is_needed: bool = False,
    refresh: bool = False,
) -> Listing | None:
    """What the corpus is made of; repositories are fetched into the cache.

    Args:
        corpus: where the text is.
        tokenization: where things are kept.
        console: shows what takes time.
        is_needed: a finished store does not do in its place.
        refresh: look up again where branches are.

    Returns:
        None if the text is not to be reached and `tokenization.store` is there, so that it has to
        do as it is: a machine may have the store alone.

    Raises:
        MlmtuneError: the text is not to be reached; see `scanning.scan`.
    """
    cache = cache_directory(tokenization.cache_dir, "git")
    try:
        return scan(corpus, cache, console.say, refresh=refresh)
    except MlmtuneError as error:
        store = _named_store(tokenization)
        if store is None or not is_finished(store) or is_needed:
            raise
        console.say(f"using {store} as it is; the text cannot be looked at here ({error})")
        return None


def _named_store(tokenization: TokenizationConfig) -> Path | None:
    return None if tokenization.store is None else expand_home(tokenization.store)


def open_store(
    corpus: CorpusConfig,
    tokenization: TokenizationConfig,
    tokenizer: "PreTrainedTokenizerFast",
    listing: Listing | None,
    console: Console,
    *,
    rebuilds: bool = False,
) -> TokenStore:
    """Open the corpus's token store; read and tokenize the corpus first if there is none yet.

    Processes that start together wait for the one that builds, on a file lock: no collective
    that times out, and nothing is left locked when the builder dies.

    Args:
        corpus: how the text is read.
        tokenization: where stores are kept.
        tokenizer: a fast tokenizer.
        listing: the text, from `list_text`.
        console: shows what takes time.
        rebuilds: make the store that `tokenization.store` names anew where it was made with other
            settings or another tokenizer, rather than refuse it.

    Raises:
        DataError: there is no usable text, or the store is damaged.
        ConfigError: the store that `tokenization.store` names does not fit the config.
        ResourceError: the cache cannot be written.
    """
    backend = plain_backend(tokenizer)
    ingredients = describe(corpus, listing or Listing(()), backend)
    cache = cache_directory(tokenization.cache_dir, "tokens")
    notes = cache_directory(tokenization.cache_dir, "verified")
    named = _named_store(tokenization)
    if named is None:
        place = _Place(cache / ingredients.name, notes, may_replace=True)
    else:
        check_free(named)
        place = _Place(named, notes, may_replace=rebuilds)
    if listing is None:
        _check_fits(place.directory, ingredients)
        return TokenStore.open(place.directory, notes)
    store = _usable(place, ingredients, say=lambda _: None)  # it is said once it is built
    if store is None:
        store = _build_once(place, corpus, tokenization, ingredients, tokenizer, console)
    # A file that is not read makes no other store, and may have come after it was made.
    endings = {source.name: source.endings_not_read for source in listing.sources}
    return replace(store, funnel=with_endings_not_read(store.funnel, endings))


@dataclass(frozen=True)
class _Place:
    """Where a store is or will be.

    Attributes:
        directory: of the store.
        notes: where it is noted that its files were verified.
        may_replace: a store that does not fit, or is damaged, is made anew rather than refused.
    """

    directory: Path
    notes: Path
    may_replace: bool


def _usable(
    place: _Place, ingredients: Ingredients, say: Callable[[str], None]
) -> TokenStore | None:
    """The store, if there is one that fits; None if it is to be built.

    Args:
        place: where it is.
        ingredients: what it has to be made of.
        say: takes a line if there is one that is damaged.

    Raises:
        DataError: there is one that is damaged, and it may not be replaced.
        ConfigError: there is one that does not fit, and it may not be replaced.
    """
    if not is_finished(place.directory):
        return None
    try:
        if not place.may_replace:
            _check_fits(place.directory, ingredients)
        if read_manifest(place.directory)["made_of"] == ingredients.made_of:
            return TokenStore.open(place.directory, place.notes)
    except Damaged as error:
        if not place.may_replace:
            raise
        say(f"{error.what}; the store is made anew")
    return None


def _check_fits(directory: Path, wanted: Ingredients) -> None:
    """Refuse a named store that other settings made. It may have taken hours to make.

    Raises:
        ConfigError: it does not fit.
    """
    made_of = read_manifest(directory)["made_of"]
    names = {
        "format": "another version of mlmtune",
        "corpus": "another corpus section",
        "tokenizer": "another tokenizer",
    }
    for name, what in names.items():
        if made_of[name] != wanted.made_of[name]:
            raise ConfigError(
                f"tokenization.store: {directory} was made with {what}; name another folder, or "
                "make it anew by `mlmtune prepare`"
            )


def _build_once(
    place: _Place,
    corpus: CorpusConfig,
    tokenization: TokenizationConfig,
    ingredients: Ingredients,
    tokenizer: "PreTrainedTokenizerFast",
    console: Console,
) -> TokenStore:
    """Build the store, unless another process has done so by the time the lock is free."""
    directory = place.directory
    before = _made_of(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _holding_lock(directory, console):
            made_meanwhile = _made_of(directory)
            if made_meanwhile != before and made_meanwhile != ingredients.made_of:
                # Another process has just made it, and may be reading it.
                _check_fits(directory, ingredients)
            store = _usable(place, ingredients, console.say)
            if store is None:
                _say_why(directory, ingredients, console)
                _build(directory, corpus, tokenization, ingredients, tokenizer, console)
                store = TokenStore.open(directory, place.notes)
            return store
    except OSError as error:
        what = f"{error.filename or directory.parent}: the token cache"
        if was_taken_away(error):
            raise ResourceError(
                f"{what} was deleted or moved while it was written; start again"
            ) from error
        why = os.strerror(error.errno) if error.errno else error
        raise ResourceError(
            f"{what} cannot be written ({why}); make room, or set tokenization.cache_dir to "
            "another place"
        ) from error


@contextmanager
def _holding_lock(directory: Path, console: Console) -> Iterator[None]:
    """Hold the lock of those who build a store; a process that has to wait says so."""
    lock = FileLock(directory.with_name(directory.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.say(f"waiting for another process, which builds {directory}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _made_of(directory: Path) -> dict[str, str] | None:
    """What the store that is there was made of; None where there is none that can be read."""
    try:
        made_of: dict[str, str] = read_manifest(directory)["made_of"]
    except DataError:
        return None
    return made_of


def _say_why(directory: Path, ingredients: Ingredients, console: Console) -> None:
    """Say that the corpus is read, and whether its text has changed since it last was."""
    made_of = ingredients.made_of
    # Stores in the cache are named by their text: what was made last of these settings is noted.
    settings = _digest(made_of["corpus"] + made_of["tokenizer"])
    latest = directory.with_name(f"latest-{settings}.txt")
    last = latest.read_text(encoding="utf-8") if latest.exists() else made_of["text"]
    if (here := _made_of(directory)) is not None:
        last = here["text"]
    if last != made_of["text"]:
        console.say("the text has changed since it was last read")
    console.say("reading and tokenizing the corpus (once; the result is kept)")
    if directory.name == ingredients.name:
        write_bytes(latest, made_of["text"].encode(), shared=True)


def _build(
    directory: Path,
    corpus: CorpusConfig,
    tokenization: TokenizationConfig,
    ingredients: Ingredients,
    tokenizer: "PreTrainedTokenizerFast",
    console: Console,
) -> None:
    """Build the store; parts of the cleaned corpus that turn out to be damaged are made anew."""
    made_anew: set[Path] = set()
    while True:
        try:
            _write(directory, corpus, tokenization, ingredients, tokenizer, console)
        except Damaged as error:
            if error.path in made_anew:
                raise
            console.say(f"{error.what}; it is made anew")
            error.path.unlink(missing_ok=True)
            made_anew.add(error.path)
        else:
            return


def _write(
    directory: Path,
    corpus: CorpusConfig,
    tokenization: TokenizationConfig,
    ingredients: Ingredients,
    tokenizer: "PreTrainedTokenizerFast",
    console: Console,
) -> None:
    """Go on with the store after what is finished of it."""
    backend = plain_backend(tokenizer)
    cleaned = cache_directory(tokenization.cache_dir, "cleaned")
    texts = read_corpus(corpus, ingredients.listing, cleaned, console)
    writer = StoreWriter(
        directory,
        vocabulary_size=largest_id(backend) + 1,
        sources=[(source.name, source.validation) for source in texts.sources],
        made_of=ingredients.made_of,
    )
    encode = Encoder(backend)
    finder = UnknownTextFinder(backend, unknown_token_id(tokenizer))
    start = writer.num_documents
    total = texts.funnel.total()
    with console.bar(
        total=total.documents_kept, initial=start, unit="document", what="tokenizing"
    ) as bar:
        tokenize = partial(_tokenize, encode=encode, finder=finder)
        for batch, (tokens, unknown) in _tokenized(batches(texts.documents(start)), tokenize):
            writer.append(_documents_with_tokens(batch, tokens, unknown))
            bar.update(len(batch))
    writer.finish(texts.funnel.to_json())


def batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """The documents in groups that are worth handing over to the tokenizer."""
    batch: list[Document] = []
    num_characters = 0
    for document in documents:
        batch.append(document)
        num_characters += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or num_characters >= BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _tokenized(
    batches: Iterator[list[Document]], tokenize: Callable[[list[Document]], T]
) -> Iterator[tuple[list[Document], T]]:
    """Each batch with its tokens; the next is read while the Rust threads work on this one."""
    waiting: deque[tuple[list[Document], Future[T]]] = deque()
    with ThreadPoolExecutor(max_workers=1) as tokenizing:
        for batch in batches:
            waiting.append((batch, tokenizing.submit(tokenize, batch)))
            if len(waiting) > 1:
                done, tokens = waiting.popleft()
                yield done, tokens.result()
        for done, tokens in waiting:
            yield done, tokens.result()


def _tokenize(
    batch: list[Document], encode: Encoder, finder: UnknownTextFinder
) -> tuple[Tokens, UnknownText]:
    """The documents of a batch, one after the other, and what of them is unknown."""
    ids, word_starts = bytearray(), bytearray()  # they grow in place, and are large
    lengths, unknown = np.zeros(len(batch), np.int64), UnknownText.none(len(batch))
    for group in cut((document.text for document in batch), encode.cutter):
        numbers = [piece.number for piece in group]
        found_ids, found_starts, piece_lengths = encode([piece.text for piece in group])
        ids += found_ids.data
        word_starts += found_starts.data
        np.add.at(lengths, numbers, piece_lengths)
        is_unknown = np.split(finder.tokens(found_ids), np.cumsum(piece_lengths)[:-1])
        # Only pieces that have unknown tokens are encoded again.
        concerned = [number for number, of_piece in enumerate(is_unknown) if of_piece.any()]
        offsets = encode.offsets([group[number].text for number in concerned])
        for number, of_piece in zip(concerned, offsets, strict=True):
            piece, places = group[number], (side[is_unknown[number]] for side in of_piece)
            finder.count(unknown, piece.number, piece.text, Offsets(*places))
    tokens = (np.frombuffer(ids, encode.dtype), np.frombuffer(word_starts, bool), lengths)
    return tokens, unknown


def _num_bytes(text: str) -> int:
    """The length of a text in UTF-8."""
    if text.isascii():
        return len(text)
    slices = range(0, len(text), BATCH_CHARACTERS)
    return sum(len(text[start : start + BATCH_CHARACTERS].encode()) for start in slices)


def offsets_of(texts: list[str], encode: Encoder) -> Iterator[tuple[int, Offsets]]:
    """Where the tokens of each text are in it, a piece of a text at a time.

    Yields:
        The number of the text, and the offsets of the tokens of its next piece.
    """
    for group in cut(texts, encode.cutter):
        for piece, offsets in zip(group, encode.offsets([p.text for p in group]), strict=True):
            yield piece.number, Offsets(*(side + piece.begin for side in offsets))


def _documents_with_tokens(
    batch: list[Document], tokens: Tokens, unknown: UnknownText
) -> TokenizedDocuments:
    ids, word_starts, lengths = tokens
    arrays = DocumentArrays(
        lengths,
        content_hashes=np.asarray([document.content_hash for document in batch], dtype=np.uint64),
        num_characters=np.asarray([len(document.text) for document in batch], dtype=np.int64),
        num_bytes=np.asarray([_num_bytes(document.text) for document in batch], dtype=np.int64),
        num_text_words=np.asarray([count_words(document.text) for document in batch], np.int64),
        num_unknown_tokens=unknown.num_tokens,
        num_unknown_bytes=unknown.num_bytes,
        num_unknown_words=unknown.num_words,
        sources=np.asarray([document.source for document in batch], dtype=np.uint16),
    )
    document_ids = [document.id for document in batch]
    return TokenizedDocuments(ids, word_starts, arrays, document_ids, unknown.characters)
