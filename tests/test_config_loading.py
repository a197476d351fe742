"""Loading: what a YAML file means, overrides, and how problems are reported."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mlmtune.config import ClassificationConfig, Config, Section, keys_of
from mlmtune.config_loading import (
    MAX_BYTES,
    SHIPPED_TASKS,
    json_schema,
    load_config,
    resolved_yaml,
    shipped_configs,
)
from mlmtune.errors import ConfigError
from mlmtune.yaml_document import Origin, parse

LEAST = """\
run:
  output_dir: runs/x
model:
  name_or_path: some/model
corpus:
  sources:
    - format: text
      path: notes
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a config, as short and relative as a user would give it."""
    monkeypatch.chdir(tmp_path)
    return Path("my.yaml")


def problems(file: Path, text: str, *overrides: str) -> list[str]:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    return str(caught.value).splitlines()


def loaded(file: Path, text: str = LEAST, *overrides: str) -> Config:
    file.write_text(text, encoding="utf-8")
    return load_config(str(file), overrides)


class TestValues:
    @pytest.mark.parametrize(
        ("written", "value"),
        [("1e-5", 1e-5), ("1E-5", 1e-5), (".5", 0.5), ("5.", 5.0), ("1", 1.0), ("+2e-4", 2e-4)],
    )
    def test_numbers_are_numbers(self, file: Path, written: str, value: float) -> None:
        config = loaded(file, LEAST + f"optimizer:\n  learning_rate: {written}\n")
        assert config.optimizer.learning_rate == value

    @pytest.mark.parametrize("word", ["no", "yes", "on", "off", "No", "2024-01-01", "1:30", "a#b"])
    def test_words_are_text(self, file: Path, word: str) -> None:
        assert loaded(file, LEAST.replace("notes", word)).corpus.sources[0].path == word

    @pytest.mark.parametrize("nothing", ["", "~", "null"])
    def test_nothing_is_null(self, file: Path, nothing: str) -> None:
        config = loaded(file, LEAST + f"training:\n  max_steps: {nothing}\n")
        assert config.training.max_steps is None

    def test_a_whole_number_may_begin_with_zero(self, file: Path) -> None:
        assert loaded(file, LEAST + "training: {max_steps: 010}").training.max_steps == 10

    def test_quoted_text_is_never_a_number(self, file: Path) -> None:
        assert loaded(file, LEAST.replace("notes", "'12'")).corpus.sources[0].path == "12"

    @pytest.mark.parametrize("mark", ["\ufeff", ""])
    def test_windows_files_load(self, file: Path, mark: str) -> None:
        file.write_bytes((mark + LEAST.replace("\n", "\r\n")).encode())
        assert load_config(file).run.output_dir == "runs/x"

    def test_merge_keys_are_unknown_keys(self, file: Path) -> None:
        assert "corpus.<<: unknown key" in problems(file, LEAST + "  <<: {a: 1}\n")[0]


class TestProblems:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            (
                "training:\n  epoch: 3\n",
                "my.yaml:10: training.epoch: unknown key; did you mean 'epochs'?",
            ),
            (
                "trainng:\n  epochs: 3\n",
                "my.yaml:9: trainng: unknown key; did you mean 'training'?",
            ),
            (
                "training:\n  learning_rate: 1e-5\n",
                "my.yaml:10: training.learning_rate: unknown key; "
                "did you mean 'optimizer.learning_rate'?",
            ),
            (
                "training:\n  mlm_probability: 0.3\n",
                "my.yaml:10: training.mlm_probability: unknown key; "
                "did you mean 'masking.mlm_probability' or 'evaluation.mlm_probability'?",
            ),
            (
                "epochs: 3\n",
                "my.yaml:9: epochs: unknown key; did you mean 'training.epochs'?",
            ),
            (
                "training:\n  Max-Steps: 3\n",
                "my.yaml:10: training.Max-Steps: unknown key; did you mean 'max_steps'?",
            ),
            (
                "optimizer:\n  num_train_epochs: 3\n",
                "my.yaml:10: optimizer.num_train_epochs: unknown key; "
                "did you mean 'training.epochs'?",
            ),
            (
                "masking:\n  mlm_probability: {start: 0.3}\n",
                "my.yaml:10: masking.mlm_probability.end: missing; it is a number > 0 and <= 1",
            ),
            (
                "masking:\n  mlm_probability: {start: 0.3, end: 2}\n",
                "my.yaml:10: masking.mlm_probability.end: expected a number > 0 and <= 1, got 2; "
                "did you mean 0.02?",
            ),
            (
                "masking:\n  mlm_probability: high\n",
                "my.yaml:10: masking.mlm_probability: expected a number > 0 and <= 1 or a section "
                "of start and end, got 'high'",
            ),
            (
                "masking:\n  mlm_probability: {start: 0.3, end: 0.2, mid: 0.2}\n",
                "my.yaml:10: masking.mlm_probability.mid: unknown key; the keys of "
                "masking.mlm_probability are start and end",
            ),
            (
                "masking:\n  strategy: whole_words\n",
                "my.yaml:10: masking.strategy: expected 'token', 'whole_word' or 'span', got "
                "'whole_words'; did you mean 'whole_word'?",
            ),
            (
                "objective: mlm+nps\n",
                "my.yaml:9: objective: expected 'mlm', 'mlm+nsp' or 'mlm+sop', got 'mlm+nps'; did "
                "you mean 'mlm+nsp'?",
            ),
            (
                "objective: mlm+nsp\ntokenization:\n  language: english\n",
                "my.yaml:11: tokenization.language: expected a code of ISO 639, such as en or zh, "
                "got 'english'",
            ),
            (
                "tokenization:\n  zzz: 3\n",
                "my.yaml:10: tokenization.zzz: unknown key; the keys of tokenization are "
                "cache_dir, parts, store, word_segmenter, max_unknown_share and language",
            ),
            (
                "training:\n  epochs: abc\n",
                "my.yaml:10: training.epochs: expected a number > 0 or null, got 'abc'",
            ),
            (
                "chunking:\n  chunk_length: abc\n",
                "my.yaml:10: chunking.chunk_length: expected a whole number >= 4, got 'abc'",
            ),
            (
                "chunking:\n  chunk_length: '128'\n",
                "my.yaml:10: chunking.chunk_length: expected a whole number >= 4, got '128'; "
                "did you mean 128?",
            ),
            (
                "training:\n  max_steps: 1e4\n",
                "my.yaml:10: training.max_steps: expected a whole number >= 1 or null, "
                "got 10000.0; did you mean 10000?",
            ),
            (
                "training:\n  max_steps: 10_000\n",
                "my.yaml:10: training.max_steps: expected a whole number >= 1 or null, "
                "got '10_000'; did you mean 10000?",
            ),
            (
                "optimizer:\n  learning_rate: 1e999\n",
                "my.yaml:10: optimizer.learning_rate: expected a number > 0, got '1e999'",
            ),
            (
                "optimizer:\n  learning_rate: .inf\n",
                "my.yaml:10: optimizer.learning_rate: expected a number > 0, got '.inf'",
            ),
            (
                "  deduplicate: no\n",
                "my.yaml:9: corpus.deduplicate: expected true or false, got 'no'; write false",
            ),
            (
                "training:\n  max_steps: true\n",
                "my.yaml:10: training.max_steps: expected a whole number >= 1 or null, got true",
            ),
            (
                "training:\n  precision: bf-16\n",
                "my.yaml:10: training.precision: expected 'auto', 'fp32', 'bf16' or 'fp16', "
                "got 'bf-16'; did you mean 'bf16'?",
            ),
            (
                "checkpoint:\n  every: epochs\n",
                "my.yaml:10: checkpoint.every: expected a whole number >= 1, 'epoch' or null, "
                "got 'epochs'; did you mean 'epoch'?",
            ),
            (
                "  markdown:\n    tables: dorp\n",
                "my.yaml:10: corpus.markdown.tables: expected 'text' or 'drop', got 'dorp'; "
                "did you mean 'drop'?",
            ),
            (
                "evaluation:\n  examples:\n    - a\n    - [MASK]\n",
                "my.yaml:12: evaluation.examples.1: expected text, got a list; "
                "text that begins with [ or has a colon needs quotes",
            ),
            (
                "  min_characters: -1\n",
                "my.yaml:9: corpus.min_characters: expected a whole number >= 0, got -1; "
                "did you mean 1?",
            ),
            (
                "training:\n",
                "my.yaml:9: training: expected a section, got nothing; "
                "remove the section or give it a key",
            ),
            (
                "masking:\n  mask_replace_prob: 0.8\n  random_replace_prob: 0.3\n",
                "my.yaml:10: masking: mask_replace_prob + random_replace_prob must not exceed 1",
            ),
            (
                "run:\n  output_dir: runs/y\n",
                "my.yaml:9: run: given twice, first on line 1; remove one",
            ),
            (
                "tokenization:\n  cache_dir: 1\n",
                "my.yaml:10: tokenization.cache_dir: expected text or null, got 1; "
                "put it in quotes",
            ),
        ],
    )
    def test_one_problem_is_one_line(self, file: Path, text: str, line: str) -> None:
        assert problems(file, LEAST + text) == [line]

    @pytest.mark.parametrize("value", ["true", "false"])
    @pytest.mark.parametrize("section", ["", "model:", "training:"])
    def test_code_from_model_repositories_is_refused(
        self, file: Path, section: str, value: str
    ) -> None:
        text = LEAST.replace("model:\n  name_or_path: some/model\n", "")
        indent = "  " if section else ""
        text += f"{section}\n{indent}trust_remote_code: {value}\n"
        if section != "model:":
            text += "model:\n"
        text += "  name_or_path: some/model\n"
        (line,) = problems(file, text)
        assert line.endswith(
            "trust_remote_code: refused: mlmtune never runs code from a model repository; "
            "remove the key"
        )

    def test_a_missing_section_says_what_it_needs(self, file: Path) -> None:
        text = LEAST.replace("model:\n  name_or_path: some/model\n", "")
        assert problems(file, text) == ["my.yaml:1: model: missing; the section needs name_or_path"]

    def test_a_missing_key_is_reported_at_its_section(self, file: Path) -> None:
        assert problems(file, LEAST.replace("    - format: text\n      path", "    - path")) == [
            "my.yaml:7: corpus.sources.0.format: missing; "
            "it is 'markdown', 'text', 'lines', 'sentences', 'json', 'csv', 'parquet', 'pdf', "
            "'docx', 'pptx', 'html', 'epub', 'notebook', 'rst', 'python' or 'dataset'"
        ]

    @pytest.mark.parametrize(("key", "typo"), [("output_dir", "output_dri"), ("run", "rum")])
    def test_a_mistyped_key_is_not_reported_as_missing_too(
        self, file: Path, key: str, typo: str
    ) -> None:
        (line,) = problems(file, LEAST.replace(f"{key}:", f"{typo}:"))
        assert line.endswith(f"unknown key; did you mean '{key}'?")

    def test_a_rule_between_keys_points_at_a_key_of_the_entry_of_a_list(self, file: Path) -> None:
        assert problems(file, LEAST.replace("notes", "notes\n      text_field: body")) == [
            "my.yaml:9: corpus.sources.0: text_field has no meaning for format 'text'; remove it"
        ]

    @pytest.mark.parametrize(
        ("text", "overrides", "where"),
        [
            ("tokenization:\n  language: zh\n", [], "my.yaml:10: tokenization.language has no"),
            (
                "chunking:\n  chunk_length: 32\n  mode: per_document\nobjective: mlm+nsp\n", [],
                "my.yaml:12: objective: mlm+nsp cuts",
            ),
            (
                "checkpoint:\n  keep: 1\n  export: last\n"
                "evaluation:\n  general: a.txt\n  max_forgetting: 0.2\n", [],
                "my.yaml:14: evaluation.max_forgetting does not go",
            ),
            (
                "evaluation:\n  general: a.txt\n  max_forgetting: 0.2\n",
                ["checkpoint.export=last", "training.epochs=1"],
                "override 'checkpoint.export=last': evaluation.max_forgetting does not go",
            ),
            (
                "training:\n  max_steps: 10\n", ["optimizer={warmup_steps: 11}"],
                "override 'optimizer={warmup_steps: 11}': optimizer.warmup_steps: 11 is more",
            ),
            (
                "checkpoint:\n  best_by: retrieval\n", [],
                "my.yaml:10: checkpoint.best_by: retrieval needs evaluation.retrieval: true",
            ),
            (
                "evaluation:\n  retrieval: true\n", ["corpus.split_by=chunk"],
                "override 'corpus.split_by=chunk': evaluation.retrieval needs corpus.split_by: doc",
            ),
        ],
    )  # fmt: skip
    def test_a_rule_between_sections_names_the_line_of_one_of_its_keys(
        self, file: Path, text: str, overrides: list[str], where: str
    ) -> None:
        (line,) = problems(file, LEAST + text, *overrides)
        assert line.startswith(where)

    def test_a_language_may_be_given_beside_a_segmenter(self, file: Path) -> None:
        tokenization = "tokenization:\n  word_segmenter: rjieba\n  language: zh\n"
        assert loaded(file, LEAST + tokenization).tokenization.language == "zh"

    def test_all_problems_are_reported_at_once_in_the_order_of_the_file(self, file: Path) -> None:
        text = LEAST.replace("format: text", "format: txt") + (
            "  deduplicate: no\n"
            "training:\n  epoch: 3\n  epochs: 3\n  epochs: 4\n"
            "masking: &masks\n  mlm_probability: 15\n"
        )
        lines = problems(file, text, "optimizer.learning_rate=fast", "nonsense", "foo.bar=1")
        assert [line.split(": ")[0] for line in lines] == [
            "my.yaml:7",
            "my.yaml:9",
            "my.yaml:11",
            "my.yaml:13",
            "my.yaml:14",
            "my.yaml:15",
            "override 'optimizer.learning_rate=fast'",
            "override 'nonsense'",
            "override 'foo.bar=1'",
        ]

    def test_pydantic_is_never_heard(self, file: Path) -> None:
        text = "\n".join(f"{section}: 5" for section in Config.model_fields)
        messages = problems(file, text)
        assert "pydantic" not in "\n".join(messages)
        assert "Input should" not in "\n".join(messages)
        assert len(messages) == len(Config.model_fields)


class TestYamlItself:
    def test_a_tab(self, file: Path) -> None:
        assert problems(file, "run:\n\toutput_dir: x\n") == [
            "my.yaml:2: a tab is not allowed here in YAML; replace it by spaces"
        ]

    @pytest.mark.parametrize(
        ("text", "start", "end"),
        [
            ("run: x: y\n", "my.yaml:1: not valid YAML", "put text with a colon in quotes"),
            ("run:\n  a: 'x\n", "my.yaml:3: not valid YAML", "end of stream"),
            ("a:\n  - [MASK] is\n", "my.yaml:2: not valid YAML", "begins with [ or { needs quotes"),
            ("a: [1, 2\nb: 3\n", "my.yaml:2: not valid YAML", "but got ':'"),
            ("a: 1\nb: x\x07\n", "my.yaml:2: the character U+0007", "not allowed in YAML"),
            ('a: "\\U00110000"\n', "my.yaml:1: not valid YAML", ""),
        ],
    )
    def test_syntax_errors(self, file: Path, text: str, start: str, end: str) -> None:
        (line,) = problems(file, text)
        assert line.startswith(start)
        assert line.endswith(end)

    def test_an_alias_bomb_is_refused_and_not_expanded(self, file: Path) -> None:
        bomb = "a0: &a0 [x, x]\n" + "".join(
            f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
        )
        lines = problems(file, bomb + LEAST)
        assert lines[0] == (
            "my.yaml:1: a0: aliases and anchors (&a0) are not read; write the value out, or "
            "put text that begins with & in quotes"
        )
        assert sum(map(len, lines)) < 100_000

    def test_a_section_given_by_an_alias_is_one_problem(self, file: Path) -> None:
        text = LEAST + "training: *other\n"
        assert problems(file, text) == [
            "my.yaml:9: training: aliases and anchors (*other) are not read; write the value "
            "out, or put text that begins with * in quotes"
        ]

    def test_tags_are_refused(self, file: Path) -> None:
        text = LEAST.replace("notes", "!!python/object/apply:os.getcwd []")
        (line,) = problems(file, text)
        assert line.startswith("my.yaml:8: corpus.sources.0.path: tags (tag:yaml.org,2002:python")

    def test_deep_nesting_is_refused(self, file: Path) -> None:
        (line,) = problems(file, "a: " + "[" * 5000)
        assert line == "my.yaml:1: not valid YAML: more than 20 levels deep"

    def test_a_key_that_is_no_name(self, file: Path) -> None:
        lines = problems(file, LEAST.replace("notes", "{{ folder }}"))
        assert lines[0] == "my.yaml:8: corpus.sources.0.path: a key must be a plain name"

    def test_a_second_document(self, file: Path) -> None:
        assert problems(file, LEAST + "---\na: 1\n") == [
            "my.yaml:9: a second YAML document begins here; keep one"
        ]

    @pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "null\n"])
    def test_an_empty_file(self, file: Path, text: str) -> None:
        assert problems(file, text) == [
            "my.yaml:1: empty; `mlmtune init` writes a config to start from"
        ]

    @pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "5\n"])
    def test_a_file_without_sections(self, file: Path, text: str) -> None:
        (line,) = problems(file, text)
        assert line.startswith("my.yaml:1: expected sections such as `model:`")


class TestFiles:
    def test_a_missing_file_names_the_nearest(self, file: Path) -> None:
        Path("azure.yaml").touch()
        Path("other.yaml").touch()
        with pytest.raises(ConfigError, match=r"^azur\.yaml: no such file; did you mean 'azure\.y"):
            load_config("azur.yaml")

    def test_the_nearest_name_is_a_path_that_works(self, file: Path) -> None:
        Path("configs").mkdir()
        Path("configs/azure.yaml").touch()
        with pytest.raises(ConfigError, match=r"did you mean 'configs/azure\.yaml'\?$"):
            load_config("configs/azure.yml")

    @pytest.mark.parametrize("path", ["nothing.yaml", "no/such/folder.yaml", ""])
    def test_a_missing_file_without_a_like_name(self, file: Path, path: str) -> None:
        with pytest.raises(ConfigError, match=r"no such file; `mlmtune init`|is a folder"):
            load_config(path)

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"is a folder; give the YAML file itself$"):
            load_config(tmp_path)

    def test_a_file_that_opens_and_cannot_be_read(self) -> None:
        # Not even root may read a process's memory at address 0.
        with pytest.raises(ConfigError, match="cannot be read: Input/output error"):
            load_config("/proc/self/mem")

    @pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "my.yaml/below"])
    def test_a_path_that_cannot_be_one(self, file: Path, path: str) -> None:
        file.touch()
        with pytest.raises(ConfigError, match="cannot be read: "):
            load_config(path)

    @pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
    def test_another_encoding_is_reported_with_its_line(self, file: Path, encoding: str) -> None:
        file.write_bytes("run:\n  output_dir: straße\n".encode(encoding))
        with pytest.raises(ConfigError, match=r"^my\.yaml:[12]: not UTF-8 text \(byte 0x"):
            load_config(file)

    def test_a_file_too_large_to_be_a_config_is_not_parsed(self, file: Path) -> None:
        file.write_bytes(b"a: 1\n" * (MAX_BYTES // 5 + 1))
        with pytest.raises(ConfigError, match=r"so it is not a config$"):
            load_config(file)


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "section", "key", "value"),
        [
            ("training.epochs=1", "training", "epochs", 1.0),
            ("optimizer.learning_rate=1e-4", "optimizer", "learning_rate", 1e-4),
            ("run.output_dir=a b = c", "run", "output_dir", "a b = c"),
            (" run.seed = 7 ", "run", "seed", 7),
            ("evaluation.examples=['a [MASK]', b]", "evaluation", "examples", ["a [MASK]", "b"]),
            ("model.revision=", "model", "revision", None),
            ("model.revision='null'", "model", "revision", "null"),
        ],
    )
    def test_an_override_takes_the_place_of_the_file(
        self, file: Path, override: str, section: str, key: str, value: Any
    ) -> None:
        text = LEAST.replace("runs/x", "runs/x\n  seed: 1") + "evaluation:\n  examples: [x, y, z]\n"
        text += "training:\n  epochs: 9\n"
        config = loaded(file, text, override)
        assert getattr(getattr(config, section), key) == value

    def test_entries_of_lists_and_nested_sections(self, file: Path) -> None:
        config = loaded(
            file,
            LEAST,
            "corpus.sources.0.path=other",
            "corpus.markdown.tables=drop",
            "corpus.markdown.code_blocks=drop",
        )
        assert config.corpus.sources[0].path == "other"
        assert config.corpus.sources[0].format == "text"
        assert config.corpus.markdown.tables == "drop"
        assert config.corpus.markdown.code_blocks == "drop"

    def test_the_last_one_wins(self, file: Path) -> None:
        assert loaded(file, LEAST, "run.seed=1", "run.seed=2").run.seed == 2

    def test_an_override_corrects_the_file(self, file: Path) -> None:
        text = LEAST + "training:\noptimizer:\n  learning_rate: fast\n"
        config = loaded(file, text, "optimizer.learning_rate=1e-3", "training.epochs=1")
        assert config.optimizer.learning_rate == 1e-3

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("training.epoch=1", "training.epoch: unknown key; did you mean 'epochs'?"),
            ("epochs=1", "epochs: unknown key; did you mean 'training.epochs'?"),
            ("training.epochs=x", "training.epochs: expected a number > 0 or null, got 'x'"),
            ("training.epochs", "expected section.key=value, such as training.epochs=1"),
            ("training.epochs: 1", "expected section.key=value, did you mean training.epochs=1?"),
            ("b.yaml", "expected section.key=value, and the config goes before the settings"),
            ("--training.epochs=1", "expected section.key=value, such as training.epochs=1"),
            ("=1", "expected section.key=value, such as training.epochs=1"),
            ("training..epochs=1", "expected section.key=value, such as training.epochs=1"),
            ("", "expected section.key=value, such as training.epochs=1"),
            ("corpus.sources.1.path=x", "corpus.sources has no entry 1; it has 1 entry"),
            ("corpus.sources.path=x", "corpus.sources is a list of 1 entry; did you mean "),
            (
                "corpus.validation_sources.0.path=x",
                "corpus.validation_sources has no entries; give the whole list",
            ),
            ("run.output_dir.deep=x", "run.output_dir is not a section"),
            ("model.trust_remote_code=true", "model.trust_remote_code: refused: mlmtune never"),
            ("run.seed={a: 1, a: 2}", "run.seed.a: given twice, first on line 1; remove one"),
            ("run.output_dir=*a", "run.output_dir: aliases and anchors (*a) are not read"),
            ("run.output_dir=[x", "run.output_dir: not valid YAML: "),
            (
                "training.micro_batch_size=64",
                "training: micro_batch_size 64 is larger than global_batch_size 16",
            ),
        ],
    )
    def test_a_wrong_override_is_named(self, file: Path, override: str, message: str) -> None:
        (line,) = problems(file, LEAST, override)
        assert line.startswith(f"override {override!r}: {message}")


TEXT = st.one_of(
    st.text(),
    st.sampled_from(["no", "1e5", "1e-5", "null", "~", "", "0x10", "010", "1_000", ".5", "true"]),
    st.sampled_from(
        ["2024-01-01", "1:30", "- a", "a: b", "#", "'", '"', "=", "<<", "中文", "\u2028", "\x85"]
    ),
)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    return Config.model_validate(
        {
            "run": {"output_dir": draw(TEXT), "seed": draw(st.integers(0, 2**63 - 1))},
            "model": {"name_or_path": draw(TEXT), "revision": draw(st.none() | TEXT)},
            "corpus": {
                "sources": draw(
                    st.lists(
                        st.fixed_dictionaries(
                            {"format": st.just("text"), "path": TEXT | st.lists(TEXT, min_size=1)},
                            optional={"name": TEXT, "include": st.lists(TEXT)},
                        ),
                        min_size=1,
                        max_size=3,
                    )
                ),
                "deduplicate": draw(st.booleans()),
            },
            "optimizer": {"learning_rate": draw(POSITIVE), "adam_epsilon": draw(POSITIVE)},
            "training": {"epochs": draw(st.none() | POSITIVE)},
            "evaluation": {
                "every": draw(st.none() | st.just("epoch") | st.integers(1, 10**6)),
                "examples": draw(st.lists(TEXT)),
            },
        }
    )


@settings(max_examples=50, deadline=None)
@given(config=configs())
def test_a_resolved_config_loads_as_an_equal_one(
    config: Config, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "resolved.yaml"
    file.write_text(resolved_yaml(config), encoding="utf-8", newline="")
    assert load_config(file) == config


def test_a_resolved_config_holds_every_key(file: Path) -> None:
    text = resolved_yaml(loaded(file))
    for section, field in Config.model_fields.items():
        assert f"\n{section}:" in f"\n{text}"
        for key in keys_of(field.annotation) if hasattr(field.annotation, "model_fields") else ():
            assert f"\n  {key}:" in text


@settings(deadline=None)
@given(text=st.text(alphabet=" \n\t:-[]{}&*!|>'\"#%@,?abr1.e\\~<\x00\ufeff") | st.text())
def test_any_text_is_reported_as_wrong_and_never_breaks(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(ConfigError, match=r"any\.yaml"):
        load_config(file)


@settings(deadline=None)
@given(override=st.text() | st.from_regex(r"(run|corpus|training)\.\w+=.*"))
def test_any_override_loads_or_is_reported_as_wrong(
    override: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "least.yaml"
    file.write_text(LEAST, encoding="utf-8")
    try:
        load_config(file, [override])
    except ConfigError as error:
        message = str(error)
    else:
        message = "override accepted"
    assert message.startswith("override ")


# ------------------------------------------------------------------------------------- schema


def errors_of(text: str, kind: type[Section] = Config) -> list[str]:
    """Return what an editor would report, by the JSON schema."""
    schema = json_schema(kind)
    Draft202012Validator.check_schema(schema)
    value = parse(text, lambda line: Origin(line, "")).value
    return [error.message for error in Draft202012Validator(schema).iter_errors(value)]


@pytest.mark.parametrize("name", shipped_configs())
def test_an_editor_has_nothing_against_a_shipped_config(name: str) -> None:
    kind = ClassificationConfig if name in SHIPPED_TASKS else Config
    assert errors_of(shipped_configs()[name].read_text(encoding="utf-8"), kind) == []


LEAST_YAML = (
    "run: {output_dir: a}\nmodel: {name_or_path: b}\ncorpus: {sources: [{format: text, path: c}]}\n"
)


@pytest.mark.parametrize(
    "more",
    [
        "evaluation: {general: general.txt}",
        "evaluation: {general: [general.txt, {format: text, path: more}]}",
        "evaluation: {general: {format: text, path: more}}",
        "tracking: {with: [tensorboard]}",
        "masking: {mlm_probability: {start: 0.3, end: 0.15}}",
    ],
)
def test_an_editor_takes_every_way_to_write_a_value(more: str, tmp_path: Path) -> None:
    assert errors_of(LEAST_YAML + more) == []
    file = tmp_path / "c.yaml"
    file.write_text(LEAST_YAML + more, encoding="utf-8")
    load_config(file)


@pytest.mark.parametrize(
    "more",
    ["traning: {epochs: 1}", "training: {epoch: 1}", "training: {epochs: many}",
     "tracking: {with: [tensorbord]}", "training: {global_batch_size: 0}"],
)  # fmt: skip
def test_an_editor_marks_a_mistake(more: str) -> None:
    assert errors_of(LEAST_YAML + more)


def test_an_editor_shows_what_a_key_is_for() -> None:
    section = json_schema(Config)["$defs"]["OptimizerConfig"]
    assert section["properties"]["learning_rate"]["description"] == "The peak of the learning rate."


# ------------------------------------------------------------------ advice that works when followed


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("optimizer.learning_rate", "-1e-4", "0.0001"),
        ("training.epochs", "'3'", "3.0"),
        ("training.epochs", "-3", "3.0"),
        ("training.max_steps", "1e3", "1000"),
        ("masking.mlm_probability", "15", "0.15"),
        ("masking.mlm_probability", "15%", "0.15"),
        ("masking.strategy", "wwm", "'whole_word'"),
        ("corpus.sources.0.format", "md", "'markdown'"),
        ("corpus.sources.0.format", "jsonl", "'json'"),
        ("training.precision", "bfloat16", "'bf16'"),
    ],
)
def test_the_value_that_is_suggested_is_taken(file: Path, key: str, wrong: str, right: str) -> None:
    (line,) = problems(file, LEAST, f"{key}={wrong}")
    assert line.endswith(f"; did you mean {right}?")
    load_config(file, [f"{key}={right}"])


def test_a_number_that_no_change_of_sign_or_scale_helps_gets_no_suggestion(file: Path) -> None:
    (line,) = problems(file, LEAST, "corpus.sources.0.weight=0")
    assert line.endswith("<= 1000, got 0")


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("corpus.sources=[{format:markdown,path:d}]", ["format: markdown", "path: d"]),
        ("model=name_or_path:bert", ["name_or_path: bert"]),
    ],
)
def test_a_colon_without_its_space_is_explained(
    file: Path, override: str, advice: list[str]
) -> None:
    lines = problems(file, LEAST, override)
    assert [line.rpartition("YAML needs a space after the colon: ")[2] for line in lines] == advice
    for written in advice:
        override = override.replace(written.replace(": ", ":"), written)
    load_config(file, [override])


@pytest.mark.parametrize("value", ["*.md", "!x", "&x", "%x", "@x", "`x`"])
def test_text_that_yaml_reads_as_something_else_needs_quotes(file: Path, value: str) -> None:
    (line,) = problems(file, LEAST, f"corpus.sources.0.include={value}")
    assert f"text that begins with {value[0]}" in line
    config = load_config(file, [f'corpus.sources.0.include="{value}"'])
    assert config.corpus.sources[0].include == [value]


class TestOneForAList:
    """A single value is accepted instead of a list of one."""

    def test_of_texts_and_of_sections_in_the_file_and_behind_it(self, file: Path) -> None:
        file.write_text(
            "run: {output_dir: a}\nmodel: {name_or_path: b}\n"
            "corpus:\n  sources:\n    format: text\n    path: c\n    exclude: x\n",
            encoding="utf-8",
        )
        config = load_config(file, ["tracking.with=tensorboard", "corpus.sources[0].include=y"])
        (source,) = config.corpus.sources
        assert (source.path, source.exclude, source.include) == ("c", ["x"], ["y"])
        assert config.tracking.with_ == ["tensorboard"]

    def test_problems_are_still_found_on_their_lines(self, file: Path) -> None:
        text = (
            "run: {output_dir: a}\nmodel: {name_or_path: b}\n"
            "corpus:\n  sources:\n    format: text\n    path: c\n    wieght: 2\n"
        )
        assert problems(file, text) == [
            "my.yaml:7: corpus.sources.0.wieght: unknown key; did you mean 'weight'?"
        ]

    def test_not_of_what_the_list_cannot_hold(self, file: Path) -> None:
        (line,) = problems(file, LEAST, "corpus.sources.0.exclude={a: b}")
        assert "expected a list of texts, got a section" in line
