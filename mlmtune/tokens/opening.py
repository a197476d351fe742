"""The token store of a text: finding it, checking that it fits, and building it only once."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from mlmtune.corpus.cleaning import CLEANING_VERSION
from mlmtune.corpus.funnel import with_endings_not_read
from mlmtune.corpus.listing import Listing
from mlmtune.corpus.optional_steps import libraries
from mlmtune.corpus.parts import DamagedPart
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import ConfigError, DataError, MlmtuneError, explaining_failures
from mlmtune.files import write_bytes
from mlmtune.integrity import Damaged, digest
from mlmtune.locks import waiting_lock
from mlmtune.tokens.encoding import plain_backend
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.store_format import FORMAT_VERSION, check_free, is_finished, read_manifest
from mlmtune.tokens.tokenization import write_store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FIELDS_APART = {
    "validation_fraction", "split_by", "max_train_chunks", "max_validation_chunks",
}  # fmt: skip
"""The settings of a corpus that no store depends on: a store holds both sides, and the split is
drawn when it is opened."""


@dataclass(frozen=True)
class StoreOrigin:
    """What a store is made of, which is known before it is opened or built.

    Attributes:
        made_of: The version of the format, digests of the text, the settings and the tokenizer, and
            the libraries of optional cleaning, by name; `fingerprint` is a digest of all of these.
        name: The store's folder within the cache. It depends on where the files are, too, because
            the files of two folders may have the same names, sizes and times by chance.
    """

    made_of: dict[str, str]
    name: str

    @classmethod
    def of(cls, text: CorpusText, backend: Tokenizer) -> "StoreOrigin":
        """Hash the text (paths, sizes, times), the settings it is read with, and the tokenizer."""
        config, listing = text.config, text.listing or Listing(())
        apart = set(FIELDS_APART)
        # The sides decide which near-duplicate stays, and what a source is selected by.
        depends_on_sides = config.near_duplicates is not None or any(
            source.select is not None for source in config.sources
        )
        if depends_on_sides:
            apart -= {"validation_fraction", "split_by"}
        elif all(source.config.max_documents is None for source in text.sources):
            apart.add("split_seed")
        if not config.exclude_overlap_with:
            apart.add("overlap_words")
        sections = config.model_dump(exclude=apart)
        for section in ("sources", "validation_sources", "exclude_overlap_with"):
            for source in sections[section]:
                del source["weight"], source["license"]
                if not depends_on_sides:
                    del source["replay"]  # it only decides which documents may be held out
        made_of = {
            "format": f"{FORMAT_VERSION}.{CLEANING_VERSION}",
            "corpus": digest(json.dumps(sections, sort_keys=True).encode()),
            "text": listing.signature(),
            "libraries": libraries(config.cleaning, config.languages),
            "tokenizer": digest(backend.to_str().encode()),
        }
        made_of["fingerprint"] = digest("\0".join(made_of.values()).encode())
        return cls(made_of, digest((made_of["fingerprint"] + listing.paths_digest()).encode()))


def find_text(text: CorpusText, *, is_needed: bool = False, refresh: bool = False) -> CorpusText:
    """List a text, or leave it unlisted if it cannot be reached and its store is finished.

    Args:
        text: The text, not listed yet.
        is_needed: Whether the text itself is needed, whatever its store holds.
        refresh: Whether to look up again where branches of git repositories are.

    Returns:
        The listed text; without a listing if only its store is on this machine.

    Raises:
        MlmtuneError: The text cannot be reached; see `scanning.scan`.
    """
    try:
        return text.listed(refresh=refresh)
    except MlmtuneError as error:
        if text.store is None or not is_finished(text.store) or is_needed:
            raise
        text.console.say(f"using {text.store} as it is; the text cannot be reached here ({error})")
        return text


def open_store(
    text: CorpusText, tokenizer: "PreTrainedTokenizerFast", *, rebuilds: bool = False
) -> TokenStore:
    """Open the token store of a text; read and tokenize the text first if there is none yet.

    Args:
        text: The text, from `find_text`.
        tokenizer: A fast tokenizer.
        rebuilds: Whether a store that `tokenization.store` names is built again, rather than
            refused, if other settings or another tokenizer made it.

    Raises:
        DataError: There is no usable text, or the store is damaged.
        ConfigError: The store that `tokenization.store` names does not fit the config.
        ResourceError: The cache cannot be written.
    """
    origin = StoreOrigin.of(text, plain_backend(tokenizer))
    notes = text.cache("verified")
    if text.store is not None:
        check_free(text.store)
    path = text.store or text.cache("tokens") / origin.name
    folder = _StoreFolder(path, notes, origin, may_replace=rebuilds or text.store is None)
    if text.listing is None:
        folder.check_fits()
        return TokenStore.open(folder.path, notes)
    store = folder.usable(say=lambda _: None)  # damage is reported when the store is built
    if store is None:
        store = _build_once(folder, text, tokenizer)
    # Files that are not read do not change a store, so they may be newer than its funnel.
    endings = {each.source.name: each.endings_not_read for each in text.listing.sources}
    return replace(store, funnel=with_endings_not_read(store.funnel, endings))


@dataclass(frozen=True)
class _StoreFolder:
    """The folder of a store that may not be built yet.

    Attributes:
        path: The folder.
        notes: The folder of notes on which files were verified.
        origin: What the store must be made of.
        may_replace: Whether a store that is damaged or does not fit is replaced, not refused.
    """

    path: Path
    notes: Path
    origin: StoreOrigin
    may_replace: bool

    def made_of(self) -> dict[str, str] | None:
        """Return what the store in the folder was made of; None if there is no readable one."""
        try:
            made_of: dict[str, str] = read_manifest(self.path)["made_of"]
        except DataError:
            return None
        return made_of

    def check_fits(self) -> None:
        """Refuse a store that other settings made; it may have taken hours to build.

        Raises:
            ConfigError: The store does not fit.
        """
        made_of = read_manifest(self.path)["made_of"]
        names = {
            "format": "another version of mlmtune",
            "corpus": "another corpus section",
            "tokenizer": "another tokenizer",
        }
        for name, what in names.items():
            if made_of[name] != self.origin.made_of[name]:
                raise ConfigError(
                    f"tokenization.store: {self.path} was made with {what}; name another folder, "
                    "or rebuild it with `mlmtune prepare`"
                )

    def usable(self, say: Callable[[str], None]) -> TokenStore | None:
        """Open the store if there is one that fits; return None if it must be built.

        Args:
            say: Takes a line about a store that is damaged.

        Raises:
            DataError: The store is damaged, and may not be replaced.
            ConfigError: The store does not fit, and may not be replaced.
        """
        if not is_finished(self.path):
            return None
        try:
            if not self.may_replace:
                self.check_fits()
            if read_manifest(self.path)["made_of"] == self.origin.made_of:
                return TokenStore.open(self.path, self.notes)
        except Damaged as error:
            if not self.may_replace:
                raise
            say(f"{error.what}; the store is rebuilt")
        return None


def _build_once(
    folder: _StoreFolder, text: CorpusText, tokenizer: "PreTrainedTokenizerFast"
) -> TokenStore:
    """Build the store, unless another process has built it by the time the lock is free."""
    before = folder.made_of()
    with explaining_failures(folder.path.parent, text.store_setting):
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.path.with_name(folder.path.name + ".lock")
        with waiting_lock(lock, text.console.say, f"builds {folder.path}"):
            if folder.made_of() not in (before, folder.origin.made_of):
                folder.check_fits()  # because another process has just made it, and may read it
            store = folder.usable(text.console.say)
            if store is None:
                _say_why(folder, text)
                _build(folder, text, tokenizer)
                store = TokenStore.open(folder.path, folder.notes)
            return store


def _say_why(folder: _StoreFolder, text: CorpusText) -> None:
    """Report that the corpus is read, and whether its text has changed since it was last read."""
    made_of = folder.origin.made_of
    # Stores in the cache are named by their text, so an earlier one is found by its settings.
    settings = digest((made_of["corpus"] + made_of["tokenizer"]).encode())
    latest = folder.path.with_name(f"latest-{settings}.txt")
    last_text = latest.read_text(encoding="utf-8") if latest.exists() else made_of["text"]
    if (replaced := folder.made_of()) is not None:
        last_text = replaced["text"]
    if last_text != made_of["text"]:
        text.console.say("the text has changed since it was last read")
    text.console.say("reading and tokenizing the corpus (once; the result is kept)")
    if folder.path.name == folder.origin.name:
        write_bytes(latest, made_of["text"].encode(), shared=True)


def _build(folder: _StoreFolder, text: CorpusText, tokenizer: "PreTrainedTokenizerFast") -> None:
    """Build the store; a part of the cleaned corpus that turns out damaged is cleaned again."""
    cleaned_again: set[str] = set()
    while True:
        try:
            return write_store(folder.path, text, folder.origin.made_of, tokenizer)
        except DamagedPart as error:
            if error.part.name in cleaned_again:
                raise
            text.console.say(f"{error.what}; it is cleaned again")
            error.discard()
            cleaned_again.add(error.part.name)
