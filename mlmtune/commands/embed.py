"""`mlmtune embed`: a sentence encoder from an adapted model, without labels, and what it finds."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers import __version__ as library_version
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)

from mlmtune import __version__
from mlmtune.commands.embed_plan import EmbedPlan
from mlmtune.config import Config, ModelConfig
from mlmtune.console import Console
from mlmtune.corpus.passage_pairs import FEWEST_DOCUMENTS, SHORTEST, PassagePairs
from mlmtune.corpus.sources import corpus_sources
from mlmtune.errors import DataError, DivergedError, explaining_failures, is_out_of_memory
from mlmtune.evaluation.retrieval import MOST_TOKENS
from mlmtune.files import whole_folder
from mlmtune.locations import EMBED_RECORD
from mlmtune.modeling.names import derived_name
from mlmtune.printable import counted
from mlmtune.randomness import key, permute
from mlmtune.report import estimates
from mlmtune.report.findings import RetrievalFindings
from mlmtune.report.measuring import MeasuredModel, load_measured_model
from mlmtune.report.retrieval import Searches
from mlmtune.sharing.card import Card, write_card
from mlmtune.sharing.sentence_card import sentence_card, similarity_snippet
from mlmtune.shell import own_command
from mlmtune.tables import table
from mlmtune.training.run_dir import reading_finished_run, write_model_record

BATCH_SIZE = 32
"""The pairs of a step. More wrong answers teach more; so many take minutes on a CPU."""

LEARNING_RATE, WARMUP_SHARE, MAX_GRAD_NORM = 5e-5, 0.1, 1.0
"""The learning rate rises for a tenth of the steps, and then falls to 0 in a line."""

SEQUENCES_AT_ONCE = 8
"""How many texts are in memory at once where a whole batch does not fit."""

STEPS_TO_ESTIMATE = 3
DOCUMENTS_STREAM = 0xE3BF
BEFORE, AFTER = "model", "sentence encoder"


@dataclass(frozen=True)
class Embedding:
    """The content of embed.json: how a sentence encoder was trained, and what it finds.

    Attributes:
        name: The name of the model that it was trained from.
        model: The folder of that model.
        num_documents: The number of documents with pairs.
        num_titles: How many of them have a title.
        seconds: How long training took.
        loss: The mean loss of the last tenth of the steps.
        retrieval: What the model, the encoder and BM25 find; None if it cannot be measured.
        why_not_measured: Why it cannot.
    """

    created_at: str
    mlmtune_version: str
    sentence_transformers_version: str
    name: str
    model: str
    num_steps: int
    batch_size: int
    learning_rate: float
    seed: int
    num_documents: int
    num_titles: int
    seconds: float
    loss: float
    retrieval: RetrievalFindings | None
    why_not_measured: str | None


def embed_model(plan: EmbedPlan, console: Console) -> None:
    """Train a sentence encoder from a model, write it, and measure what both of them find.

    Args:
        plan: The model, the run that has the text, and the folder that is written.
        console: Shows the progress; prints the comparison.

    Raises:
        MlmtuneError: The model or the text cannot be loaded.
        DataError: The text is not on this machine, or has too few pairs.
        DivergedError: The loss is not finite.
        ResourceError: The disk is full, or the folder cannot be written.
    """
    run, source = plan.model.run, str(plan.model.folder)
    evaluation = run.config.evaluation.model_copy(update={"general": [], "examples": []})
    config = run.config.model_copy(update={"evaluation": evaluation})
    with reading_finished_run(run.path), explaining_failures(plan.folder, "--output"):
        measured = load_measured_model(config, ModelConfig(name_or_path=source), console)
        pairs = _pairs(measured, config, plan.num_steps)
        console.say(
            f"pairs of {counted(len(pairs.documents), 'training document')}, "
            f"{pairs.num_titles:,} with a title"
        )
        searches = Searches()
        _search(searches, BEFORE, measured, config, measured.setup.loaded.model)
        encoder = SentenceTransformer(source, device=str(measured.device))
        loss, seconds = _train(encoder, pairs, plan.num_steps, measured.precision, console)
        plan.folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(plan.folder) as folder:
            encoder.save_pretrained(str(folder), create_model_card=False)
            written = SentenceTransformer(str(folder), device=str(measured.device))
            _search(searches, AFTER, measured, config, written.transformers_model)
            embedding = _embedding(plan, pairs, searches, loss, seconds)
            write_model_record(folder, EMBED_RECORD, asdict(embedding))
            write_card(folder, lambda: _card(folder, plan, embedding), console.say)
    for line in _described(embedding):
        console.result(line)
    console.result(f"the sentence encoder is in {plan.folder}")
    share_it = own_command("push", plan.folder, "--repo", derived_name(plan.folder))
    console.say(f"share it: {share_it}")


def _pairs(measured: MeasuredModel, config: Config, num_steps: int) -> PassagePairs:
    """Find the pairs of the training documents, or of as many of them as the steps can use.

    Raises:
        DataError: The text is not on this machine, or has too few pairs.
    """
    setup, seed = measured.setup, config.run.seed
    if setup.text.listing is None:
        raise DataError(
            "mlmtune embed needs the text itself, and only its tokens (tokenization.store) are on "
            "this machine; run it where the text is"
        )
    documents = setup.splits.train.layout.documents
    is_replayed = np.asarray([s.config.replay is not None for s in corpus_sources(config.corpus)])
    documents = documents[~is_replayed[setup.store.documents.sources[documents]]]
    most = min(len(documents), 2 * num_steps * BATCH_SIZE)  # half of them may have no pair
    if most < len(documents):
        places = permute(np.arange(most), len(documents), key(seed, DOCUMENTS_STREAM))
        documents = documents[places]
    chosen = setup.text.read().some_documents(np.sort(documents))
    pairs = PassagePairs.of((document.text for document in chosen), seed)
    if len(pairs.documents) < FEWEST_DOCUMENTS:
        raise DataError(
            f"a sentence encoder needs {FEWEST_DOCUMENTS} training documents with pairs, and this "
            f"text has {len(pairs.documents)}; a pair is a title (a first line of its own that no "
            f"other document has) and a passage of {SHORTEST} words or more, or two such passages; "
            "add documents, or give the text as longer ones (corpus.sources.format)"
        )
    return pairs


def _search(
    searches: Searches, name: str, measured: MeasuredModel, config: Config, model: Any
) -> None:
    with measured.computing():
        searches.add(
            name, measured.setup, config, lambda probe: probe.measure(model, measured.device)
        )


def _train(
    encoder: SentenceTransformer,
    pairs: PassagePairs,
    num_steps: int,
    precision: str,
    console: Console,
) -> tuple[float, float]:
    """Train a sentence encoder on the pairs, by the other passages of a batch as wrong answers.

    The loss is InfoNCE over cosines (van den Oord et al. 2018; Henderson et al. 2017, "Efficient
    natural language response suggestion").

    Returns:
        The mean loss of the last tenth of the steps, and the seconds that training took.

    Raises:
        DivergedError: The loss is not finite.
    """
    torch.manual_seed(pairs.seed)  # of dropout
    longest = encoder.max_seq_length
    encoder.max_seq_length = min(longest or MOST_TOKENS, MOST_TOKENS)
    measure: torch.nn.Module = MultipleNegativesRankingLoss(encoder)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    losses: list[float] = []

    def take_step(step: int) -> None:
        optimizer.zero_grad()
        columns = zip(*pairs.batch(step, BATCH_SIZE), strict=True)
        features = [encoder.preprocess(list(texts)) for texts in columns]
        features = [{name: value.to(encoder.device) if isinstance(value, torch.Tensor) else value
                     for name, value in each.items()} for each in features]  # fmt: skip
        with torch.autocast(encoder.device.type, torch.bfloat16, precision == "bf16"):
            loss = measure(features, None)
        loss.backward()
        losses.append(loss.item())

    encoder.train()
    begun = time.monotonic()
    for step in console.under_bar(range(num_steps), total=num_steps, unit="step", what="training"):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _rate(step, num_steps)
        try:
            take_step(step)
        except RuntimeError as error:
            if not is_out_of_memory(error) or step > 0:
                raise
            console.say("a whole batch does not fit into the memory; its parts take a third longer")
            measure = CachedMultipleNegativesRankingLoss(encoder, mini_batch_size=SEQUENCES_AT_ONCE)
            take_step(step)
        if not np.isfinite(losses[-1]):
            raise DivergedError(
                f"the loss of step {step + 1} is not finite; the model's weights are broken: take "
                "another run"
            )
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        if step + 1 == STEPS_TO_ESTIMATE < num_steps:
            left = (time.monotonic() - begun) / STEPS_TO_ESTIMATE * (num_steps - STEPS_TO_ESTIMATE)
            console.say(f"{counted(num_steps, 'step')}; about {left / 60:.0f} min to go")
    seconds = time.monotonic() - begun
    encoder.eval()
    encoder.max_seq_length = longest
    backend = encoder.tokenizer.backend_tokenizer  # has the lengths of the last batch
    backend.no_truncation()
    backend.no_padding()
    return float(np.mean(losses[-max(1, num_steps // 10) :])), seconds


def _rate(step: int, num_steps: int) -> float:
    """Return the share of the learning rate at a step."""
    warmup = max(1, round(WARMUP_SHARE * num_steps))
    return min((step + 1) / warmup, (num_steps - step) / max(1, num_steps - warmup))


def _embedding(
    plan: EmbedPlan, pairs: PassagePairs, searches: Searches, loss: float, seconds: float
) -> Embedding:
    return Embedding(
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        mlmtune_version=__version__,
        sentence_transformers_version=library_version,
        name=derived_name(plan.model.folder),
        model=str(plan.model.folder),
        num_steps=plan.num_steps,
        batch_size=min(BATCH_SIZE, len(pairs.documents)),
        learning_rate=LEARNING_RATE,
        seed=pairs.seed,
        num_documents=len(pairs.documents),
        num_titles=pairs.num_titles,
        seconds=seconds,
        loss=loss,
        retrieval=searches.findings({AFTER: BEFORE}),
        why_not_measured=searches.why_not,
    )


def _card(folder: Path, plan: EmbedPlan, embedding: Embedding) -> Card:
    run = plan.model.run
    records = {"corpus": run.record.corpus, "environment": run.record.environment}
    snippet = similarity_snippet(SentenceTransformer(str(folder), device="cpu"))
    name, results = derived_name(plan.folder), run.record.eval_results
    return sentence_card(name, run.config, results, records, snippet, asdict(embedding))


def _described(embedding: Embedding) -> Iterator[str]:
    findings = embedding.retrieval
    if findings is None:
        yield str(embedding.why_not_measured)
        return
    rows = [["", "found first", "in ten", "nDCG at 10", "change", "against BM25"]]
    for each in findings.measurements:
        of = each.measures
        shares = [of.recall_at_1, of.recall_at_10]
        rows.append(
            [
                each.model,
                *(estimates.share(share, with_interval=False) for share in shares),
                estimates.share(of.ndcg_at_10),
                "" if each.change is None else estimates.points(each.change.ndcg_at_10),
                "" if each.against_bm25 is None else estimates.points(each.against_bm25),
            ]
        )
    yield from table(rows)
    yield (
        f"({counted(findings.num_documents, 'validation document')}, each searched for by its "
        f"title ({findings.num_titles:,}) or its other half; nDCG at 10 and its changes in points, "
        "with 95 % intervals)"
    )
