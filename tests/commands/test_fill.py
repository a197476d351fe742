import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM

from mlmtune.commands.fill import Answer, FilledText, MaskFiller, converse, show
from mlmtune.errors import ConfigError
from mlmtune.evaluation.fill_mask import MaskPredictions, Prediction, Target, fill_mask
from mlmtune.modeling.locating import ModelFolder
from mlmtune.modeling.tokenizer import load_tokenizer

TEXT = "the [MASK] account"


@pytest.fixture(scope="module")
def roberta_dir(byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose mask token is `<mask>`, as the result of a run."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    folder = tmp_path_factory.mktemp("runs") / "azure" / "model"
    torch.manual_seed(1)
    RobertaForMaskedLM(RobertaConfig(
        vocab_size=len(byte_tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=66, pad_token_id=1,
    )).save_pretrained(folder)  # fmt: skip
    byte_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def unigram_dir(unigram_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose words have their spaces in them."""
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("models") / "tiny-unigram"
    torch.manual_seed(2)
    BertForMaskedLM(BertConfig(
        vocab_size=len(unigram_tokenizer), hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=24, max_position_embeddings=64, pad_token_id=0,
    )).save_pretrained(folder)  # fmt: skip
    unigram_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def headless_dir(model_dir: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder of the tiny BERT."""
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("models") / "headless"
    BertModel.from_pretrained(model_dir, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def load(console: Any) -> Callable[..., MaskFiller]:
    def load_(*folders: Path, words: tuple[str, ...] = (), top_k: int = 3) -> MaskFiller:
        return MaskFiller([str(folder) for folder in folders], [], words, top_k, console)

    return load_


# ----------------------------------------------------------------------------- several models


def test_each_model_says_what_it_says_alone(
    load: Callable[..., MaskFiller], model_dir: Path, roberta_dir: Path
) -> None:
    filled = load(model_dir, roberta_dir).fill(f"{TEXT} [MASK]")
    assert [answer.name for answer in filled.models] == ["tiny-bert", "azure"]
    assert [answer.model for answer in filled.models] == [str(model_dir), str(roberta_dir)]
    for folder, answer in zip((model_dir, roberta_dir), filled.models, strict=True):
        tokenizer = load_tokenizer(ModelFolder(folder, folder.name))
        model = AutoModelForMaskedLM.from_pretrained(folder)
        alone = fill_mask(model, tokenizer, f"{TEXT} [MASK]", 3)
        assert [list(mask.predictions) for mask in answer.masks] == alone


def test_any_of_the_models_masks_stands_for_a_mask(
    load: Callable[..., MaskFiller], model_dir: Path, roberta_dir: Path
) -> None:
    filler = load(model_dir, roberta_dir)
    expected = filler.fill("the [MASK] is [MASK]").models
    filled = filler.fill("the <mask> is [MASK]")
    assert filled.text == "the <mask> is [MASK]"
    assert filled.models == expected
    with pytest.raises(ConfigError, match=r"no \[MASK\] in 'the <mask>'"):
        load(model_dir).fill("the <mask>")


def test_targets_are_looked_up_in_each_vocabulary(
    load: Callable[..., MaskFiller], model_dir: Path, roberta_dir: Path, unigram_dir: Path
) -> None:
    words = ("storage", "k8s")
    filled = load(model_dir, roberta_dir, unigram_dir, words=words).fill(TEXT)
    bert, roberta, unigram = (answer.masks[0].targets for answer in filled.models)
    assert [target.word for target in bert] == list(words)
    assert bert[0].token_str == "storage"
    assert unigram[0].token_str == "\u2581storage"
    assert roberta[0].pieces == ("\u0120st", "orage")
    assert roberta[0].token is None
    assert bert[1].pieces == ("k", "##8", "##s")
    for target in (bert[0], unigram[0]):
        assert target.score is not None
        assert 0 < target.score < 1


def test_models_with_a_new_head_say_so(
    load: Callable[..., MaskFiller], console: Any, model_dir: Path, headless_dir: Path
) -> None:
    filled = load(headless_dir, model_dir, headless_dir).fill(TEXT)
    assert [answer.head_is_new for answer in filled.models] == [True, False, True]
    assert [answer.name for answer in filled.models] == ["headless", "tiny-bert", "headless (2)"]
    assert console.lines == 2 * [
        f"{headless_dir} has no masked-LM head; it gets a new one, so its predictions mean nothing"
    ]


def fail(*_: Any, **__: Any) -> None:
    pytest.fail("weights are loaded")


@pytest.mark.parametrize(
    ("sentences", "match"),
    [([TEXT, "no mask"], r"no \[MASK\] in 'no mask'"),
     (["a " * 70 + "[MASK]"], r"has 7\d tokens, but \S*tiny-bert takes 64; shorten it")],
)  # fmt: skip
def test_a_wrong_sentence_is_told_before_weights_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
    console: Any,
    model_dir: Path,
    roberta_dir: Path,
    sentences: list[str],
    match: str,
) -> None:
    monkeypatch.setattr("mlmtune.commands.fill.load_pretrained", fail)
    with pytest.raises(ConfigError, match=match):
        MaskFiller([str(model_dir), str(roberta_dir)], sentences, (), 5, console)


def test_the_last_models_missing_folder_is_told_before_weights_are_loaded(
    monkeypatch: pytest.MonkeyPatch, load: Callable[..., MaskFiller], model_dir: Path
) -> None:
    monkeypatch.setattr("mlmtune.commands.fill.load_pretrained", fail)
    with pytest.raises(ConfigError, match="nowhere"):
        load(model_dir, model_dir / "nowhere")


def test_a_length_that_only_the_weights_tell_is_told_before_anything_is_filled(
    model_dir: Path, tmp_path: Path, console: Any
) -> None:
    folder = tmp_path / "unlimited"
    shutil.copytree(model_dir, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["model_max_length"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"unlimited takes 64"):
        MaskFiller([str(folder)], [TEXT, "a " * 70 + "[MASK]"], (), 5, console)


# --------------------------------------------------------------------------------- how it looks


def prediction(token: str, score: float) -> Prediction:
    return Prediction(score, 7, token, f"the {token} account")


def mask(*predictions: Prediction, targets: tuple[Target, ...] = ()) -> MaskPredictions:
    return MaskPredictions(predictions, targets)


def answers(**masks: tuple[MaskPredictions, ...]) -> FilledText:
    return FilledText(
        TEXT, tuple(Answer(name, f"runs/{name}/model", False, of) for name, of in masks.items())
    )


BASE = mask(
    prediction("bank", 0.1234), prediction("\u6c14", 0.04),
    targets=(
        Target("aks", ("ak", "##s")),
        Target("key", ("key",), token=5, token_str="key", score=0.00031, rank=1045),
    ),
)  # fmt: skip
ADAPTED = mask(
    prediction("storage", 0.995), prediction("\n", 0.003),
    targets=(
        Target("aks", ("\u0120", "aks"), token=3, token_str="aks", score=0.0000012, rank=2),
        Target("key", ("key",), token=5, token_str="key", score=0.02, rank=1),
    ),
)  # fmt: skip


def test_one_model_is_a_list() -> None:
    assert list(answers(base=(BASE,)).lines(80)) == [
        TEXT,
        "    12.3%  bank  the bank account",
        "     4.0%  \u6c14    the \u6c14 account",
        "           aks   not one token: ak ##s",
        "   0.031%  key   rank 1,045",
    ]


def test_two_models_are_side_by_side() -> None:
    assert list(answers(base=(BASE,), azure=(ADAPTED,)).lines(80)) == [
        TEXT,
        "       base                   azure",
        "  1      12.3%  bank            99.5%  storage",
        "  2       4.0%  \u6c14               0.3%  '\\n'",
        "  aks  not one token: ak ##s  <0.001%  rank 2, as aks",
        "  key   0.031%  rank 1,045       2.0%  rank 1",
    ]


def test_each_mask_has_a_block() -> None:
    one = list(answers(base=(BASE, ADAPTED)).lines(80))
    assert [line for line in one if "mask " in line] == ["  mask 1 of 2", "  mask 2 of 2"]
    assert len(one) == 1 + 2 * (1 + 4)
    two = list(answers(base=(BASE, ADAPTED), azure=(ADAPTED, BASE)).lines(80))
    assert len(two) == 1 + 2 * (1 + 1 + 4)
    assert two[0] == TEXT
    assert two[1] == "  mask 1 of 2"


LONG = "distilbert-base-uncased-finetuned-on-azure-documentation"
NOTE = Target("kubernetesservice", ("ku", "##ber", "##net", "##es", "##ser", "##vic", "##e"))
WIDE = mask(prediction("=" * 40, 0.5), targets=(NOTE,))


@pytest.mark.parametrize("width", [40, 80, 100])
@pytest.mark.parametrize("number", [2, 3, 7])
def test_a_table_fits_the_terminal_and_loses_nothing(width: int, number: int) -> None:
    masks = {f"{LONG}-{letter}": (WIDE,) for letter in "abcdefg"[:number]}
    lines = list(answers(**masks).lines(width))
    assert max(map(len, lines)) <= width
    words = " ".join(lines)
    assert words.count("=") == 40 * number
    for piece in NOTE.pieces:
        assert words.split().count(piece) == number
    for letter in "abcdefg"[:number]:
        assert f"-{letter}" in words
    # However many tables there are, each has its labels.
    assert words.count("kubernetesservic") == sum("50.0%" in line for line in lines)


def test_a_smaller_vocabulary_than_candidates_leaves_places_empty() -> None:
    lines = list(
        answers(small=(mask(prediction("a", 1.0)),), base=(mask(*BASE.predictions),)).lines(80)
    )
    assert lines[2].split() == ["1", "100.0%", "a", "12.3%", "bank"]
    assert lines[3].split() == ["2", "4.0%", "\u6c14"]


def test_json_is_a_record_a_sentence(
    load: Callable[..., MaskFiller],
    capsys: pytest.CaptureFixture[str],
    model_dir: Path,
    roberta_dir: Path,
) -> None:
    from mlmtune.console import Console

    filler = load(model_dir, roberta_dir, words=("key", "k8s"), top_k=2)
    show(map(filler.fill, [TEXT, "[MASK] <mask>"]), Console(), as_json=True)
    records = json.loads(capsys.readouterr().out)
    assert [record["text"] for record in records] == [TEXT, "[MASK] <mask>"]
    for record, num_masks in zip(records, (1, 2), strict=True):
        assert record.keys() == {"text", "models"}
        assert [model["name"] for model in record["models"]] == ["tiny-bert", "azure"]
        for model in record["models"]:
            assert model.keys() == {"name", "model", "head_is_new", "masks"}
            assert len(model["masks"]) == num_masks
            for of_mask in model["masks"]:
                assert of_mask.keys() == {"predictions", "targets"}
                assert len(of_mask["predictions"]) == 2
                known, unknown = of_mask["targets"]
                assert known.keys() == {"word", "pieces", "token", "token_str", "score", "rank"}
                assert unknown["score"] is unknown["rank"] is unknown["token"] is None
                assert len(unknown["pieces"]) > 1


# ------------------------------------------------------------------------------- conversation


def test_a_conversation_goes_on_after_errors(
    monkeypatch: pytest.MonkeyPatch, console: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: Iterator[Any] = iter(
        ["one", "", "  ", "bad", UnicodeDecodeError("utf-8", b"", 0, 1, "x"), "two"]
    )

    def ask() -> str:
        line = next(lines, EOFError())
        if isinstance(line, Exception):
            raise line
        return str(line)

    def answer(text: str) -> None:
        if text == "bad":
            raise ConfigError("no mask")
        asked.append(text)

    asked: list[str] = []
    monkeypatch.setattr("builtins.input", ask)
    converse(answer, console)
    assert asked == ["one", "two"]
    assert console.lines[1:] == [
        "mlmtune: no mask", "mlmtune: the sentence is not UTF-8 text (x)", "",
    ]  # fmt: skip
    captured = capsys.readouterr()
    assert captured.out == ""  # answers go into a file, and the prompt beside them
    assert captured.err == "text> " * 7


@dataclass
class Terminal:
    """The command with a terminal for all that it reads and prints."""

    process: "subprocess.Popen[bytes]"
    end: int
    seen: str = ""

    def write(self, text: str) -> None:
        os.write(self.end, text.encode())

    def until(self, text: str) -> str:
        """What comes until a text does."""
        deadline = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.end], [], [], 1)[0]:
                self.seen += os.read(self.end, 4096).decode()
        before, _, self.seen = self.seen.partition(text)
        return before


@pytest.fixture
def terminal(model_dir: Path, tmp_path: Path) -> Iterator[Terminal]:
    end, theirs = os.openpty()
    command = [sys.executable, "-m", "mlmtune", "fill", "--top-k", "2", "--model", str(model_dir)]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "TERM": "dumb", "INPUTRC": str(tmp_path / "none")},
    ) as process:  # fmt: skip
        os.close(theirs)
        try:
            yield Terminal(process, end)
        finally:
            process.kill()
            os.close(end)


def test_a_person_at_a_terminal_is_asked_for_sentences(terminal: Terminal) -> None:
    assert "[MASK]" in terminal.until("text> ")
    terminal.write("no mask here\n")
    said = terminal.until("text> ")
    assert "mlmtune: there is no [MASK] in 'no mask here'" in said
    assert "Traceback" not in said
    terminal.write("\n")
    assert terminal.until("text> ").strip() == ""
    terminal.write("the [MASK] key\n")
    assert terminal.until("text> ").count("%") == 2
    terminal.write("\x04")
    assert terminal.process.wait(60) == 0


def test_an_interrupt_ends_a_conversation(terminal: Terminal) -> None:
    terminal.until("text> ")
    # Python answers a signal that comes between the prompt and the waiting at the next line only.
    time.sleep(1)
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("mlmtune: stopped by SIGINT; nothing more was saved")
    assert terminal.process.wait(60) == 130
