"""Documents -> TokenStore: each document is tokenized once, by the tokenizer's Rust threads."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mlmtune.corpus.cleaning import count_words
from mlmtune.corpus.document import Document
from mlmtune.corpus.text import CorpusText
from mlmtune.tokens.borders import Offsets
from mlmtune.tokens.encoding import Encoder, Tokens, largest_id, plain_backend
from mlmtune.tokens.pieces import cut
from mlmtune.tokens.store_format import DocumentArrays
from mlmtune.tokens.store_writer import StoreWriter, TokenizedDocuments
from mlmtune.tokens.unknown import UnknownText, UnknownTextFinder, unknown_token_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

T = TypeVar("T")

BATCH_DOCUMENTS = 256
"""Documents handed to the tokenizer at once: enough to keep its threads busy."""
BATCH_CHARACTERS = 2_000_000
"""Characters of documents that wait for the tokenizer, more or less."""


def write_store(
    directory: Path,
    text: CorpusText,
    made_of: dict[str, str],
    tokenizer: "PreTrainedTokenizerFast",
) -> None:
    """Tokenize a text into a store; a store that was begun is continued.

    Args:
        directory: where the store will be.
        text: the listed text.
        made_of: what the store is made of; one that was begun with another is begun again.
        tokenizer: a fast tokenizer.
    """
    backend = plain_backend(tokenizer)
    corpus = text.read()
    writer = StoreWriter(
        directory,
        vocabulary_size=largest_id(backend) + 1,
        sources=[(source.name, source.is_validation) for source in corpus.sources],
        made_of=made_of,
    )
    encode = Encoder(backend)
    finder = UnknownTextFinder(backend, unknown_token_id(tokenizer))
    start = writer.num_documents
    total = corpus.funnel.total()
    with text.console.bar(
        total=total.documents_kept, initial=start, unit="document", what="tokenizing"
    ) as bar:
        tokenize = partial(_tokenize, encode=encode, finder=finder)
        for batch, (tokens, unknown) in _tokenized(batches(corpus.documents(start)), tokenize):
            writer.append(_documents_with_tokens(batch, tokens, unknown))
            bar.update(len(batch))
    writer.finish(corpus.funnel.to_json())


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
