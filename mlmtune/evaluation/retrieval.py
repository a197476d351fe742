"""Retrieval without labels: does an encoder find the page that a title belongs to?

Perplexity says how well a model predicts words, and not what its embeddings are good for. So each
validation document becomes a query and its target: its title and its body, or else the beginning of
its first half and of its second half. The targets of all documents are ranked by their cosine to
each query (Thakur et al. 2021, "BEIR", for the measures). As in sentence-transformers, the
embedding of a text is the mean of its last hidden states, or the first of them.

Legend: N documents of the pool, H hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar, Self

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch.nn import functional

from mlmtune.config import CorpusConfig, EvaluationConfig
from mlmtune.corpus.ngrams import distinct, ngram_hashes
from mlmtune.errors import DataError, DivergedError
from mlmtune.evaluation.scoring import FittingBatches, Numbers, any_should_stop
from mlmtune.modeling.evaluation_mode import in_evaluation_mode
from mlmtune.modeling.loading import LoadedModel
from mlmtune.numbers import share
from mlmtune.randomness import key, mix, permute
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.special_tokens import SpecialTokens
from mlmtune.tokens.splits import Splits

POOL_STREAM = 0xE7A4
"""Separates the choice of the pool from the other uses of `evaluation.seed`."""

MOST_DOCUMENTS = 300
"""The size of the pool, so that it costs little beside the perplexity of the same documents."""
FEWEST_DOCUMENTS = 20
"""In a smaller pool, chance alone would find a page among ten half of the time."""
FEWEST_WORDS = 32
"""A shorter document has too little text beside a title. Words, because they are the same for every
tokenizer, so that models with different ones get the same pool."""
MOST_TOKENS = 128
"""A query and a target are cut to this many tokens, special tokens included."""

SHINGLE_TOKENS = 5
SAME_SHARE = 0.5
"""Two targets that share half of the token 5-grams of the shorter one are nearly the same."""

GROUP_SEQUENCES = 32
"""The sequences that are embedded at once. A constant, because the last bits of an embedding depend
on it, and nothing that is measured may depend on `evaluation.batch_size`."""


@dataclass(frozen=True)
class RetrievalPool:
    """The queries and targets of some validation documents; they have the same order.

    Attributes:
        documents: (N,) The numbers of the documents in their store.
        queries: N arrays of ids, without special tokens.
        targets: N arrays of ids, without special tokens. A target does not begin with its query.
        set_aside: (N, N) The targets that are not ranked for a query, because they nearly equal its
            target, or because their own query is the same. To find one of them is no error.
        num_titles: How many queries are titles; the others are halves of their documents.
    """

    documents: Numbers
    queries: tuple[NDArray[np.int64], ...]
    targets: tuple[NDArray[np.int64], ...]
    set_aside: NDArray[np.bool_]
    num_titles: int

    @classmethod
    def of(cls, view: ChunkView, seed: int, max_tokens: int) -> Self:
        """Choose documents of a view of whole documents, and cut them.

        Args:
            view: The validation text.
            seed: `evaluation.seed`.
            max_tokens: The tokens of the longest query or target, without special tokens.

        Raises:
            DataError: The view has too few documents of enough words.
        """
        documents = view.layout.documents
        usable = documents[view.store.documents.num_text_words[documents] >= FEWEST_WORDS]
        if len(usable) < FEWEST_DOCUMENTS:
            raise DataError(
                f"retrieval cannot be measured: it takes {FEWEST_DOCUMENTS} validation documents "
                f"of {FEWEST_WORDS} words or more, and this text has {len(usable)}; add documents, "
                "or raise corpus.validation_fraction"
            )
        order = permute(np.arange(len(usable)), len(usable), key(seed, POOL_STREAM))
        chosen = np.sort(usable[order[:MOST_DOCUMENTS]])
        queries, targets = zip(*(_cut(view, int(n), max_tokens) for n in chosen), strict=True)
        return cls(
            chosen, queries, targets,
            set_aside=_same(queries) | _nearly_same(targets),
            num_titles=int((view.store.documents.title_lengths[chosen] > 0).sum()),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.documents)

    def ranks(self, scores: NDArray[np.floating[Any]]) -> Numbers:
        """Return (N,) the rank of each query's own target, from 1, by scores (N, N).

        Targets with the same score count as better, so that a model that tells nothing apart finds
        nothing.
        """
        own = scores.diagonal()[:, None]
        ranks: Numbers = ((scores >= own) & ~self.set_aside).sum(axis=1)
        return ranks


def _cut(
    view: ChunkView, document: int, max_tokens: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the query and the target of a document."""
    store = view.store
    ids, starts_word = store.tokens_at(np.arange(*store.offsets[document : document + 2]))
    ids = ids.astype(np.int64)
    num_title = int(store.documents.title_lengths[document])
    if num_title == 0:
        middle = len(ids) // 2
        middle += int(starts_word[middle:].argmax())  # not within a word
        return ids[:middle][:max_tokens], ids[middle:][:max_tokens]
    title, body = ids[:num_title], ids[num_title:]
    while (end := _end_of_title(title, body)) is not None:  # some pages repeat it above the text
        body = body[end:]
    return title[:max_tokens], body[:max_tokens]


def _end_of_title(title: NDArray[np.int64], body: NDArray[np.int64]) -> int | None:
    """Return where the body's text begins if its first tokens are the title once more."""
    for begin in range(3):  # up to two tokens may stand for the lines in between
        end = begin + len(title)
        if np.array_equal(body[begin:end], title):
            return end
    return None


def _same(texts: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Return (N, N) whether two texts are equal; False on the diagonal."""
    numbers: dict[bytes, int] = {}
    number = np.asarray([numbers.setdefault(ids.tobytes(), len(numbers)) for ids in texts])
    same: NDArray[np.bool_] = number[:, None] == number
    return same & ~np.eye(len(texts), dtype=bool)


def _nearly_same(texts: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Return (N, N) whether two texts share `SAME_SHARE` of the shorter one's shingles."""
    shingles = []
    for ids in texts:
        *_, longest = ngram_hashes(mix(ids.astype(np.uint64)), min(SHINGLE_TOKENS, len(ids)))
        shingles.append(distinct(longest))
    known = distinct(np.concatenate(shingles))
    has = np.zeros((len(texts), len(known)), dtype=np.float32)
    for row, of_text in zip(has, shingles, strict=True):
        row[np.searchsorted(known, of_text)] = 1.0
    sizes = has.sum(axis=1)
    similar: NDArray[np.bool_] = has @ has.T >= SAME_SHARE * np.minimum(sizes[:, None], sizes)
    return similar & ~np.eye(len(texts), dtype=bool)


@dataclass(frozen=True)
class Retrieval:
    """How well the target of each query was found.

    Attributes:
        ranks: (N,) The rank of each query's own target, from 1.
        anisotropy: The mean cosine of the targets of two different documents. Near 1, all texts
            look alike; embeddings of raw encoders are so (Ethayarajh 2019). None for BM25.
        num_titles: How many queries are titles.
    """

    ranks: Numbers
    anisotropy: float | None
    num_titles: int

    MEASURES: ClassVar = ("recall_at_1", "recall_at_10", "mrr", "ndcg_at_10")

    def by_query(self) -> NDArray[np.float64]:
        """Return (N, 4) each of `MEASURES` for each query; a query has one relevant document."""
        in_ten = self.ranks <= 10
        gains = np.where(in_ten, 1 / np.log2(1.0 + self.ranks), 0.0)
        return np.stack([self.ranks == 1, in_ten, 1 / self.ranks, gains], axis=1)

    def means(self) -> dict[str, float]:
        """Return the mean of each of `MEASURES` over the queries."""
        return dict(zip(self.MEASURES, self.by_query().mean(axis=0).tolist(), strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return the measures under the names of eval_results.json."""
        values = {
            **self.means(),
            "anisotropy": self.anisotropy,
            "num_documents": len(self.ranks),
            "num_titles": self.num_titles,
        }
        return {f"retrieval_{name}": value for name, value in values.items()}

    def describe(self) -> str:
        """Return a phrase for people."""
        means = self.means()
        return (
            f"retrieval: {share(means['recall_at_1'])} of {len(self.ranks)} documents come first, "
            f"{share(means['recall_at_10'])} among ten"
        )


class RetrievalProbe:
    """Embeds the queries and targets of a pool, and ranks them.

    Args:
        view: The validation text, of whole documents.
        loaded: The model, whose tokenizer and pooling are used.
        seed: `evaluation.seed`, which chooses the pool.

    Raises:
        DataError: The view has too few documents of enough words.
    """

    def __init__(self, view: ChunkView, loaded: LoadedModel, seed: int) -> None:
        tokens = SpecialTokens.of(loaded.tokenizer)
        max_tokens = min(MOST_TOKENS, loaded.context_length or MOST_TOKENS)
        max_tokens -= len(tokens.prefix) + len(tokens.suffix)
        self.pool = RetrievalPool.of(view, seed, max_tokens)
        self._loaded = loaded
        texts = (*self.pool.queries, *self.pool.targets)
        self._sequences = [np.asarray([*tokens.prefix, *ids, *tokens.suffix]) for ids in texts]
        self._groups = list(_of_equal_length(self._sequences))
        self._batches = FittingBatches(GROUP_SEQUENCES, "chunking.chunk_length")

    @classmethod
    def of(
        cls, splits: Splits, loaded: LoadedModel, corpus: CorpusConfig, evaluation: EvaluationConfig
    ) -> Self:
        """Take the documents of the validation side, none of which was trained on.

        Raises:
            DataError: There are too few of them, or chunks of them were trained on.
        """
        if corpus.split_by == "chunk":
            raise DataError(
                "retrieval cannot be measured with corpus.split_by: chunk, because parts of all "
                "documents were trained on; split by document"
            )
        return cls(splits.validation, loaded, evaluation.seed)

    def run(
        self,
        accelerator: Accelerator,
        model: Any,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Retrieval | None:
        """Measure a model on its device; all processes share the work and get the same result.

        The arguments are those of `Evaluator.run`.

        Returns:
            The result; None if it was stopped.

        Raises:
            DivergedError: An embedding is not finite.
            ResourceError: Memory does not suffice for one sequence.
        """
        embeddings = self._no_embeddings(model, accelerator.device)
        # Whole groups are shared out, so that each is computed alike by any number of processes.
        rounds = range(0, len(self._groups), accelerator.num_processes)
        with accelerator.autocast():
            for number, start in enumerate(rounds):
                if any_should_stop(accelerator, number, should_stop):
                    return None
                mine = start + accelerator.process_index
                self._embed(model, self._groups[mine : mine + 1], embeddings)
        retrieval = self._ranked(accelerator.reduce(embeddings, reduction="sum"))
        # One process decides, because the last bits of a product may depend on its threads.
        own = torch.from_numpy(retrieval.ranks * accelerator.is_main_process)
        ranks = accelerator.reduce(own.to(accelerator.device), reduction="sum")
        return replace(retrieval, ranks=ranks.cpu().numpy())

    def measure(self, model: Any, device: torch.device) -> Retrieval:
        """Measure a model on its device in this process alone, in the caller's precision.

        Raises:
            DivergedError: An embedding is not finite.
            ResourceError: Memory does not suffice for one sequence.
        """
        return self._ranked(self.embeddings(model, device))

    def embeddings(self, model: Any, device: torch.device) -> torch.Tensor:
        """Return (2 N, H) the embeddings of the queries, and then those of the targets."""
        embeddings = self._no_embeddings(model, device)
        self._embed(model, self._groups, embeddings)
        return embeddings

    def _no_embeddings(self, model: Any, device: torch.device) -> torch.Tensor:
        return torch.zeros(len(self._sequences), model.config.hidden_size, device=device)

    def _embed(self, model: Any, groups: Sequence[Numbers], embeddings: torch.Tensor) -> None:
        """Write the embeddings of the sequences of some groups into their rows (2 N, H)."""
        encoder = self._loaded.sentence_encoder
        takes_first = encoder is not None and encoder.kind == "cls"

        def embed(numbers: Numbers) -> torch.Tensor:
            ids = torch.from_numpy(np.stack([self._sequences[n] for n in numbers]))
            inputs = {"input_ids": ids.to(embeddings.device)}
            if self._loaded.has_token_types:
                inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
            states: torch.Tensor = model.base_model(**inputs)[0].float()  # (B, T, H)
            return states[:, 0] if takes_first else states.mean(dim=1)

        with in_evaluation_mode(model), torch.inference_mode():
            for group in groups:
                rows = torch.from_numpy(group).to(embeddings.device)
                embeddings[rows] = torch.cat(self._batches.map(embed, group))

    def _ranked(self, embeddings: torch.Tensor) -> Retrieval:
        """Rank the targets by their cosine to each query, given the embeddings (2 N, H)."""
        if not embeddings.isfinite().all():
            raise DivergedError(
                "an embedding of the validation text is not finite; the model's weights are "
                "broken: start from another checkpoint, or lower optimizer.learning_rate"
            )
        unit = functional.normalize(embeddings.double().cpu(), dim=1).numpy()
        queries, targets = np.split(unit, 2)
        num_pairs = len(targets) * (len(targets) - 1)
        # Over all pairs at once: |t_1 + ... + t_N|^2 is N plus the cosines of all pairs.
        cosines = float((targets.sum(axis=0) ** 2).sum() - (targets**2).sum())
        return Retrieval(
            self.pool.ranks(queries @ targets.T), cosines / num_pairs, self.pool.num_titles
        )


def _of_equal_length(sequences: Sequence[NDArray[np.int64]]) -> Iterator[Numbers]:
    """Yield the numbers of sequences in groups of one length, which need no padding."""
    lengths = [len(sequence) for sequence in sequences]
    order = sorted(range(len(sequences)), key=lengths.__getitem__)
    for _, numbers in groupby(order, key=lengths.__getitem__):
        alike = np.fromiter(numbers, np.int64)
        yield from np.split(alike, range(GROUP_SEQUENCES, len(alike), GROUP_SEQUENCES))
