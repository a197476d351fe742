"""The commands: their options, and the exit code of each error.

What a command needs is imported when it runs: `--help` and config errors must not wait for torch.
"""

import os
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mlmtune import __version__, exits
from mlmtune.commands import starting
from mlmtune.console import Console
from mlmtune.errors import ConfigError, NobodyReads, StoppedAtOnce, explain
from mlmtune.locations import expand_home
from mlmtune.printable import counted
from mlmtune.shell import own_command

if TYPE_CHECKING:
    from mlmtune.config import HubConfig

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

WRITES_FILES = ("train", "finetune", "probe", "sweep", "report", "push", "prepare")
"""Commands that go on to their end although nobody reads what they print."""

ConfigPath = Annotated[Path, typer.Option("--config", metavar="FILE", help="The run's YAML file.")]
TaskPath = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The task's YAML file (section data).")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SECTION.KEY=VALUE",
        help="Settings that take the place of the file's; the value is YAML.",
        show_default=False,
    ),
]
ModelNames = Annotated[
    list[str],
    typer.Option(
        "--model",
        metavar="MODEL|RUN",
        help="A folder, the directory of a run, a hub name, or package://NAME/FOLDER; several "
        "times to compare models.",
    ),
]
NumProcesses = Annotated[
    str | None,
    typer.Option(
        "--nproc",
        metavar="N|auto",
        help="Run in N processes on this machine, with a GPU each where there are GPUs; auto is "
        "one for each GPU.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result alone.")]
Resume = Annotated[
    str,
    typer.Option(
        metavar="never|auto|PATH",
        help="auto goes on from the newest whole checkpoint, or starts where there is none; "
        "PATH goes on from that one.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Delete the run in the output directory first.")
]
AllowChanges = Annotated[
    bool,
    typer.Option("--allow-changes", help="Resume even if data, model, seed or batch size changed."),
]
Refresh = Annotated[
    bool,
    typer.Option("--refresh", help="Look up again where branches of git repositories are."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Adapt a pretrained masked language model to a domain's text, and show the effect.

    Exit codes: 0 done, 2 config or usage, 3 data, 4 checkpoint or resume, 5 diverged,
    6 memory or disk, 7 hub or network, 129, 130 and 143 interrupted.
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
    config: ConfigPath,
    overrides: Overrides = None,
    resume: Resume = "never",
    overwrite: Overwrite = False,
    allow_changes: AllowChanges = False,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Leave out the report at the end.")
    ] = False,
    nproc: NumProcesses = None,
    quiet: Quiet = False,
) -> None:
    """Train a model on text, and report whether it helped.

    Perplexity is measured before and after, on text that is kept apart for it.
    """
    _check_resume(resume, overwrite)
    settings = starting.load_adaptation(config, overrides)
    run = expand_home(settings.run.output_dir)
    starting.announce(f"training with {config} into {run}", is_quiet=quiet)
    if resume == "never":  # a finished run needs neither model nor text
        starting.check_model_and_text(settings)
    starting.run_in_processes(nproc, run)

    from mlmtune.training.job import Options
    from mlmtune.training.loop import train as run_training
    from mlmtune.training.masked_lm import build_masked_lm
    from mlmtune.training.outcome import outcome

    text = config.read_text(encoding="utf-8")
    command = ("train", str(config), *(overrides or []))
    options = Options(resume, overwrite, allow_changes, quiet, config_text=text, command=command)
    results = run_training(settings, options, build_masked_lm)
    # Of a run that was complete already, the report may be missing: it was killed while making it.
    is_reported = results is None and (run / "report.html").is_file()
    if exits.is_first_process() and not is_reported:
        console = Console(is_quiet=quiet)
        has_report = not no_report and _report_on_finished(run, console)
        if results is not None and not has_report:
            console.result(f"{run.resolve().name}: {outcome(results)}")
    _push_finished(run, settings.hub, Console(is_quiet=quiet))


def _report_on_finished(run: Path, console: Console) -> bool:
    """Report on the run that has just come to its end, which no failure here undoes.

    Returns:
        Whether there is a report.
    """
    from mlmtune.report.report import report_on
    from mlmtune.report.runs import open_run

    try:
        report_on([open_run(run)], [], None, console)
    except Exception as error:
        console.say(
            f"there is no report ({_explain(error)[0]}); {own_command('report', run)} makes it"
        )
        return False
    return True


def _push_finished(run: Path, hub: "HubConfig", console: Console) -> None:
    """Push the run that has come to its end, where the config says so; again if need be."""
    if hub.hub_model_id is None or not exits.is_first_process():
        return
    from mlmtune.commands.push import push_run

    push_run(run, hub.hub_model_id, is_private=hub.private, console=console)


def _check_resume(resume: str, overwrite: bool) -> None:
    if overwrite and resume != "never":
        raise ConfigError("--resume and --overwrite contradict each other; give one of them")


@app.command()
def finetune(
    config: TaskPath,
    overrides: Overrides = None,
    resume: Resume = "never",
    overwrite: Overwrite = False,
    allow_changes: AllowChanges = False,
    nproc: NumProcesses = None,
    quiet: Quiet = False,
) -> None:
    """Train a classifier on a task's labelled examples.

    Its test set is measured once, at the end.
    """
    _check_resume(resume, overwrite)
    settings = starting.load_task(config, overrides)
    run = expand_home(settings.run.output_dir)
    starting.announce(f"training a classifier with {config} into {run}", is_quiet=quiet)
    if resume == "never":
        starting.check_model_and_text(settings)
    starting.run_in_processes(nproc, run)

    from mlmtune.classification.sequence_classification import build_classification
    from mlmtune.training.job import Options
    from mlmtune.training.loop import train as run_training

    text = config.read_text(encoding="utf-8")
    command = ("finetune", str(config), *(overrides or []))
    options = Options(resume, overwrite, allow_changes, quiet, config_text=text, command=command)
    run_training(settings, options, build_classification)
    _push_finished(run, settings.hub, Console(is_quiet=quiet))


@app.command()
def probe(
    models: Annotated[
        list[str],
        typer.Option(
            "--model",
            metavar="MODEL|RUN",
            help="A folder, a hub name, package://NAME/FOLDER, or the directory of a run; the "
            "first is what the others are compared with. A run alone is compared with its base.",
        ),
    ],
    config: TaskPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare models on a task, with frozen features and fine-tuned.

    Each model is trained with several seeds and on several amounts of training examples. What was
    finished is kept beside run.output_dir, and the same command goes on from there.
    """
    starting.refuse_several_processes("probe")
    # The revision is that of the config's own model.
    settings = starting.load_task(config, [*(overrides or []), "model.revision=null"])

    starting.announce(f"comparing {', '.join(models)} on {config}", is_quiet=quiet)
    starting.check_models(models, "--model")
    starting.check_text(settings)

    from mlmtune.report.probing import probe as probe_models

    console = Console(is_quiet=quiet, notes_to_stderr=True)
    probe_models(settings, models, console, as_json=as_json)


@app.command()
def sweep(
    config: Annotated[
        Path,
        typer.Option(
            "--config",
            metavar="FILE",
            help="A config of adaptation, or of a task.",
            show_default=False,
        ),
    ],
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="section.key=[A,B,...]",
            help="Values to try, every combination of them; section.key=value holds for all.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a small grid of settings and compare the runs.

    All runs are measured on the same validation data. Each needs a budget: training.max_steps or
    training.max_minutes. A task's test is left alone. What was finished is kept beside
    run.output_dir, and the same command goes on from there.
    """
    starting.refuse_several_processes("sweep")
    from mlmtune.config_loading import kind_of
    from mlmtune.report.grid import plan_sweep

    planned = plan_sweep(config, settings, kind_of(config))

    starting.announce(
        f"training {counted(len(planned.trials), 'run')} with {config}", is_quiet=quiet
    )
    for trial in planned.trials:
        starting.check_model_and_text(trial.config)

    from mlmtune.report.sweeping import sweep as run_sweep

    run_sweep(config, planned, Console(is_quiet=quiet, notes_to_stderr=True), as_json=as_json)


@app.command("eval")
def evaluate(
    models: ModelNames,
    configs: Annotated[
        list[Path],
        typer.Option(
            "--config",
            metavar="FILE",
            help="Whose validation text, and general text, to measure on; may be given again.",
        ),
    ],
    overrides: Overrides = None,
    nproc: NumProcesses = None,
    as_json: AsJson = False,
    dump: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Write text, masked input and prediction of each chunk.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure models on the validation text of configs.

    The table has a row for each model on each text; general text of a config is a text, too.
    """
    # The revision is that of the config's own model.
    changes = [*(overrides or []), "model.revision=null"]
    settings = [(path.stem, starting.load_adaptation(path, changes)) for path in configs]
    texts = ", ".join(map(str, configs))
    starting.announce(f"measuring {', '.join(models)} on the text of {texts}")
    starting.check_models(models, "--model")
    for _, one in settings:
        starting.check_text(one)
    starting.run_in_processes(nproc)

    from mlmtune.commands.eval import evaluate_models

    console = Console(notes_to_stderr=True)
    evaluate_models(settings, models, console, as_json=as_json, dump=dump)


@app.command()
def fill(
    models: ModelNames,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT",
            help="Sentences with [MASK] in them; - reads them from standard input, one a line.",
            show_default=False,
        ),
    ] = None,
    text_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Sentences, one a line; - is standard input.", show_default=False
        ),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="WORD,...",
            help="Words to look up at each mask, with commas between them: how probable each is, "
            "and its rank in the vocabulary.",
            show_default=False,
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Candidates for each mask.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Show what models put in the place of [MASK], side by side.

    Sentences that are not given are read from standard input, one a line; on a terminal they are
    asked for until Ctrl-D. A model's own mask token may stand for [MASK].

    The JSON is a list with {text, models} for each sentence; in models {name, model, head_is_new,
    masks} for each model; in masks {predictions, targets} for each mask; in predictions {score,
    token, token_str, sequence}; in targets {word, pieces, token, token_str, score, rank}, the last
    four null where no token of the vocabulary is the word.
    """
    from mlmtune.commands.fill_input import given_sentences, listed_words

    words = listed_words(targets)
    sentences = given_sentences(texts or [], text_file)
    if sentences is None:
        with suppress(ImportError):
            import readline  # noqa: F401  # gives input() its line editing and its history

    starting.announce(f"loading {', '.join(models)}")
    starting.check_models(models, "--model")

    from mlmtune.commands.fill import MaskFiller, converse, show

    console = Console(notes_to_stderr=True)
    filler = MaskFiller(models, sentences or [], words, top_k, console)
    if sentences is None:
        converse(lambda text: show([filler.fill(text)], console, as_json=as_json), console)
    else:
        show(map(filler.fill, sentences), console, as_json=as_json)


@app.command("report")
def report_runs(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|evaluation.KEY=VALUE",
            help="Directories of finished runs; settings of what is measured, such as "
            "evaluation.general.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where to; the run's directory, or ./report for several.",
            show_default=False,
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Report whether adaptation helped.

    The base and the adapted model are measured on the same masks. Writes report.html, report.md
    and report.json.
    """
    overrides = [argument for argument in arguments if re.match(r"\w+(\.\w+)+=", argument)]
    paths = [expand_home(a) for a in arguments if a not in overrides]
    if not paths:
        raise ConfigError("there is no run to report on; give a run.output_dir")
    from mlmtune.report.runs import open_run

    runs = [open_run(path) for path in paths]
    starting.announce(f"reporting on {', '.join(map(str, paths))}", is_quiet=quiet)

    from mlmtune.report.report import report_on

    report_on(runs, overrides, output, Console(is_quiet=quiet))


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished run.")],
    repo: Annotated[
        str,
        typer.Option(metavar="NAME", help="The repository: NAME, or ORGANISATION/NAME."),
    ],
    private: Annotated[
        bool,
        typer.Option(
            "--private/--public",
            help="Whether only you see it. A private push to a public repository is refused.",
        ),
    ] = True,
    quiet: Quiet = False,
) -> None:
    """Push a run's model and its card to the Hugging Face hub.

    The token is that of HF_TOKEN, or of hf auth login. What an earlier attempt has uploaded is not
    uploaded again.
    """
    from mlmtune.commands.push import push_run

    push_run(expand_home(run), repo, is_private=private, console=Console(is_quiet=quiet))


@app.command()
def check(
    config: ConfigPath,
    overrides: Overrides = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Take ten real steps: speed, finish time, peak memory."),
    ] = False,
    masks: Annotated[
        bool, typer.Option("--masks", help="Show every masking strategy beside the config's.")
    ] = False,
    chunks: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many chunks to show with their masks.")
    ] = 1,
    draws: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many draws of masks to show of each.")
    ] = 1,
) -> None:
    """Show what a config would do, without training."""
    settings = starting.load_adaptation(config, overrides)

    starting.announce(f"checking {config}")
    starting.check_model_and_text(settings)

    from mlmtune.commands.check import preview

    preview(settings, measure=measure, num_chunks=chunks, num_draws=draws, compares=masks)


@app.command()
def corpus(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the cleaned documents to FILE.jsonl or FILE.parquet.",
            show_default=False,
        ),
    ] = None,
    refresh: Refresh = False,
) -> None:
    """Show what a corpus comes to: found, cleaned, left out, kept."""
    settings = starting.load_adaptation(config, overrides)

    starting.announce(f"reading the text of {config}")
    starting.check_text(settings)
    starting.leave_torch_out()
    from mlmtune.commands.corpus import show_corpus

    console = Console(notes_to_stderr=True)
    show_corpus(settings, console, as_json=as_json, export_to=export, refresh=refresh)


@app.command()
def prepare(
    config: ConfigPath,
    overrides: Overrides = None,
    refresh: Refresh = False,
    quiet: Quiet = False,
) -> None:
    """Read, clean and tokenize a corpus ahead of training."""
    settings = starting.load_adaptation(config, overrides)

    starting.announce(f"preparing the text of {config}", is_quiet=quiet)
    starting.check_text(settings)
    starting.leave_torch_out()
    from mlmtune.commands.prepare import prepare_store

    prepare_store(settings, Console(is_quiet=quiet), refresh=refresh)


@app.command()
def init(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Which config; all are listed without it.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Where to; NAME.yaml by default.",
                     show_default=False),
    ] = None,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            help="Instead of a config, print the JSON schema of its kind, by which editors check "
            "and complete.",
        ),
    ] = False,
) -> None:  # fmt: skip
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
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
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
    # Typer's usage errors have moved between packages; what they can do has not.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        message = " ".join(str(error.format_message()).split())
        return f"{message} ({_advice(message)})", int(error.exit_code)
    return explain(error)


def _advice(message: str) -> str:
    """What to write instead of a command line that Typer refuses."""
    arguments = sys.argv[1:]
    for argument, value in zip(arguments, [*arguments[1:], ""], strict=True):
        setting = re.fullmatch(r"--(\w+(?:\.\w+)+)(?:=(.*))?", argument, re.DOTALL)
        if setting and f"--{setting[1]}" in message:
            written = f"{setting[1]}={value if setting[2] is None else setting[2]}"
            return f"settings are given without dashes: {shlex.quote(written)}"
        if "'--config'" in message and re.search(r"\.ya?ml$", argument, re.IGNORECASE):
            return f"did you mean --config {shlex.quote(argument)}?"
    return "mlmtune --help shows what there is"
