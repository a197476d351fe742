"""A text's token store: found where it is, checked, and built once where there is none."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash
from filelock import FileLock, Timeout
from tokenizers import Tokenizer

from mlmtune.corpus.cleaning import CLEANING_VERSION
from mlmtune.corpus.funnel import with_endings_not_read
from mlmtune.corpus.listing import Listing
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import ConfigError, DataError, MlmtuneError, ResourceError, was_taken_away
from mlmtune.files import write_bytes
from mlmtune.integrity import Damaged
from mlmtune.tokens.encoding import plain_backend
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.store_format import FORMAT_VERSION, check_free, is_finished, read_manifest
from mlmtune.tokens.tokenization import write_store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# What decides which side a document is on is left out of the fingerprint: the store holds both
# sides, and the split is drawn when it is opened.
FIELDS_APART = {
    "validation_fraction", "split_by", "max_train_chunks", "max_validation_chunks",
}  # fmt: skip


@dataclass(frozen=True)
class StoreOrigin:
    """What a store is made of, known before it is opened or built.

    Attributes:
        made_of: digests of the text, the settings and the tokenizer, by name; `fingerprint` sums
            them up.
        name: the store's folder within the cache. It follows from where the files are, too, because
            files of two folders may have the same names, sizes and times by chance.
    """

    made_of: dict[str, str]
    name: str

    @classmethod
    def of(cls, text: CorpusText, backend: Tokenizer) -> "StoreOrigin":
        """Sum up the text (paths, sizes, times), the settings that it is read by, the tokenizer."""
        config, listing = text.config, text.listing or Listing(())
        apart = set(FIELDS_APART)
        if config.near_duplicates is not None:
            apart -= {"validation_fraction", "split_by"}  # they say which near-duplicate stays
        elif all(source.config.max_documents is None for source in text.sources):
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
        return cls(made_of, _digest(made_of["fingerprint"] + listing.paths_digest()))


def _digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def find_text(text: CorpusText, *, is_needed: bool = False, refresh: bool = False) -> CorpusText:
    """List a text, unless it cannot be reached and its finished store can take its place.

    Args:
        text: the text, not listed yet.
        is_needed: do not accept a finished store in its place.
        refresh: look up again where branches of git repositories are.

    Returns:
        The listed text. It has no listing where only its store is on this machine.

    Raises:
        MlmtuneError: the text cannot be reached; see `scanning.scan`.
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
    """Open a text's token store; read and tokenize the text first if there is no store yet.

    Processes that start together wait for the one that builds, on a file lock: no collective
    that times out, and nothing is left locked when the builder dies.

    Args:
        text: the text, from `find_text`.
        tokenizer: a fast tokenizer.
        rebuilds: build the store that `tokenization.store` names again where it was made with other
            settings or another tokenizer, rather than refuse it.

    Raises:
        DataError: there is no usable text, or the store is damaged.
        ConfigError: the store that `tokenization.store` names does not fit the config.
        ResourceError: the cache cannot be written.
    """
    origin = StoreOrigin.of(text, plain_backend(tokenizer))
    notes = text.cache("verified")
    if text.store is None:
        folder = _StoreFolder(text.cache("tokens") / origin.name, notes, origin, may_replace=True)
    else:
        check_free(text.store)
        folder = _StoreFolder(text.store, notes, origin, may_replace=rebuilds)
    if text.listing is None:
        folder.check_fits()
        return TokenStore.open(folder.path, notes)
    store = folder.usable(say=lambda _: None)  # damage is reported when the store is built
    if store is None:
        store = _build_once(folder, text, tokenizer)
    # A file that is not read makes no other store, and may have come after it was made.
    endings = {each.source.name: each.endings_not_read for each in text.listing.sources}
    return replace(store, funnel=with_endings_not_read(store.funnel, endings))


@dataclass(frozen=True)
class _StoreFolder:
    """Where a store is or will be.

    Attributes:
        path: the store's folder.
        notes: the folder that notes which files were verified.
        origin: what the store must be made of.
        may_replace: whether a store that does not fit, or is damaged, is replaced rather than
            refused.
    """

    path: Path
    notes: Path
    origin: StoreOrigin
    may_replace: bool

    def made_of(self) -> dict[str, str] | None:
        """Return what the store that is there was made of; None if there is no readable one."""
        try:
            made_of: dict[str, str] = read_manifest(self.path)["made_of"]
        except DataError:
            return None
        return made_of

    def check_fits(self) -> None:
        """Refuse a named store that other settings made. It may have taken hours to build.

        Raises:
            ConfigError: it does not fit.
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
        """Return the store if there is one that fits; None if it must be built.

        Args:
            say: takes a line about a store that is damaged.

        Raises:
            DataError: the store is damaged, and may not be replaced.
            ConfigError: the store does not fit, and may not be replaced.
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

    @contextmanager
    def locked(self, text: CorpusText) -> Iterator[None]:
        """Hold the lock of those who build the store; a process that must wait says so."""
        lock = FileLock(self.path.with_name(self.path.name + ".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            text.console.say(f"waiting for another process, which builds {self.path}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _build_once(
    folder: _StoreFolder, text: CorpusText, tokenizer: "PreTrainedTokenizerFast"
) -> TokenStore:
    """Build the store, unless another process has done so by the time the lock is free."""
    before = folder.made_of()
    try:
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        with folder.locked(text):
            made_meanwhile = folder.made_of()
            if made_meanwhile != before and made_meanwhile != folder.origin.made_of:
                # Another process has just made it, and may be reading it.
                folder.check_fits()
            store = folder.usable(text.console.say)
            if store is None:
                _say_why(folder, text)
                _build(folder, text, tokenizer)
                store = TokenStore.open(folder.path, folder.notes)
            return store
    except OSError as error:
        what = f"{error.filename or folder.path.parent}: the token cache"
        if was_taken_away(error):
            raise ResourceError(
                f"{what} was deleted or moved while it was written; start again"
            ) from error
        why = os.strerror(error.errno) if error.errno else error
        raise ResourceError(
            f"{what} cannot be written ({why}); make room, or set tokenization.cache_dir to "
            "another folder"
        ) from error


def _say_why(folder: _StoreFolder, text: CorpusText) -> None:
    """Say that the corpus is read, and whether its text has changed since it last was."""
    made_of = folder.origin.made_of
    # Stores in the cache are named by their text, so an earlier one is found by its settings.
    settings = _digest(made_of["corpus"] + made_of["tokenizer"])
    latest = folder.path.with_name(f"latest-{settings}.txt")
    last = latest.read_text(encoding="utf-8") if latest.exists() else made_of["text"]
    if (here := folder.made_of()) is not None:
        last = here["text"]
    if last != made_of["text"]:
        text.console.say("the text has changed since it was last read")
    text.console.say("reading and tokenizing the corpus (once; the result is kept)")
    if folder.path.name == folder.origin.name:
        write_bytes(latest, made_of["text"].encode(), shared=True)


def _build(folder: _StoreFolder, text: CorpusText, tokenizer: "PreTrainedTokenizerFast") -> None:
    """Build the store; a part of the cleaned corpus that turns out damaged is cleaned again."""
    cleaned_again: set[Path] = set()
    while True:
        try:
            write_store(folder.path, text, folder.origin.made_of, tokenizer)
        except Damaged as error:
            if error.path in cleaned_again:
                raise
            text.console.say(f"{error.what}; it is cleaned again")
            error.path.unlink(missing_ok=True)
            cleaned_again.add(error.path)
        else:
            return
