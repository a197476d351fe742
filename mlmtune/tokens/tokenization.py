"""Writes the documents of a text into a token store; each is tokenized once, by Rust threads."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlmtune.corpus.cleaning import count_words
from mlmtune.corpus.document import Document
from mlmtune.corpus.text import CorpusText
from mlmtune.tokens.borders import Offsets
from mlmtune.tokens.encoding import Encoder, largest_id, plain_backend
from mlmtune.tokens.pieces import cut
from mlmtune.tokens.store_format import DocumentArrays
from mlmtune.tokens.store_writer import StoreWriter, TokenizedDocuments
from mlmtune.tokens.unknown import UnknownText, UnknownTextFinder, unknown_token_id
from mlmtune.tokens.word_cache import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH_DOCUMENTS = 256
"""The most documents in a batch for the tokenizer: enough to keep its threads busy."""
BATCH_CHARACTERS = 2_000_000
"""The number of characters at which a batch ends."""
VERIFIED_CHARACTERS = 500
"""The characters of each document of the first batch on which `Encoder.verify_words` looks."""


def write_store(
    directory: Path,
    text: CorpusText,
    made_of: dict[str, str],
    tokenizer: "PreTrainedTokenizerFast",
) -> None:
    """Tokenize a listed text into a store; an interrupted one with the same `made_of` is continued.

    Args:
        directory: The folder that the store will be in.
        text: The text.
        made_of: What the content of the store depends on.
        tokenizer: A fast tokenizer.
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
    total = corpus.funnel.total().documents_kept
    with text.console.bar(total=total, initial=start, unit="document", what="tokenizing") as bar:
        tokenize = partial(tokenize_batch, encode=encode, finder=finder)
        documents_read = _verified(batches(corpus.documents(start)), encode, text.console.say)
        for documents in _tokenized(documents_read, tokenize):
            writer.append(documents)
            bar.update(len(documents.document_ids))
    writer.finish(corpus.funnel.to_json())


def _verified(
    batches: Iterator[list[Document]], encode: Encoder, say: Callable[[str], None]
) -> Iterator[list[Document]]:
    """Yield the batches; before the first, verify that words can be encoded one by one."""
    for number, batch in enumerate(batches):
        beginnings = [document.text[:VERIFIED_CHARACTERS] for document in batch]
        if number == 0 and not encode.verify_words(beginnings):
            say(
                "the tokenizer's tokens of a word depend on the words beside it, so each document "
                "is tokenized as a whole, which is slower"
            )
        yield batch


def batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Yield the documents in groups that are large enough for the tokenizer's threads."""
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
    batches: Iterator[list[Document]],
    tokenize: Callable[[list[Document]], tuple[Tokens, UnknownText]],
) -> Iterator[TokenizedDocuments]:
    """Tokenize batches; the next is read while the tokenizer's Rust threads work on this one."""
    waiting: deque[tuple[list[Document], Future[tuple[Tokens, UnknownText]]]] = deque()
    with ThreadPoolExecutor(max_workers=1) as executor:  # the tokenizer has threads of its own
        for batch in batches:
            waiting.append((batch, executor.submit(tokenize, batch)))
            if len(waiting) > 1:
                done, tokens = waiting.popleft()
                yield _with_tokens(done, *tokens.result())
        for done, tokens in waiting:
            yield _with_tokens(done, *tokens.result())


def tokenize_batch(
    batch: list[Document], encode: Encoder, finder: UnknownTextFinder
) -> tuple[Tokens, UnknownText]:
    """Return the tokens of some documents, one document after the other, and their unknown text."""
    ids, word_starts = bytearray(), bytearray()  # they grow in place, and are large
    lengths, unknown = np.zeros(len(batch), np.int64), UnknownText.none(len(batch))
    for group in cut((document.text for document in batch), encode.cutter):
        numbers = [piece.number for piece in group]
        group_ids, group_starts, piece_lengths = encode([piece.text for piece in group])
        ids += group_ids.data
        word_starts += group_starts.data
        np.add.at(lengths, numbers, piece_lengths)
        is_unknown = np.split(finder.tokens(group_ids), np.cumsum(piece_lengths)[:-1])
        # Only what has unknown tokens is encoded again.
        concerned = [
            (piece.number, *encode.excerpt(piece.text, mask))
            for piece, mask in zip(group, is_unknown, strict=True)
            if mask.any()
        ]
        all_offsets = encode.offsets([text for _, text, _ in concerned])
        for (number, text, mask), (starts, ends) in zip(concerned, all_offsets, strict=True):
            finder.count(unknown, number, text, Offsets(starts[mask], ends[mask]))
    return (np.frombuffer(ids, encode.dtype), np.frombuffer(word_starts, bool), lengths), unknown


def _num_bytes(text: str) -> int:
    """Return the length of a text in UTF-8."""
    if text.isascii():
        return len(text)
    # In slices, because encoding a long text at once would copy all of it.
    slices = range(0, len(text), BATCH_CHARACTERS)
    return sum(len(text[start : start + BATCH_CHARACTERS].encode()) for start in slices)


def offsets_of(texts: list[str], encode: Encoder) -> Iterator[tuple[int, Offsets]]:
    """Yield the number of each text with the offsets of its tokens, one piece at a time."""
    for group in cut(texts, encode.cutter):
        for piece, offsets in zip(group, encode.offsets([p.text for p in group]), strict=True):
            yield piece.number, Offsets(*(side + piece.begin for side in offsets))


def _with_tokens(batch: list[Document], tokens: Tokens, unknown: UnknownText) -> TokenizedDocuments:
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
