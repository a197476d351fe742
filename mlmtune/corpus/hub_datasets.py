"""Hugging Face datasets: the commit or folder that is read, and its rows.

A dataset of the hub is read at one commit, which `locate` finds. The library `datasets` prepares a
commit once and keeps the result in its cache, where it is read without asking the hub again.
"""

import errno
import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import xxhash

from mlmtune import hub
from mlmtune.config import SourceConfig
from mlmtune.corpus.records import FileLeftOut, Record, Value, text_columns, texts_of
from mlmtune.errors import ConfigError, DataError, HubError, MlmtuneError, ResourceError, named
from mlmtune.locations import resolve

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class ListedDataset:
    """A dataset to read.

    Attributes:
        signature: Changes when the rows do: the commit on the hub, or a digest of a folder's state.
        num_bytes: The size of its files; None if it is not known before they are fetched.
        where: The key of its source in the config, for errors.
    """

    signature: str
    num_bytes: int | None
    where: str


def locate(source: SourceConfig, where: str, say: Callable[[str], None]) -> ListedDataset:
    """Find a dataset, which is a folder or a commit on the hub, without reading its rows.

    The hub is asked once, unless `revision` is a full commit. If it is out of reach, the commit
    that it named last time is used.

    Args:
        source: A source with a `dataset`.
        where: Its key in the config, `corpus.sources[0]`.
        say: Is called with a line about the commit of a dataset of the hub.

    Raises:
        ConfigError: The name is not valid on the hub, or the split is not in the folder.
        DataError: There is no such folder, or it is damaged.
        HubError: The hub has no such dataset, or is out of reach and nothing is cached.
    """
    assert source.dataset is not None
    folder = resolve(source.dataset)
    if folder.is_dir():
        return _locate_saved(source, folder, where)
    if folder.exists() or hub.looks_like_path(source.dataset):
        raise DataError(f"{where}.dataset: there is no folder {source.dataset}")
    if not hub.is_name(source.dataset):
        raise ConfigError(
            f"{where}.dataset: {source.dataset} is neither a folder nor a name on the hub"
        )
    commit, note = source.revision or "", ""
    if not _COMMIT.fullmatch(commit):
        commit, note = _commit_of(source.dataset, source.revision, where)
    notes = "; ".join(filter(None, (note, *hub.environment_notes())))
    say(f"dataset {source.dataset}: commit {commit[:12]}{f' ({notes})' if notes else ''}")
    return ListedDataset(commit, None, where)


def read_dataset(source: SourceConfig, listed: ListedDataset) -> Iterator[Record]:
    """Yield the text of each row, in order; only the fields that are needed are read.

    Raises:
        MlmtuneError, OSError: See `dataset_values`; also if no field holds text.
    """
    columns = partial(_text_fields, text_field=source.text_field, where=listed.where)
    records = texts_of(dataset_values(source, listed, columns), source.text_field)
    yield from islice(records, source.max_documents if source.streaming else None)


def dataset_values(
    source: SourceConfig, listed: ListedDataset, choose: Callable[[Any], Sequence[str]]
) -> Iterator[Value]:
    """Yield the rows in order.

    Args:
        source: A source with a `dataset`.
        listed: The dataset that `locate` found.
        choose: Returns which columns of an opened dataset to read.

    Raises:
        ConfigError: There is no such configuration or split.
        DataError: The dataset's files are broken.
        HubError: It cannot be fetched.
        ResourceError, OSError: There is no room for it.
    """
    from datasets import Dataset

    _silence_libraries()
    with _errors_explained(f"{listed.where}.dataset: {source.dataset}"):
        folder = resolve(str(source.dataset))
        if folder.is_dir():
            dataset = Dataset.load_from_disk(str(_folder_of_split(source, folder, listed.where)))
        else:
            dataset = _open_from_hub(source, listed)
        names = list(choose(dataset))
        number = 0
        for table in dataset.select_columns(names).with_format("arrow").iter(_ROWS_AT_ONCE):
            # Row by row, because rows may be long and a whole batch may not fit into memory.
            for values in zip(*(table[name] for name in names), strict=True):
                number += 1
                row = {name: value.as_py() for name, value in zip(names, values, strict=True)}
                yield Value(row, f"#{number}", f" (row {number})")


def _text_fields(dataset: Any, text_field: str | None, where: str) -> list[str]:
    """Return the columns to read; others are not decoded, which may be slow or need a library."""
    columns = column_names(dataset)
    try:
        chosen = text_columns(columns, text_field, nested=True)
    except FileLeftOut as fault:
        raise DataError(f"{where}.text_field: {fault.detail}") from fault
    field = chosen[-1]
    features = dataset.features
    kind = "null" if features is None else str(features.arrow_schema.field(field).type)
    is_inside = text_field not in (None, field) and kind.startswith("struct")
    if not is_inside and not kind.startswith(("string", "large_string", "dictionary", "null")):
        raise DataError(f"{where}.text_field: the field '{field}' holds {kind}, not strings")
    return chosen


def column_names(dataset: Any) -> list[str]:
    """Return the names of the columns of an opened dataset."""
    # Some files that are streamed show their columns only in the first row.
    return list(next(iter(dataset), {}) if dataset.features is None else dataset.features)


def _locate_saved(source: SourceConfig, folder: Path, where: str) -> ListedDataset:
    """Find a dataset in a folder that `save_to_disk` wrote."""
    for key in ("dataset_config", "revision"):
        if getattr(source, key) is not None:
            raise ConfigError(f"{where}.{key}: has no meaning for a folder; remove it")
    folder = _folder_of_split(source, folder, where)
    state = _read_json(folder / "state.json", where)
    names = ["state.json", "dataset_info.json"]
    names += [file["filename"] for file in state["_data_files"]]
    digest = xxhash.xxh3_128(str(state["_fingerprint"]).encode())
    num_bytes = 0
    for name in names:
        try:
            status = (folder / name).stat()
        except OSError as error:
            raise DataError(
                f"{where}.dataset: {folder / name} is missing; save the dataset again"
            ) from error
        digest.update(f"\0{name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
        num_bytes += status.st_size
    return ListedDataset(digest.hexdigest(), num_bytes, where)


def _folder_of_split(source: SourceConfig, folder: Path, where: str) -> Path:
    """Return the folder of the split, or the folder itself if it holds a single split."""
    if (folder / "dataset_dict.json").is_file():
        splits = _read_json(folder / "dataset_dict.json", where)["splits"]
        return folder / _checked_split(source, splits, where)
    if not (folder / "state.json").is_file():
        raise ConfigError(
            f"{where}.dataset: {folder} was not written by save_to_disk; "
            "if it holds files, give it as path, with their format"
        )
    split = _read_json(folder / "state.json", where).get("_split")
    if source.split not in (None, split):
        raise ConfigError(
            f"{where}: {folder} is a dataset without the split '{source.split}'; name no split, or "
            "save all splits together, as a DatasetDict"
        )
    return folder


def _read_json(path: Path, where: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{where}.dataset: {path} cannot be read ({error}); save the dataset again"
        ) from error
    return content


def _commit_of(name: str, revision: str | None, where: str) -> tuple[str, str]:
    """Return the commit of a branch or tag, and a note if it is not the hub's present answer."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.file_download import repo_folder_name

    def request() -> str:
        info = HfApi().dataset_info(name, revision=revision, timeout=hub.HUB_TIMEOUT_SECONDS)
        # To fetch the page, which is needed anyway, also records the commit for later runs offline.
        with suppress(EntryNotFoundError):
            hf_hub_download(name, "README.md", repo_type="dataset", revision=revision)
        assert info.sha is not None
        return info.sha

    try:
        return hub.ask(request, "dataset", name, revision, f"{where}.dataset"), ""
    except hub.OutOfReach as reason:
        repository = Path(HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="dataset"))
        recorded = repository / "refs" / (revision or "main")
        if not recorded.is_file():
            raise HubError(
                f"{where}.dataset: {name}: {reason}, and there is no cached copy; "
                "give a folder that save_to_disk wrote, or try again with the hub in reach"
            ) from reason
        return recorded.read_text(encoding="ascii").strip(), f"the last known; {reason}"


def _open_from_hub(source: SourceConfig, listed: ListedDataset) -> Any:
    """Open one split at one commit, prepared in the cache or as a stream."""
    from huggingface_hub import HfApi

    name, commit, where = str(source.dataset), listed.signature, listed.where
    builder = _prepared(source, commit)
    if builder is None:

        def request() -> object:
            return HfApi().dataset_info(name, revision=commit, timeout=hub.HUB_TIMEOUT_SECONDS)

        # The library would try for minutes, and then use any commit in its cache.
        try:
            hub.ask(request, "dataset", name, commit, f"{where}.dataset")
        except hub.OutOfReach as reason:
            raise HubError(
                f"{where}.dataset: {name}: {reason}, and commit {commit[:12]} is not in the cache; "
                "try again with the hub in reach"
            ) from reason
        builder = _builder(source, listed)
        split = _checked_split(source, builder.config.data_files or (), where)
        if source.streaming:
            return builder.as_streaming_dataset(split)
        builder.download_and_prepare()
    return builder.as_dataset(_checked_split(source, builder.info.splits, where))


def _prepared(source: SourceConfig, commit: str) -> Any:
    """Return what an earlier run prepared from this commit; None if there is nothing."""
    from datasets import config
    from datasets.naming import camelcase_to_snakecase
    from datasets.packaged_modules.cache.cache import Cache

    owner, _, name = str(source.dataset).rpartition("/")
    folder = f"{owner}___{camelcase_to_snakecase(name)}".removeprefix("___")
    configuration = source.dataset_config or _default_configuration(str(source.dataset), commit)
    versions = Path(config.HF_DATASETS_CACHE, folder, configuration).expanduser()
    for info in versions.glob(f"*/{commit}/dataset_info.json"):
        return Cache(
            repo_id=source.dataset, dataset_name=name, config_name=configuration,
            version=info.parts[-3], hash=commit,
        )  # fmt: skip
    return None


def _default_configuration(name: str, commit: str) -> str:
    """Return the default configuration of a dataset, according to its page if that is cached."""
    from huggingface_hub import DatasetCard, try_to_load_from_cache

    page = try_to_load_from_cache(name, "README.md", revision=commit, repo_type="dataset")
    described = DatasetCard.load(page).data.get("configs") if isinstance(page, str) else None
    entries = described or ()
    chosen = [entry for entry in entries if entry.get("default") or len(entries) == 1]
    return str(chosen[0]["config_name"]) if chosen else "default"


def _builder(source: SourceConfig, listed: ListedDataset) -> Any:
    from datasets import get_dataset_config_names, load_dataset_builder
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError

    name, commit, where = str(source.dataset), listed.signature, listed.where
    try:
        builder = load_dataset_builder(name, source.dataset_config, revision=commit)
    except (EmptyDatasetError, DataFilesNotFoundError) as error:
        raise HubError(
            f"{where}.dataset: {name} holds no files that can be read without running a script, "
            "which mlmtune never does; try revision: refs/convert/parquet, where the hub keeps "
            "converted ones"
        ) from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise HubError(
            f"{where}.dataset: {name} is made by a script of its own, which mlmtune never runs; "
            "try revision: refs/convert/parquet, where the hub keeps converted files"
        ) from error
    except ValueError as error:
        if "config" not in str(error).lower():
            raise
        names = ", ".join(get_dataset_config_names(name, revision=commit))
        if source.dataset_config is None:
            fault = f"dataset_config: {name} has several configurations: {names}; name one of them"
        else:
            fault = f"dataset_config: {name} has no '{source.dataset_config}'; there are: {names}"
        raise ConfigError(f"{where}.{fault}") from error
    if builder.hash != commit:
        raise HubError(
            f"{where}.dataset: {name}: commit {commit[:12]} can no longer be fetched; "
            "try again with the hub in reach"
        )
    return builder


def _checked_split(source: SourceConfig, splits: Collection[str], where: str) -> str:
    split = source.split or "train"
    if splits and split not in splits:
        raise ConfigError(
            f"{where}: {source.dataset} has no split '{split}'; "
            f"the splits are: {', '.join(map(str, splits))}"
        )
    return split


@contextmanager
def _errors_explained(what: str) -> Iterator[None]:
    """Turn errors of the library into ours, in one line and by their causes."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (MlmtuneError, MemoryError):
        raise
    except Exception as error:
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
            causes.append(cause)
        for cause in causes:
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(cause.errno, cause.strerror, cause.filename) from error
            if isinstance(cause, OSError) and "Not enough disk space" in str(cause):
                raise ResourceError(f"{what}: {named(cause)}; make room") from error
            if _is_of_the_network(cause):
                raise HubError(f"{what}: cannot be fetched ({named(cause)})") from error
        shown = error.__cause__ if isinstance(error, DatasetsError) else error
        raise DataError(f"{what}: cannot be read ({named(shown or error)})") from error


def _is_of_the_network(error: BaseException) -> bool:
    # The only base that the client's errors share between versions is that of its HTTP library.
    is_http = any(kind.__module__.startswith("http") for kind in type(error).__mro__)
    # The library reports that a file is not in its cache, whatever the hub has answered.
    is_hidden = "LocalEntryNotFound" in f"{type(error).__name__} {error}"
    return is_http or is_hidden or isinstance(error, ConnectionError | TimeoutError)


def _silence_libraries() -> None:
    """Turn off the messages and progress bars of the libraries, because we report both."""
    import datasets
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    datasets.logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    huggingface_hub.logging.set_verbosity(logging.CRITICAL)
    disable_progress_bars()
