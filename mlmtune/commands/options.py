"""Every option and argument of the commands, with its help; first those of several commands."""

from pathlib import Path
from typing import Annotated, Literal

import typer

RunConfig = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE",
        help="The run's YAML file. Without one, name a model and the text.",
    ),
]  # fmt: skip
BaseModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Without a config: the model to start from, a hub name, a folder, or "
        "package://NAME/FOLDER.",
    ),
]
PlacesAndSettings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH|SECTION.KEY=VALUE",
        help="Without a config: the text, as files, folders, globs, URLs of git repositories, or "
        "names of datasets (OWNER/NAME). And settings, which override those of the config; each "
        "value is YAML.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show what would be done, as mlmtune check does; with --on slurm, print the script.",
    ),
]
TaskPath = Annotated[
    Path,
    typer.Option("--config", "-c", metavar="FILE", help="The task's YAML file (section data)."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SECTION.KEY=VALUE",
        help="Settings that override those of the file; each value is YAML.",
    ),
]
ModelNames = Annotated[
    list[str],
    typer.Option(
        "--model",
        metavar="MODEL|RUN",
        help="A folder, the directory of a run, a hub name, or package://NAME/FOLDER. Repeat the "
        "option to compare models.",
    ),
]
NumProcesses = Annotated[
    str | None,
    typer.Option(
        "--nproc",
        metavar="N|auto",
        help="Run in N processes on this machine, each with its own GPU if there are GPUs; auto "
        "starts one process per GPU.",
    ),
]
NumNodes = Annotated[
    int,
    typer.Option(
        "--nodes",
        metavar="N",
        min=1,
        help="Run on N machines, each with the processes of --nproc. Start the same command on "
        "each of them with --rendezvous, or submit a job with --on slurm.",
    ),
]
Rendezvous = Annotated[
    str | None,
    typer.Option(
        "--rendezvous",
        metavar="HOST:PORT",
        help="With --nodes: one of the machines, and a free port on it, where they meet.",
    ),
]
Resume = Annotated[
    str,
    typer.Option(
        metavar="never|auto|PATH",
        help="auto resumes from the newest complete checkpoint, or starts from the beginning if "
        "there is none; PATH resumes from that checkpoint.",
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN|CHECKPOINT",
        help="Start from the weights and the optimizer's moments of a checkpoint: the newest one "
        "of a run, or the one that is given. It replaces model.name_or_path.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Delete the run in the output directory first.")
]
AllowChanges = Annotated[
    bool,
    typer.Option("--allow-changes", help="Resume even if data, model, seed or batch size changed."),
]
On = Annotated[
    Literal["local", "slurm", "ray"] | None,
    typer.Option("--on", help="Where the work is done, as the section engine of the config says."),
]
Refresh = Annotated[
    bool,
    typer.Option("--refresh", help="Look up the current commits of git branches and tags again."),
]
RunsFolder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The folder that is looked through for runs.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only the result.")]
NoReport = Annotated[bool, typer.Option("--no-report", help="Do not make the report at the end.")]
ComparedModels = Annotated[
    list[str],
    typer.Option(
        "--model",
        metavar="MODEL|RUN",
        help="A folder, a hub name, package://NAME/FOLDER, or the directory of a run. The "
        "others are compared with the first. A run alone is compared with its base model.",
    ),
]
AnyConfigPath = Annotated[
    Path,
    typer.Option("--config", "-c", metavar="FILE", help="The YAML file of a run or of a task."),
]
Grid = Annotated[
    list[str],
    typer.Argument(
        metavar="section.key=[A,B,...]",
        help="Values to try, in every combination; section.key=value holds for all runs.",
    ),
]
TextConfigs = Annotated[
    list[Path],
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The config whose validation text and general text are measured on. Repeat the "
        "option for more texts.",
    ),
]
Dump = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.csv",
        help="Write the text, the masked input and the predictions of each chunk, in the first "
        "draw of masks.",
    ),
]
Sentences = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TEXT",
        help="Sentences that contain [MASK]; - reads them from standard input, one per line.",
    ),
]
TextFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A file of sentences, one per line; - is standard input."),
]
Targets = Annotated[
    str | None,
    typer.Option(
        metavar="WORD,...",
        help="Words, separated by commas, whose probability and rank in the vocabulary are "
        "shown for each mask.",
    ),
]
TopK = Annotated[int, typer.Option(min=1, help="Number of candidates for each mask.")]
RunsAndSettings = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN|evaluation.KEY=VALUE",
        help="Directories of finished runs, and settings of what is measured, such as "
        "evaluation.general.",
    ),
]
ReportFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="The folder to write to. The default is the directory of the run, or ./report "
        "for several runs.",
    ),
]
Alphas = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...",
        help="The shares of the adapted weights to choose from; 0 (the base) and 1 (the run) are "
        "always measured. The default is 0,0.25,0.5,0.75,1.",
    ),
]
Alpha = Annotated[
    float | None, typer.Option(metavar="A", help="Write this share instead of choosing one.")
]
MergeFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="The folder to write, which must not exist. The default is merged/ in the directory "
        "of the run, or ./merged for several runs.",
    ),
]
ComparedRuns = Annotated[
    list[Path] | None,
    typer.Option(
        "--compare",
        metavar="RUN",
        help="A run of the same base that is measured beside the merged models, such as one with "
        "replay. Repeat the option for more.",
    ),
]
RunPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="The directory of a finished run, or the folder of a merged model."
    ),
]
ModelPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="The directory of a finished run, or a folder that mlmtune merge, export or embed has "
        "written.",
    ),
]
ExportFormat = Annotated[
    str,
    typer.Option("--to", metavar="onnx|openvino", help="The runtime: ONNX Runtime or OpenVINO."),
]
Int8 = Annotated[
    bool,
    typer.Option(
        "--int8",
        help="Write the model in 8 bits, too (..._quantized), and measure what that costs.",
    ),
]
EmbedSteps = Annotated[
    int, typer.Option(metavar="N", min=1, help="The number of training steps, of 32 pairs each.")
]
EmbedFolder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="FOLDER",
        help="The folder to write, which must not exist. The default is embed/ in the directory of "
        "the run, or in the folder of the merged model.",
    ),
]
ExportFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="The folder to write, which must not exist. The default is onnx/ or openvino/ in the "
        "directory of the run, or in the folder of the merged model.",
    ),
]
RepositoryName = Annotated[
    str, typer.Option(metavar="NAME", help="The repository: NAME, or ORGANISATION/NAME.")
]
Private = Annotated[
    bool,
    typer.Option(
        "--private/--public",
        help="Whether only you can see it. A private push to a public repository is refused.",
    ),
]
Measure = Annotated[
    bool,
    typer.Option(
        "--measure",
        help="Take ten real training steps, and show their speed, when training would finish, "
        "and the peak memory.",
    ),
]
AllStrategies = Annotated[
    bool, typer.Option("--masks", help="Show every masking strategy, not only that of the config.")
]
NumChunks = Annotated[
    int, typer.Option(min=1, metavar="N", help="Number of chunks to show with their masks.")
]
NumDraws = Annotated[
    int, typer.Option(min=1, metavar="N", help="Number of draws of masks to show per chunk.")
]
ExportPath = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the cleaned documents to FILE.jsonl or FILE.parquet."),
]
AddWords = Annotated[
    int | None,
    typer.Option(
        "--add",
        metavar="N",
        help="The number of words, as vocabulary.add. By default it is where the curve of tokens "
        "saved bends.",
    ),
]
WordsFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the words that can be added, for vocabulary.words."),
]
ConfigName = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="The config to write. Without it, all configs are listed."),
]
OutputFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The file to write; NAME.yaml by default.")
]
Schema = Annotated[
    bool,
    typer.Option(
        "--schema",
        help="Instead of a config, print its JSON schema, with which editors check and "
        "complete configs.",
    ),
]
