"""The engine of clusters, with a cluster that is a list of tasks in this process."""

import pickle
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.cluster import stage as stage_module
from mlmtune.cluster.choosing import open_engine
from mlmtune.cluster.engine import ATTEMPTS, Cluster, ClusterEngine, Jobs
from mlmtune.cluster.stage import Stage, Task, divide
from mlmtune.config import CorpusConfig, EngineConfig, SourceConfig, TokenizationConfig
from mlmtune.corpus.engine import ThisMachine, Work
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import ConfigError, DataError, ResourceError
from mlmtune.tokens import encoding, tokenization
from mlmtune.tokens.encoding import plain_backend
from mlmtune.tokens.marks import TokenizedText, open_marks
from mlmtune.tokens.opening import open_store
from mlmtune.tokens.sentences import sentence_marker
from mlmtune.tokens.word_splitting import _LETTER, WordSplitter
from mlmtune.tokens.words import word_marker

WORK = Work("squaring", "number")


class Ended(Jobs):
    """Tasks that have ended; with `then`, something happens before that is noticed."""

    name = "job 7"

    def __init__(self, then=None):
        self.then, self.cancelled = then, False

    def why_waiting(self):
        if self.then is None:
            return None
        then, self.then = self.then, None
        then()
        return ""

    def cancel(self):
        self.cancelled = True


class Here(Cluster):
    """Runs tasks in this process.

    Attributes:
        deaths: How often each task dies before its first item.
        then: What happens when the tasks have ended.
    """

    can_leave = True

    def __init__(self, *, backwards=False, deaths=(), then=None, runs=True):
        self.backwards, self.deaths, self.then, self.runs = backwards, Counter(deaths), then, runs
        self.jobs, self.started = [], []

    def submit(self, stage, num_tasks):
        task = pickle.loads(pickle.dumps(Task(stage.folder)))
        numbers = [n for n in range(num_tasks) if n not in stage.finished()]
        for number in reversed(numbers) if self.backwards else numbers:
            self.started.append(number)
            if self.runs and not self.deaths[number]:
                task(None, number, num_tasks)
            elif self.runs:
                self.deaths[number] -= 1
                stage_module.write_json(
                    stage.folder / "started" / f"{number:05d}.json", {"host": "node3"}
                )
        self.jobs.append(Ended(self.then))
        return self.jobs[-1]

    def left(self, stage):
        return self.jobs[-1] if self.jobs else None


@pytest.fixture
def engine(tmp_path, console):
    """Build an engine of a cluster in this process."""

    def build(cluster, **settings):
        shared = tmp_path / "shared"
        shared.mkdir(exist_ok=True)
        config = EngineConfig(kind="slurm", **settings)
        return ClusterEngine(config, cluster, tmp_path / "stages", (shared,), console)

    return build


def square(number, offset):
    if number < 0:
        raise DataError(f"{number} has no root")
    return number * number + offset


def left_files(engine):
    folders = (engine.folder, *engine.shared_folders)
    return [path for folder in folders for path in folder.rglob("*")]


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=40), num_tasks=st.integers(1, 50))
def test_tasks_are_consecutive_and_none_is_empty(sizes, num_tasks):
    slices = divide(sizes, num_tasks)
    assert len(slices) <= min(num_tasks, len(sizes))
    covered = [number for part in slices for number in range(part.start, part.stop)]
    assert covered == list(range(len(sizes)))
    assert all(part.start < part.stop for part in slices)
    largest = max(sum(sizes[part]) for part in slices)
    assert largest <= sum(sizes) / len(slices) + 2 * max(sizes) + 1 or len(slices) < num_tasks


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("tasks", [1, 3, 100])
def test_results_come_in_order_and_nothing_stays(engine, tasks, backwards):
    here = engine(Here(backwards=backwards), tasks=tasks)
    numbers = list(range(10))
    results = here.map(square, numbers, 5, WORK, sizes=[3] * 10)
    assert list(results) == [number**2 + 5 for number in numbers]
    assert len(here.cluster.started) == min(tasks, 10)
    assert left_files(here) == []
    assert list(here.map(square, [], 5, WORK, sizes=[])) == []


def test_the_number_of_tasks_follows_from_the_workers(engine):
    here = engine(Here(), workers=2)
    list(here.map(square, range(99), 0, WORK, sizes=[1] * 99))
    assert len(here.cluster.started) == 8


def test_tasks_that_die_are_run_again_alone(engine, console):
    here = engine(Here(deaths={1: 2, 3: 1}), tasks=5)
    assert list(here.map(square, range(5), 0, WORK, sizes=[1] * 5)) == [0, 1, 4, 9, 16]
    assert here.cluster.started == [0, 1, 2, 3, 4, 1, 3, 1]
    assert [line.split(" (")[0] for line in console.lines[:-1]] == [
        "squaring: 5 tasks, job 7",
        "squaring: 2 tasks that died, again, job 7",
        "squaring: 1 task that died, again, job 7",
    ]
    assert console.lines[-1].startswith("squaring: done by ")


def test_a_task_that_always_dies_is_said_and_its_log_named(engine):
    here = engine(Here(deaths={2: ATTEMPTS}), tasks=5)
    with pytest.raises(ResourceError, match=r"1 task died 3 times \(at last on node3\)"):
        list(here.map(square, range(5), 0, WORK, sizes=[1] * 5))


def test_the_error_of_a_task_is_that_of_the_command(engine, console):
    here = engine(Here(), tasks=3)
    with pytest.raises(DataError, match=r"^-1 has no root$"):
        list(here.map(square, [0, -1, 2], 0, WORK, sizes=[1] * 3))
    assert here.cluster.jobs[0].cancelled
    assert console.lines[-1] == "the tasks were cancelled; what is finished is kept"


def test_tasks_that_leave_no_trace_show_a_folder_that_is_not_shared(engine):
    here = engine(Here(runs=False))
    with pytest.raises(ConfigError, match=r"do not see the folder.*set engine\.folder"):
        list(here.map(square, range(3), 0, WORK, sizes=[1] * 3))


@pytest.mark.parametrize("name", ["tokenizers", "mlmtune", "Python"])
def test_a_machine_with_other_versions_is_refused(engine, monkeypatch, name):
    versions = stage_module.versions()
    answers = iter([versions, {**versions, name: "0.1"}])
    monkeypatch.setattr(stage_module, "versions", lambda: next(answers))
    here = engine(Here(), tasks=1)
    with pytest.raises(ConfigError, match=f"has {name} 0.1, and the machine that submitted .* has"):
        list(here.map(square, [1], 0, WORK, sizes=[1]))


def test_a_folder_that_a_machine_does_not_see_is_found_before_work_begins(engine):
    here = engine(Here(), tasks=1)
    submit = here.cluster.submit

    def unshared(stage, num_tasks):
        for probe in here.shared_folders[0].iterdir():
            probe.unlink()
        return submit(stage, num_tasks)

    here.cluster.submit = unshared
    with pytest.raises(ConfigError, match=r"shared: .* does not see the files.*cache_dir"):
        list(here.map(square, [1], 0, WORK, sizes=[1]))


def test_formats_of_a_program_stay_in_it(engine):
    work = Work("squaring", "number", is_ours=True)
    with pytest.raises(ConfigError, match="not known on other machines"):
        list(engine(Here()).map(square, [1], 0, work, sizes=[1]))


def interrupt():
    raise KeyboardInterrupt


def test_an_interrupted_command_cancels_its_tasks(engine):
    here = engine(Here(then=interrupt))
    with pytest.raises(KeyboardInterrupt):
        list(here.map(square, range(3), 0, WORK, sizes=[1] * 3))
    assert here.cluster.jobs[0].cancelled
    assert left_files(here) == []


def test_or_leaves_them_and_the_next_waits_for_them(engine, console):
    here = engine(Here(then=interrupt), on_interrupt="leave")
    with pytest.raises(KeyboardInterrupt):
        list(here.map(square, range(3), 0, WORK, sizes=[1] * 3))
    [jobs] = here.cluster.jobs
    assert not jobs.cancelled
    assert console.lines[-1] == "job 7 goes on; the same command waits for it"
    assert left_files(here)
    jobs.then = lambda: None  # they still run, once
    here.wait_for_left_tasks()
    assert console.lines[-1] == "waiting for job 7, which an earlier command left"
    assert jobs.then is None
    assert left_files(here) == []


def test_the_tasks_of_a_command_that_runs_are_left_alone(engine):
    here = engine(Here())
    results = here.map(square, range(3), 0, WORK, sizes=[1] * 3)
    assert next(results) == 0
    engine(Here()).wait_for_left_tasks()
    assert list(results) == [1, 4]


def test_missing_extras_are_said(console, monkeypatch):
    corpus = CorpusConfig(sources=[SourceConfig(format="text", path="x")])
    for kind, module, extra in (
        ("slurm", "datatrove.executor.slurm", "cluster"),
        ("ray", "ray", "ray"),
    ):
        for name in ("mlmtune.cluster.slurm", "mlmtune.cluster.ray_cluster"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=rf"engine.kind: {kind} needs .*mlmtune\[{extra}\]"):
            open_engine(EngineConfig(kind=kind), corpus, TokenizationConfig(), console)
    assert open_engine(EngineConfig(), corpus, TokenizationConfig(), console) is None


# The corpus.


def prepared(text, tokenizer, folder):
    """The content of every file of a store with its marks."""
    store = open_store(text.listed(), tokenizer)
    tokens = TokenizedText(store, text.listed(), plain_backend(tokenizer))
    for marker in (word_marker("rjieba"), sentence_marker("en")):
        open_marks(marker, tokens)
    return {
        str(path.relative_to(store.directory)): path.read_bytes()
        for path in sorted(store.directory.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.fixture
def rich_corpus(corpus_dir, tmp_path):
    """A corpus that needs every stage: two sources, a test set, near-duplicates, a selection."""
    folder = tmp_path / "more"
    folder.mkdir()
    texts = [path.read_text() for path in sorted(corpus_dir.iterdir())]
    for number, text in enumerate(texts[:12]):
        (folder / f"{number}.txt").write_text(f"{text} {texts[number + 20]}. 文字 {number}")
        (folder / f"{number}-again.txt").write_text(f"{text} {texts[number + 20]}! 文字 {number}")
    test_set = tmp_path / "test.txt"
    test_set.write_text(texts[3])
    return CorpusConfig(
        sources=[
            SourceConfig(format="text", path=str(corpus_dir), name="docs"),
            SourceConfig(format="text", path=str(folder), select={"like": "docs", "fraction": 0.8}),
        ],
        near_duplicates={},
        exclude_overlap_with=str(test_set),
    )


@pytest.mark.parametrize("dependent", [False, True])
def test_a_store_has_the_same_bytes_whatever_made_it(
    rich_corpus, corpus_dir, tokenizer, tmp_path, console, monkeypatch, dependent
):
    monkeypatch.setattr("mlmtune.corpus.dividing.PART_FILES", 12)
    monkeypatch.setattr("mlmtune.corpus.corpus.DOCUMENTS_AT_ONCE", 5)
    monkeypatch.setattr("mlmtune.corpus.band_search.DOCUMENTS_PER_SLICE", 7)
    monkeypatch.setattr(tokenization, "SHARD_CHARACTERS", 3_000)
    if dependent:  # on the words beside them, but only in one document
        monkeypatch.setattr(tokenization, "BATCH_DOCUMENTS", 1)
        words = next(corpus_dir.glob("11.txt")).read_text()[:40]
        whole, broken = (WordSplitter(cuts, "!") for cuts in (set(), {(_LETTER, _LETTER)}))
        monkeypatch.setattr(
            encoding,
            "word_splitter",
            lambda _: lambda texts: (broken if words in "".join(texts) else whole)(texts),
        )
    stores, engines = [], []
    for number, tasks in enumerate([None, 1, 3, 100]):
        cache = tmp_path / f"cache-{number}"
        cluster = None
        if tasks is not None:
            (cache / "stages").mkdir(parents=True)
            here = Here(backwards=tasks == 3, deaths={0: 1})
            config = EngineConfig(kind="slurm", tasks=tasks)
            cluster = ClusterEngine(config, here, cache / "stages", (cache,), console)
            engines.append(here)
        tokenization_config = TokenizationConfig(cache_dir=str(cache))
        text = CorpusText.of(rich_corpus, tokenization_config, console, cluster)
        assert isinstance(text.engine, ThisMachine) == (tasks is None)
        stores.append(prepared(text, tokenizer, cache))
    assert stores[1:] == stores[:1] * 3
    assert sum(name.endswith("ids.bin") for name in stores[0]) > 3
    assert [len(here.jobs) > 8 for here in engines] == [True] * 3
    said = [line for line in console.lines if "as a whole" in line]
    assert len(said) == (4 if dependent else 0)
    funnel = stores[0]["store.json"].decode()
    assert all(reason in funnel for reason in ("near_duplicate", "overlap", "not_selected"))


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("another text")])
def test_text_that_another_machine_sees_differently_is_refused(
    rich_corpus, tmp_path, console, change
):
    """Else its files would count as unreadable, in silence."""
    cache = tmp_path / "cache"
    (cache / "stages").mkdir(parents=True)
    here = Here()
    cluster = ClusterEngine(EngineConfig(kind="slurm"), here, cache / "stages", (cache,), console)
    settings = TokenizationConfig(cache_dir=str(cache))
    text = CorpusText.of(rich_corpus, settings, console, cluster).listed()
    change(tmp_path / "more" / "3.txt")
    with pytest.raises(DataError, match=r"3\.txt: .*a folder that all machines share"):
        text.read()


def test_numpy_arrays_and_large_results_come_back(engine):
    here = engine(Here(), tasks=2)
    results = list(here.map(np.full, [3, 2], 7, WORK, sizes=[1, 1]))
    assert [result.tolist() for result in results] == [[7] * 3, [7] * 2]


def test_a_stage_keeps_what_it_needs(engine, tmp_path):
    stage = Stage(tmp_path / "stage")
    stage.write(square, [[1], [2]], 0, WORK, [4, 5], [])
    assert (stage.work, stage.sizes) == (WORK, [4, 5])
