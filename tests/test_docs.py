"""The documentation is true: its commands run, its links lead somewhere, and it has every key.

Each page is read from top to bottom, as a user would. A YAML block whose first line is a comment
with a file's name is that file; each line of a bash block is a command. Commands run in this
process for two steps, on a little text and on tiny models instead of the hub's. Commands of other
programs are only looked at, and must be among those that are known.
"""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from huggingface_hub import constants
from local_hub import TOKEN, serving
from tasks import examples, sentences, write_json_lines, write_sentences
from trials import TRIALS, chinese, english

from mlmtune import cli
from mlmtune.config import ClassificationConfig, Config
from mlmtune.config_loading import kind_of_config, shipped_configs
from mlmtune.config_problems import known_keys

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EVERYWHERE = [
    *PAGES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")),
]

ON_THE_HUB = {
    "google-bert/bert-base-uncased": "bert",
    "distilbert/distilbert-base-uncased": "distilbert",
    "roberta-base": "roberta",
}
"""The hub's models that the documentation names, and the tiny models that replace them."""

SMALL = ("training.max_steps=2", "training.global_batch_size=8", "training.precision=fp32")
SMALL_MLM = (*SMALL, "evaluation.max_chunks=8")
SMALL_PROBE = (*SMALL, "probe.seeds=2", "probe.train_sizes=[8]", "probe.min_steps=0")

# The words that commands of a page may begin with; the last two kinds are checked and not run.
STARTERS = ("mlmtune", "accelerate", "torchrun")
INSTALLING = "pip install"
SETTING_UP = (
    "git clone", "bash scripts/test.sh", "source .venv/bin/activate", "mkdocs build",
    "python scripts/gallery.py",
)  # fmt: skip


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the fenced blocks of a page, each with its language."""
    yield from re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(block: str) -> Iterator[str]:
    """Yield the commands of a bash block, each on one line, without comments."""
    for line in block.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield line if "#" not in line else shlex.join(words)


# ------------------------------------------------------------------------------- running them


@dataclass
class World:
    """A user's machine: a home, a working directory, and earlier runs."""

    folder: Path
    tiny_models: Callable[[str], Path]
    monkeypatch: pytest.MonkeyPatch
    shipped: dict[str, str] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)

    def run(self, line: str) -> None:
        line = line.split(" || ")[0].replace("$RANK_OF_THIS_MACHINE", "0")
        words = [self._inside_folder(word) for word in shlex.split(line)]
        while "=" in words[0]:  # variables before the command
            words.pop(0)
        command = " ".join(words)
        if words[:2] == ["bash", "scripts/run.sh"]:
            config, *rest = words[2:] or ["configs/quickstart.yaml"]
            self._mlmtune(["train", "--config", config, *rest])
        elif words[0] in STARTERS:
            self._mlmtune(words[words.index("mlmtune") + 1 :])
        elif command.startswith(INSTALLING):
            self._install(words[2:])
        else:
            assert command.startswith(SETTING_UP), f"no test runs this: {line}"

    def _inside_folder(self, word: str) -> str:
        return re.sub(r"(?<![\w.])/(?=(data|shared)/)", f"{self.folder}/", word)

    def _install(self, words: list[str]) -> None:
        extras = re.findall(r"\[([\w,]+)\]", " ".join(words))
        known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert {extra for named in extras for extra in named.split(",")} <= set(known)

    def _mlmtune(self, arguments: list[str]) -> None:
        command = arguments[0]
        arguments, stdin = self._redirected(arguments)
        arguments = list(self._without_processes(arguments))
        arguments = [self._model(word) for word in arguments]
        if command == "init":
            self._forget_what_is_written(arguments)
        configs = [arguments[i + 1] for i, word in enumerate(arguments) if word == "--config"]
        for config in configs[:1]:
            arguments += self._overrides(config, arguments)
        if not configs and command in ("train", "check", "corpus"):  # a first try
            arguments += SMALL_MLM
        if command in ("train", "finetune") and "--resume" not in arguments:
            arguments.append("--overwrite")
        if "openvino" in arguments:  # not in one process with ONNX Runtime: see `own_process`
            subprocess.run([sys.executable, "-m", "mlmtune", *arguments], check=True)
            return
        self.monkeypatch.setattr(sys, "argv", ["mlmtune", *arguments])
        self.monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0, shlex.join(["mlmtune", *arguments])

    def _redirected(self, arguments: list[str]) -> tuple[list[str], Any]:
        content = "start the [MASK] now\n"
        if "<" in arguments:
            at = arguments.index("<")
            content = Path(arguments[at + 1]).read_text(encoding="utf-8")
            arguments = arguments[:at] + arguments[at + 2 :]
        buffer = io.BytesIO(content.encode())
        return arguments, SimpleNamespace(buffer=buffer, isatty=lambda: False)

    def _without_processes(self, arguments: list[str]) -> Iterator[str]:
        """Leave out what starts real processes and clusters, which other tests do."""
        words = iter(arguments)
        for word in words:
            if word in ("--nproc", "--nodes", "--rendezvous", "--on"):
                next(words)
            else:
                yield word

    def _model(self, word: str) -> str:
        key, separator, value = word.rpartition("=")
        if value in ON_THE_HUB and key in ("", "model.name_or_path"):
            return f"{key}{separator}{self.tiny_models(ON_THE_HUB[value])}"
        return word

    def _forget_what_is_written(self, arguments: list[str]) -> None:
        named = [word for word in arguments[1:2] if not word.startswith("-")]
        output = next(
            (arguments[i + 1] for i, word in enumerate(arguments) if word == "--output"),
            f"{named[0]}.yaml" if named else None,
        )
        if output is not None:
            Path(output).unlink(missing_ok=True)
            if named:
                self.shipped[output] = named[0]

    def _overrides(self, config: str, arguments: list[str]) -> list[str]:
        """Return the overrides that make a config small and give it a model and a text."""
        is_task = kind_of_config(config) is ClassificationConfig
        of_task = SMALL_PROBE if arguments[0] == "probe" else SMALL
        overrides = [*(of_task if is_task else SMALL_MLM)]
        if "--add" in arguments or any(word.startswith("vocabulary.add=") for word in arguments):
            overrides.append("vocabulary.add=3")  # the text has few words
        name = self.shipped.get(config, Path(config).stem)
        if not any(word.startswith("model.name_or_path=") for word in arguments):
            family = TRIALS[name].model if name in TRIALS else "bert"
            overrides.append(f"model.name_or_path={self.tiny_models(family)}")
        if is_task:
            ending = "conll" if name == "entities" else "jsonl"
            sides = ("train", "validation", "test")
            overrides += [f"data.{side}={side}.{ending}" for side in sides]
        elif name in TRIALS:
            if name not in self.texts:
                self.texts[name] = TRIALS[name].text()
            if not any(re.match(r"corpus\.sources(=|\.0\.path)", word) for word in arguments):
                overrides += self.texts[name]
            written = yaml.safe_load(shipped_configs()[name].read_text(encoding="utf-8"))
            if isinstance(written["training"].get("micro_batch_size"), int):
                overrides.append("training.micro_batch_size=4")
        return overrides


def write_pages(folder: Path, first: int) -> None:
    folder.mkdir(parents=True)
    for seed in range(first, first + 40):
        text = f"# Page {seed}\n\n{english(seed, 12)}\n"
        (folder / f"{seed}.md").write_text(text, encoding="utf-8")


@pytest.fixture
def world(
    tmp_path: Path, tiny_models: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    home, here = tmp_path / "home", tmp_path / "here"
    monkeypatch.setenv("HOME", str(home))
    here.mkdir()
    monkeypatch.chdir(here)
    for number, name in enumerate(["notes", "docs", "wiki", "src/azure-md"]):
        write_pages(home / name, 1000 * number)
    write_pages(here / "reviews", 9000)
    for path in (here / "reviews").iterdir():
        path.rename(path.with_suffix(".txt"))
    shutil.copytree(ROOT / "configs", here / "configs")
    (tmp_path / "shared").mkdir()
    shared = (ROOT / "configs" / "azure.yaml").read_text(encoding="utf-8")
    (tmp_path / "shared" / "azure.yaml").write_text(
        shared.replace("runs/azure", str(tmp_path / "shared" / "runs" / "azure")), encoding="utf-8"
    )
    for name, write in (("lines.txt", english), ("zh.txt", chinese)):
        lines = [write(seed, 1) for seed in range(300)]
        Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    Path("sentences.txt").write_text("start the [MASK] now\n", encoding="utf-8")
    for seed, side in enumerate(("train", "validation", "test")):
        write_json_lines(Path(f"{side}.jsonl"), examples(40, seed))
        write_sentences(Path(f"{side}.conll"), sentences(40, seed))
    shutil.copy(shipped_configs()["task"], "task.yaml")
    Path("mine.yaml").write_text(
        "run: {output_dir: runs/mine}\n"
        "model: {name_or_path: google-bert/bert-base-uncased}\n"
        "corpus: {sources: [{format: markdown, path: ~/notes}]}\n",
        encoding="utf-8",
    )
    made = World(tmp_path, tiny_models, monkeypatch)
    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        made.run("mlmtune train --config mine.yaml --no-report")
        for name in ("azure", "azure-replay", "tapt", "dapt"):
            shutil.copytree("runs/mine", f"runs/{name}")
        yield made


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_command_of_the_documentation_runs(
    page: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for language, block in blocks(page.read_text(encoding="utf-8")):
        if language == "yaml" and (named := re.match(r"# ([\w/-]+\.yaml)\n", block)):
            Path(named[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(named[1]).write_text(block, encoding="utf-8")
        if language == "bash":
            for line in commands(block):
                is_push = "mlmtune push" in line
                monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not is_push)
                world.run(line)


def test_a_command_that_does_not_run_is_found(world: World) -> None:
    for line in (
        "mlmtune trian --config mine.yaml",
        "mlmtune train --config mine.yaml no.key=1",
        "rm -rf ~",
        "pip install '.[nothing]'",
        "mlmtune fill --model runs/none x",
    ):
        with pytest.raises(AssertionError):
            world.run(line)


def test_pieces_of_yaml_are_of_a_config(tmp_path: Path) -> None:
    """The keys in examples exist."""
    keys = {*known_keys(Config), *known_keys(ClassificationConfig)}
    for page in PAGES:
        for language, block in blocks(page.read_text(encoding="utf-8")):
            if language != "yaml":
                continue
            for key in keys_in(yaml.safe_load(block)):
                is_option_of_sbatch = key.startswith("engine.sbatch.")
                assert key in keys or is_option_of_sbatch, f"{page_name(page)}: {key}"


def keys_in(value: Any, name: str = "") -> Iterator[str]:
    """Yield the dotted names of keys as `known_keys` does: an entry of a list is `0`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{name}.{key}" if name else key
            yield path
            # Other kinds of sections, and keys that the user chooses.
            if path not in ("masking.mlm_probability", "phases.0.sources"):
                yield from keys_in(inner, path)
    elif isinstance(value, list):
        for inner in value:
            yield from keys_in(inner, f"{name}.0")


# ------------------------------------------------------------------------------ what it covers


def names_of_commands() -> list[str]:
    group: Any = typer.main.get_command(cli.app)
    return list(group.commands)


@pytest.mark.parametrize("name", names_of_commands())
def test_every_command_is_documented(name: str) -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert re.search(rf"mlmtune {name}\b", pages)


def test_every_option_is_one_that_exists() -> None:
    """Options that a page uses with a command are options of that command."""
    group: Any = typer.main.get_command(cli.app)
    for page in PAGES:
        for language, block in blocks(page.read_text(encoding="utf-8")):
            for line in commands(block) if language == "bash" else ():
                words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
                if words[0] not in STARTERS:
                    continue
                name, *rest = words[words.index("mlmtune") + 1 :]
                options = group.commands[name].params
                known = {o for option in options for o in (*option.opts, *option.secondary_opts)}
                assert {word for word in rest if word.startswith("--")} <= known, line


def test_the_config_reference_is_current() -> None:
    """`python scripts/config_reference.py` writes it."""
    scope: dict[str, Any] = {"__name__": "reference", "__file__": str(ROOT / "scripts" / "x.py")}
    source = (ROOT / "scripts" / "config_reference.py").read_text(encoding="utf-8")
    exec(compile(source, "config_reference.py", "exec"), scope)
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == scope["reference"]()


@pytest.mark.parametrize("kind", [Config, ClassificationConfig])
def test_every_key_is_in_the_config_reference(
    kind: type[Config] | type[ClassificationConfig],
) -> None:
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    for key in known_keys(kind):
        last = key.rpartition(".")[2]
        assert last == "0" or f"| `{last}` |" in page or f"## `{last}`" in page, key


def test_every_extra_is_documented() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = text[text.index("[project.optional-dependencies]") : text.index("[project.scripts]")]
    page = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    for extra in re.findall(r"^(\w+) = \[", extras, re.MULTILINE):
        assert re.search(rf"^\|.*`{extra}`.*\|", page, re.MULTILINE), extra


def test_every_page_is_in_the_contents() -> None:
    contents = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in contents, page


def test_every_exit_code_is_explained() -> None:
    page = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    from mlmtune import errors

    codes = {kind.exit_code for kind in errors.MlmtuneError.__subclasses__()
             if kind is not errors.Interrupted}  # fmt: skip
    for code in (0, *codes, 129, 130, 138, 143):
        assert f"\n| {code} |" in page


# ------------------------------------------------------------------------------------- links


def links(text: str) -> Iterator[str]:
    """Yield the targets of links and images outside of code."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"`[^`\n]*`", "code", prose)
    yield from re.findall(r"\]\(([^)\s]+)\)", prose)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-").lower() for heading in headings}


@pytest.mark.parametrize("page", EVERYWHERE, ids=page_name)
def test_every_link_inside_the_repository_resolves(page: Path) -> None:
    for target in links(page.read_text(encoding="utf-8")):
        if re.match(r"\w+://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert os.path.commonpath([linked, ROOT]) == str(ROOT), target
        if anchor:
            assert anchor in anchors(linked), target


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build_site(ROOT / "mkdocs.yml", folder)
    return folder


def build_site(config: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    command += ["--config-file", str(config), "--site-dir", str(folder)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr


def test_the_site_has_every_page_and_every_file_that_a_page_links_to(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.stem.replace("README", "") / "index.html").is_file(), page
    start = (site / "index.html").read_text(encoding="utf-8")
    for folder in ("getting-started", "config", "overview", "CONTRIBUTING", "benchmarks"):
        assert f'<a href="{folder}/" class="md-nav__link">' in start, folder
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r'(?:href|src)="([^":#?]+)["#?]', text):
            start_at = site if target.startswith("/") else page.parent
            assert (start_at / target.lstrip("/")).exists(), f"{page}: {target}"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of what the site is built from, without reports."""
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("docs", "scripts", "benchmarks", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "mlmtune").mkdir()
    shutil.copy(ROOT / "mlmtune" / "config.py", tmp_path / "mlmtune")
    return tmp_path


def test_the_site_is_not_built_with_a_broken_link(copy: Path) -> None:
    page = copy / "docs" / "masking.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n[Gone](../gone.md)\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="gone"):
        build_site(copy / "mkdocs.yml", copy / "site")


def test_the_site_shows_the_reports_that_were_made(copy: Path) -> None:
    report = copy / "runs" / "gallery" / "quickstart" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("<!doctype html><title>A report</title>", encoding="utf-8")
    build_site(copy / "mkdocs.yml", copy / "site")
    shown = copy / "site" / "gallery"
    assert (shown / "quickstart" / "report.html").read_bytes() == report.read_bytes()
    page = (shown / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'<iframe [^>]*src="([^"]+)"', page) == ["quickstart/report.html"]
    assert '<a href="quickstart/report.html">' in page
    assert "<code>runs/gallery/code/report.html</code>" in page  # was not made


def test_the_gallery_is_made_by_the_commands_of_its_page(copy: Path) -> None:
    config = "# runs/gallery/a.yaml\nrun: {}\n"
    lines = "ls no-such-file\nmlmtune \\\n    no-such-command\n"
    page = f"```yaml\n{config}```\n\n```bash\n{lines}```\n"
    (copy / "docs" / "gallery.md").write_text(page, encoding="utf-8")
    make = [sys.executable, str(copy / "scripts" / "gallery.py")]
    failed = subprocess.run(make, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "No such command 'no-such-command'" in failed.stderr
    assert (copy / "runs" / "gallery" / "a.yaml").read_text(encoding="utf-8") == config
    again = subprocess.run(make, capture_output=True, text=True)
    assert again.returncode == 1
    assert "delete it" in again.stderr


def test_links_are_found() -> None:
    assert list(links("[a](b.md#c) `[x](y)` ![d](e.svg)\n```\n[f](g)\n```\n")) == [
        "b.md#c",
        "e.svg",
    ]


def test_figures_are_plain_pictures() -> None:
    """A figure loads nothing from elsewhere, and has a title."""
    figures = list((ROOT / "docs" / "figures").glob("*.svg"))
    assert figures
    used = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for figure in figures:
        text = figure.read_text(encoding="utf-8")
        assert "<title>" in text
        assert not re.search(r"href|<script|url\(h", text)
        assert f"figures/{figure.name}" in used
