"""The command line: a function for each command, and the exit code of each error.

What a command needs is imported when it runs: `--help` and config errors must not wait for torch.
"""

import os
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mlmtune import __version__, exits
from mlmtune.commands import options, starting
from mlmtune.console import Console
from mlmtune.errors import ConfigError, NobodyReads, StoppedAtOnce, explain
from mlmtune.locations import expand_home
from mlmtune.printable import counted
from mlmtune.training.run_options import RunOptions

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

WRITES_FILES = (
    "train", "finetune", "probe", "sweep", "report", "merge", "export", "embed", "push",
    "prepare",
)  # fmt: skip
"""Commands that continue when nobody reads what they print, because they also write files."""

WITHOUT_REVISION = "model.revision=null"
"""Added for models of the command line, because `model.revision` is that of the config's model."""


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Adapt a pretrained masked language model to the text of a domain, and measure the effect.

    Exit codes: 0 done, 2 config or usage, 3 data, 4 checkpoint or resume, 5 diverged, 6 memory or
    disk, 7 hub or network, 129, 130, 138 and 143 interrupted.
    """
    if context.invoked_subcommand not in WRITES_FILES:
        exits.end_without_reader()
    if version:
        print(f"mlmtune {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
    else:
        _check_working_directory()


def _check_working_directory() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(
            "the working directory does not exist any more; change to another one (cd) and try "
            "again"
        ) from error


@app.command()
def train(
    arguments: options.PlacesAndSettings = None,
    config: options.RunConfig = None,
    model: options.BaseModel = None,
    from_: options.From = None,
    resume: options.Resume = "never",
    overwrite: options.Overwrite = False,
    allow_changes: options.AllowChanges = False,
    dry_run: options.DryRun = False,
    no_report: options.NoReport = False,
    on: options.On = None,
    nproc: options.NumProcesses = None,
    nodes: options.NumNodes = 1,
    rendezvous: options.Rendezvous = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a model on text, and report whether it helped.

    Perplexity is measured before and after training, on held-out text. Without a config, settings
    are chosen by the text, the model and this machine, printed, and written into the run.
    """
    given = [*(arguments or []), *(starting.overrides_from(from_) if from_ is not None else [])]
    if dry_run and on != "slurm":
        check(given, config, model)
        return
    console = Console(is_main=exits.is_first_process(), is_quiet=quiet)
    chosen = starting.choose_config(config, model, given, console)
    run_options = RunOptions(
        resume, overwrite, allow_changes, quiet, config_text=chosen.text,
        command=chosen.command("train"),
    )  # fmt: skip
    processes = starting.Processes(nproc, nodes, rendezvous)
    if starting.is_submitted(on, chosen):
        starting.check_start(chosen.settings, run_options)
        with starting.importing_libraries():
            from mlmtune.commands.train_job import submit_training

        submit_training(
            chosen, run_options, processes, has_report=not no_report, is_shown_only=dry_run
        )
        return
    starting.start_run(chosen.settings, run_options, processes)

    with starting.importing_libraries():
        from mlmtune.commands.train import adapt

    adapt(chosen.settings, run_options, has_report=not no_report)


@app.command()
def finetune(
    config: options.TaskPath,
    overrides: options.Overrides = None,
    resume: options.Resume = "never",
    overwrite: options.Overwrite = False,
    allow_changes: options.AllowChanges = False,
    nproc: options.NumProcesses = None,
    nodes: options.NumNodes = 1,
    rendezvous: options.Rendezvous = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a classifier or an entity tagger on labelled examples.

    The test set is measured once, at the end.
    """
    settings = starting.load_task(config, overrides)
    run_options = RunOptions(
        resume, overwrite, allow_changes, quiet, config_text=config.read_text(encoding="utf-8"),
        command=("finetune", str(config), *(overrides or [])),
    )  # fmt: skip
    starting.start_run(settings, run_options, starting.Processes(nproc, nodes, rendezvous))

    with starting.importing_libraries():
        from mlmtune.commands.finetune import finetune as train_classifier

    train_classifier(settings, run_options)


@app.command()
def probe(
    models: options.ComparedModels,
    config: options.TaskPath,
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare models on a task, with frozen features and fine-tuned.

    Each model is trained with several seeds and on several numbers of training examples. Finished
    results are kept beside run.output_dir, and the same command continues from there.
    """
    starting.refuse_several_processes("probe")
    settings = starting.load_task(config, [*(overrides or []), WITHOUT_REVISION])

    starting.announce(f"comparing {', '.join(models)} on {config}", is_quiet=quiet)
    starting.check_models(models, "--model")
    starting.check_text(settings)

    with starting.importing_libraries():
        from mlmtune.commands.probe import probe as probe_models

    console = Console(is_quiet=quiet, notes_to_stderr=True)
    probe_models(settings, models, console, as_json=as_json)


@app.command()
def sweep(
    config: options.AnyConfigPath,
    settings: options.Grid,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a small grid of settings and compare the runs.

    All runs are measured on the same validation data. Each needs a budget: training.max_steps or
    training.max_minutes. The test set of a task is not used. Finished runs are kept beside
    run.output_dir, and the same command continues from there.
    """
    starting.refuse_several_processes("sweep")
    from mlmtune.commands.sweep_grid import plan_sweep
    from mlmtune.config_loading import kind_of_config

    planned = plan_sweep(config, settings, kind_of_config(config))

    num_runs = counted(len(planned.trials), "run")
    starting.announce(f"training {num_runs} with {config}", is_quiet=quiet)
    for trial in planned.trials:
        starting.check_model_and_text(trial.config)

    with starting.importing_libraries():
        from mlmtune.commands.sweep import sweep as run_sweep

    run_sweep(config, planned, Console(is_quiet=quiet, notes_to_stderr=True), as_json=as_json)


@app.command("eval")
def evaluate(
    models: options.ModelNames,
    configs: options.TextConfigs,
    overrides: options.Overrides = None,
    nproc: options.NumProcesses = None,
    as_json: options.AsJson = False,
    dump: options.Dump = None,
) -> None:
    """Measure models on the validation text of configs.

    The table has a row for each model on each text. The general text of a config is a text of its
    own.
    """
    changes = [*(overrides or []), WITHOUT_REVISION]
    settings = [(path, starting.load_adaptation(path, changes)) for path in configs]
    texts = ", ".join(map(str, configs))
    starting.announce(f"measuring {', '.join(models)} on the text of {texts}")
    starting.check_models(models, "--model")
    for _, one in settings:
        starting.check_text(one)
    starting.run_in_processes(starting.Processes(nproc))

    with starting.importing_libraries():
        from mlmtune.commands.eval import evaluate_models

    console = Console(notes_to_stderr=True)
    evaluate_models(settings, models, console, as_json=as_json, dump=dump)


@app.command()
def fill(
    models: options.ModelNames,
    texts: options.Sentences = None,
    text_file: options.TextFile = None,
    targets: options.Targets = None,
    top_k: options.TopK = 5,
    as_json: options.AsJson = False,
) -> None:
    """Show what models predict for [MASK], side by side.

    Without sentences on the command line, they are read from standard input, one per line; on a
    terminal you are asked for them until Ctrl-D. You may write the mask token of a model instead
    of [MASK].

    The JSON is a list with {text, models} for each sentence; in models {name, model, head_is_new,
    masks} for each model; in masks {predictions, targets} for each mask; in predictions {score,
    token, token_str, sequence}; in targets {word, pieces, token, token_str, score, rank}, of which
    the last four are null if no single token of the vocabulary is the word.
    """
    from mlmtune.commands.fill_input import given_sentences, listed_words

    words = listed_words(targets)
    sentences = given_sentences(texts or [], text_file)
    if sentences is None:
        with suppress(ImportError):
            import readline  # noqa: F401  # gives input() its line editing and its history

    starting.announce(f"loading {', '.join(models)}")
    starting.check_models(models, "--model")

    with starting.importing_libraries():
        from mlmtune.commands.fill import MaskFiller, converse, show

    console = Console(notes_to_stderr=True)
    filler = MaskFiller(models, sentences or [], words, top_k, console)
    if sentences is None:
        converse(lambda text: show([filler.fill(text)], console, as_json=as_json), console)
    else:
        show(map(filler.fill, sentences), console, as_json=as_json)


@app.command("report")
def report_runs(
    arguments: options.RunsAndSettings,
    output: options.ReportFolder = None,
    quiet: options.Quiet = False,
) -> None:
    """Report whether adaptation helped.

    The base model and the adapted model are measured on the same masks. The report is written as
    report.html, report.md and report.json.
    """
    paths, overrides = _paths_and_settings(arguments)
    if not paths:
        raise ConfigError("there is no run to report on; give the directory of a run")
    from mlmtune.report.runs import read_finished_run

    runs = [read_finished_run(path) for path in paths]
    starting.announce(f"reporting on {', '.join(map(str, paths))}", is_quiet=quiet)

    with starting.importing_libraries():
        from mlmtune.commands.report import report_on

    report_on(runs, overrides, output, Console(is_quiet=quiet))


def _paths_and_settings(arguments: list[str]) -> tuple[list[Path], list[str]]:
    settings = [argument for argument in arguments if re.match(r"\w+(\.\w+)+=", argument)]
    return [expand_home(a) for a in arguments if a not in settings], settings


@app.command()
def merge(
    arguments: options.RunsAndSettings,
    alphas: options.Alphas = None,
    alpha: options.Alpha = None,
    compare: options.ComparedRuns = None,
    out: options.MergeFolder = None,
    quiet: options.Quiet = False,
) -> None:
    """Merge a run's model with its base, to keep what was learned and forget less.

    Each weight becomes (1 - alpha) x base + alpha x adapted. Every alpha is measured on the
    validation text, on general text and by retrieval. The one is written that forgets least among
    those that are not clearly worse on the validation text than the best. Several runs of one base
    are averaged first.
    """
    paths, overrides = _paths_and_settings(arguments)
    if not paths:
        raise ConfigError("there is no run to merge; give the directory of a run")
    from mlmtune.commands.merge_grid import plan_merge
    from mlmtune.report.runs import read_finished_run

    runs = [read_finished_run(path) for path in paths]
    others = [read_finished_run(expand_home(path)) for path in compare or []]
    plan = plan_merge([run.path for run in runs], [run.path for run in others], alphas, alpha, out)
    starting.announce(f"merging {', '.join(map(str, paths))}", is_quiet=quiet)
    bases = {run.config.model.name_or_path for run in (*runs, *others)}
    starting.check_models(sorted(bases), "model.name_or_path")

    with starting.importing_libraries():
        from mlmtune.commands.merge import merge_runs

    merge_runs(runs, others, overrides, plan, Console(is_quiet=quiet))


@app.command()
def export(
    run: options.RunPath,
    to: options.ExportFormat,
    int8: options.Int8 = False,
    output: options.ExportFolder = None,
    quiet: options.Quiet = False,
) -> None:
    """Write the model of a run, or a merged model, for another runtime.

    The exported model is compared with the model on the validation text of the run: its logits, its
    speed on this CPU and, in 8 bits, its loss.
    """
    from mlmtune.commands.export_plan import plan_export

    plan = plan_export(expand_home(run), to, output, has_int8=int8)
    starting.announce(f"exporting {plan.model.folder} to {plan.folder}", is_quiet=quiet)

    with starting.importing_libraries():
        from mlmtune.commands.export import export_model

    export_model(plan, Console(is_quiet=quiet))


@app.command()
def embed(
    run: options.RunPath,
    steps: options.EmbedSteps = 100,
    output: options.EmbedFolder = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a sentence encoder from the model of a run, or a merged model, without labels.

    It learns from the training documents which passage belongs to a title and which passages follow
    each other. How well it finds validation documents is measured before and after, beside BM25.
    """
    from mlmtune.commands.embed_plan import plan_embed

    plan = plan_embed(expand_home(run), steps, output)
    starting.announce(f"training a sentence encoder from {plan.model.folder}", is_quiet=quiet)
    # Not under `importing_libraries`, because sentence-transformers needs SciPy.
    from mlmtune.commands.embed import embed_model

    embed_model(plan, Console(is_quiet=quiet))


@app.command()
def push(
    run: options.ModelPath,
    repo: options.RepositoryName,
    private: options.Private = True,
    quiet: options.Quiet = False,
) -> None:
    """Push a model and its card to the Hugging Face hub.

    It is the result of a run, a merged model, an exported one, or a sentence encoder.

    The token is read from HF_TOKEN, or is that of hf auth login. Files that an earlier attempt
    uploaded are not uploaded again.
    """
    with starting.importing_libraries():
        from mlmtune.commands.push import push_run

    push_run(expand_home(run), repo, is_private=private, console=Console(is_quiet=quiet))


@app.command()
def check(
    arguments: options.PlacesAndSettings = None,
    config: options.RunConfig = None,
    model: options.BaseModel = None,
    measure: options.Measure = False,
    masks: options.AllStrategies = False,
    chunks: options.NumChunks = 1,
    draws: options.NumDraws = 1,
) -> None:
    """Show what a config would do, without training."""
    chosen = starting.choose_config(config, model, arguments, Console())

    starting.announce(f"checking {chosen.name}")
    starting.check_model_and_text(chosen.settings)
    with starting.importing_libraries():
        from mlmtune.commands.check import preview

    preview(chosen.settings, measure=measure, num_chunks=chunks, num_draws=draws, compares=masks)


@app.command()
def corpus(
    arguments: options.PlacesAndSettings = None,
    config: options.RunConfig = None,
    model: options.BaseModel = None,
    as_json: options.AsJson = False,
    export: options.ExportPath = None,
    refresh: options.Refresh = False,
) -> None:
    """Show what text a corpus yields: found, cleaned, left out, kept."""
    console = Console(notes_to_stderr=True)
    chosen = starting.choose_config(config, model, arguments, console)

    starting.announce(f"reading the text of {chosen.name}")
    starting.check_text(chosen.settings)
    starting.leave_torch_out()
    with starting.importing_libraries():
        from mlmtune.commands.corpus import show_corpus

    show_corpus(chosen.settings, console, as_json=as_json, export_to=export, refresh=refresh)


@app.command()
def vocabulary(
    arguments: options.PlacesAndSettings = None,
    config: options.RunConfig = None,
    model: options.BaseModel = None,
    add: options.AddWords = None,
    as_json: options.AsJson = False,
    export: options.WordsFile = None,
    refresh: options.Refresh = False,
) -> None:
    """Show which words of a text would pay as entries of the vocabulary.

    Nothing is trained. The section vocabulary of a config adds the words to
    the model that is trained.
    """
    number = [] if add is None else [f"vocabulary.add={add}"]
    console = Console(notes_to_stderr=True)
    chosen = starting.choose_config(config, model, [*number, *(arguments or [])], console)

    starting.announce(f"reading the text of {chosen.name}")
    starting.check_text(chosen.settings)
    starting.leave_torch_out()
    with starting.importing_libraries():
        from mlmtune.commands.vocabulary import show_vocabulary

    show_vocabulary(chosen.settings, console, as_json=as_json, export_to=export, refresh=refresh)


@app.command()
def prepare(
    arguments: options.PlacesAndSettings = None,
    config: options.RunConfig = None,
    model: options.BaseModel = None,
    on: options.On = None,
    refresh: options.Refresh = False,
    quiet: options.Quiet = False,
) -> None:
    """Read, clean and tokenize a corpus ahead of training, here or on a cluster."""
    console = Console(is_quiet=quiet)
    given = [*(arguments or []), *([] if on is None else [f"engine.kind={on}"])]
    chosen = starting.choose_config(config, model, given, console)

    starting.announce(f"preparing the text of {chosen.name}", is_quiet=quiet)
    starting.check_text(chosen.settings)
    starting.leave_torch_out()
    with starting.importing_libraries():
        from mlmtune.commands.prepare import prepare_store

    prepare_store(chosen.settings, console, refresh=refresh)


@app.command()
def runs(folder: options.RunsFolder = Path("runs"), as_json: options.AsJson = False) -> None:
    """List the runs in a folder: state, perplexity before and after, verdict, size."""
    from mlmtune.commands.runs import list_runs

    list_runs(expand_home(folder), Console(), as_json=as_json)


@app.command()
def init(
    name: options.ConfigName = None,
    output: options.OutputFile = None,
    schema: options.Schema = False,
) -> None:
    """Write a commented config to start from."""
    from mlmtune.commands.init import list_configs, write_config, write_schema

    if schema:
        write_schema(name, output)
    elif name is None:
        list_configs()
    else:
        write_config(name, output)


def main() -> NoReturn:
    """Run a command; print an error as one line; exit with its code."""
    exits.secure_process()
    # Typer would accept --debug only before the command.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if arguments[:1] == ["help"]:  # as people write it: mlmtune help train
        arguments = [*arguments[1:], "--help"]
    try:
        code = app(args=arguments, prog_name="mlmtune", standalone_mode=False)
        sys.stdout.flush()
    except NobodyReads:
        code = 0
    except (StoppedAtOnce, Exception) as error:
        message, code = _explain(error)
        if exits.shows_traceback() and not isinstance(error, StoppedAtOnce):
            exits.print_traceback()
        exits.fail(message, code)
    exits.finish(code if isinstance(code, int) else 0)


def _explain(error: BaseException) -> tuple[str, int]:
    # Typer's usage errors have moved between packages, so their type is not imported.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        message = " ".join(str(error.format_message()).split())
        return f"{message} ({_advice(message)})", int(error.exit_code)
    return explain(error)


def _advice(message: str) -> str:
    """Return what to write instead of a command line that Typer refuses."""
    arguments = sys.argv[1:]
    for argument, value in zip(arguments, [*arguments[1:], ""], strict=True):
        setting = re.fullmatch(r"--(\w+(?:\.\w+)+)(?:=(.*))?", argument, re.DOTALL)
        if setting and f"--{setting[1]}" in message:
            written = f"{setting[1]}={value if setting[2] is None else setting[2]}"
            return f"settings are given without dashes: {shlex.quote(written)}"
        if "'--config'" in message and re.search(r"\.ya?ml$", argument, re.IGNORECASE):
            return f"did you mean --config {shlex.quote(argument)}?"
    return "mlmtune --help lists the commands"
