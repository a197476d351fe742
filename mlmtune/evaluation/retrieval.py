"""Retrieval without labels: does an encoder find the page that a title belongs to?

Perplexity says how well a model predicts words, and not what its embeddings are good for. So each
validation document becomes a query and its target (`retrieval_pool`), and the targets of all
documents are ranked by their cosine to each query (Thakur et al. 2021, "BEIR", for the measures).
As in sentence-transformers, the embedding of a text is the mean of its last hidden states, or the
first of them.

Legend: N documents of the pool, H hidden size.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch.nn import functional

from mlmtune.config import CorpusConfig, EvaluationConfig
from mlmtune.errors import DataError, DivergedError
from mlmtune.evaluation.retrieval_pool import RetrievalPool
from mlmtune.evaluation.scoring import (
    FittingBatches,
    Numbers,
    any_should_stop,
    groups_of_equal_length,
)
from mlmtune.modeling.evaluation_mode import in_evaluation_mode
from mlmtune.modeling.loading import LoadedModel
from mlmtune.modeling.masked_head import PROBE_ERRORS
from mlmtune.numbers import share
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.special_tokens import SpecialTokens
from mlmtune.tokens.splits import Splits
from mlmtune.tokens.unknown import unknown_token_id

MOST_TOKENS = 128
"""A query and a target are cut to this many tokens, special tokens included."""

GROUP_SEQUENCES = 32
"""The sequences that are embedded at once. A constant, because the last bits of an embedding depend
on it, and nothing that is measured may depend on `evaluation.batch_size`."""


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

    def _interval(self, name: str) -> tuple[float, float]:
        """Return the 95 % interval of a measure, from the spread between queries."""
        values = self.by_query()[:, self.MEASURES.index(name)]
        half_width = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
        return float(values.mean()) - half_width, float(values.mean()) + half_width

    def to_json(self) -> dict[str, Any]:
        """Return the measures under the names of eval_results.json."""
        values = {
            **self.means(),
            "ndcg_at_10_interval": self._interval("ndcg_at_10"),
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
        config: Its seed chooses the pool.

    Raises:
        DataError: The view has too few documents of enough words, they are all alike, or the model
            has no encoder that gives a state of each token.
    """

    def __init__(self, view: ChunkView, loaded: LoadedModel, config: EvaluationConfig) -> None:
        tokens = SpecialTokens.of(loaded.tokenizer)
        max_tokens = min(MOST_TOKENS, loaded.context_length or MOST_TOKENS)
        max_tokens -= len(tokens.prefix) + len(tokens.suffix)
        unknown_id = unknown_token_id(loaded.tokenizer)
        self.pool = RetrievalPool.of(view, config, max_tokens, unknown_id)
        self._loaded = loaded
        texts = (*self.pool.queries, *self.pool.targets)
        self._sequences = [np.asarray([*tokens.prefix, *ids, *tokens.suffix]) for ids in texts]
        self._groups = list(
            groups_of_equal_length(list(map(len, self._sequences)), GROUP_SEQUENCES)
        )
        self._batches = FittingBatches(GROUP_SEQUENCES, "chunking.chunk_length")
        self._check_encoder()

    @classmethod
    def of(
        cls, splits: Splits, loaded: LoadedModel, corpus: CorpusConfig, evaluation: EvaluationConfig
    ) -> Self:
        """Take the documents of the validation side, none of which was trained on.

        Raises:
            DataError: Chunks of them were trained on, or for the reasons of the class.
        """
        if corpus.split_by == "chunk":
            raise DataError(
                "retrieval cannot be measured with corpus.split_by: chunk, because parts of all "
                "documents were trained on; split by document"
            )
        return cls(splits.validation, loaded, evaluation)

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

    def _check_encoder(self) -> None:
        """Embed a few tokens, because a base model need not be an encoder of tokens."""
        model = self._loaded.model
        device = next(model.parameters()).device
        ids = torch.from_numpy(self._sequences[0][:8])[None].to(device)
        try:
            with in_evaluation_mode(model), torch.inference_mode():
                shape = self._states(model, ids).shape
        except PROBE_ERRORS:
            shape = torch.Size()
        if model.base_model is model or shape != (*ids.shape, model.config.hidden_size):
            raise DataError(
                "retrieval cannot be measured: the encoder of a "
                f"{model.config.model_type} gives no states of its tokens that could be embeddings"
            )

    def _states(self, model: Any, ids: torch.Tensor) -> torch.Tensor:
        """Return (B, T, H) the last hidden states of sequences (B, T) without padding."""
        inputs = {"input_ids": ids}
        if self._loaded.has_token_types:
            inputs["token_type_ids"] = torch.zeros_like(ids)
        states: torch.Tensor = model.base_model(**inputs)[0]
        return states.float()

    def _embed(self, model: Any, groups: Sequence[Numbers], embeddings: torch.Tensor) -> None:
        """Write the embeddings of the sequences of some groups into their rows (2 N, H)."""
        encoder = self._loaded.sentence_encoder
        takes_first = encoder is not None and encoder.kind == "cls"

        def embed(numbers: Numbers) -> torch.Tensor:
            ids = torch.from_numpy(np.stack([self._sequences[n] for n in numbers]))
            states = self._states(model, ids.to(embeddings.device))
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


def change_interval(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[float, float]:
    """Return the 95 % interval of the change of nDCG at 10 between two results of `to_json`.

    They count as independent, so it is wider than that of a report, which compares each query.
    """
    name = "retrieval_ndcg_at_10"
    half_widths = [results[f"{name}_interval"][1] - results[name] for results in (before, after)]
    change, half_width = after[name] - before[name], math.hypot(*half_widths)
    return change - half_width, change + half_width
