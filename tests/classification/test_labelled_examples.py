"""Examples out of every format, and one clear line for what is wrong with them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from mlmtune.classification.labelled_examples import Example, ReadSide, read_side
from mlmtune.classification.rows import at_one_state
from mlmtune.errors import DataError

RECORDS = [
    {"text": "the cluster is running", "label": "good"},
    {"text": 'failed, "again"', "label": "bad"},
]
EXPECTED = [(("the cluster is running",), "good"), (('failed, "again"',), "bad")]


def content(side: ReadSide[Example]) -> list[tuple[tuple[str, ...], str]]:
    return [(example.texts, example.label) for example in side.examples]


def write_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "label", "text"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows([{"id": n, **record} for n, record in enumerate(RECORDS)])


def write_lines(path: Path, records: Any = RECORDS) -> None:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")


@pytest.mark.parametrize(
    ("format_", "name", "write"),
    [
        ("json", "a.jsonl", write_lines),
        ("json", "a.txt", write_lines),
        ("json", "a.json", lambda path: path.write_text(json.dumps(RECORDS))),
        ("csv", "a.csv", write_csv),
        ("csv", "a.tsv", lambda path: write_csv(path, "\t")),
        ("csv", "a.csv", lambda path: write_csv(path, ";")),
        ("parquet", "a.parquet", lambda path: pq.write_table(pa.Table.from_pylist(RECORDS), path)),
    ],
)
def test_a_file_of_each_format(
    tmp_path: Path,
    data_config: Callable[..., Any],
    format_: str,
    name: str,
    write: Callable[[Path], object],
) -> None:
    write(tmp_path / name)
    side = read_side(data_config(format=format_, train=name), "train")
    assert content(side) == EXPECTED
    assert [example.name for example in side.examples] == [f"{name}#1", f"{name}#2"]


def test_encoding_delimiter_and_quoting_are_those_that_are_given(
    tmp_path: Path, data_config: Callable[..., Any]
) -> None:
    (tmp_path / "a.csv").write_bytes('text!label\n"кот!a\n'.encode("koi8_r"))
    settings = {"encoding": "koi8_r", "delimiter": "!", "quoting": "none"}
    (example,) = read_side(data_config(format="csv", train="a.csv", **settings), "train").examples
    assert (example.texts, example.label) == (('"кот',), "a")


def test_a_folder_for_each_class(tmp_path: Path, data_config: Callable[..., Any]) -> None:
    for name, text in {
        "pos/b.txt": "good", "pos/deep/a.txt": "better", "neg/a.txt": "bad", ".git/x.txt": "no",
        "pos/notes.pdf": "no", "readme.txt": "no",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    side = read_side(data_config(format="folder", train="."), "train")
    assert [(e.texts[0], e.label, e.name) for e in side.examples] == [
        ("bad", "neg", "neg/a.txt"),
        ("good", "pos", "pos/b.txt"),
        ("better", "pos", "pos/deep/a.txt"),
    ]


def test_pairs(tmp_path: Path, data_config: Callable[..., Any]) -> None:
    write_lines(tmp_path / "a.jsonl", [{"premise": "a", "hypothesis": "b", "gold": 1}])
    config = data_config(train="a.jsonl", text_field=["premise", "hypothesis"], label_field="gold")
    assert content(read_side(config, "train")) == [(("a", "b"), "1")]


@pytest.mark.parametrize(
    ("value", "name"),
    [("x ", "x"), (3, "3"), (3.0, "3"), (True, "true"), ("0", "0"), (-2, "-2")],
)
def test_a_label_is_a_name(
    tmp_path: Path, data_config: Callable[..., Any], value: Any, name: str
) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "a", "label": value}])
    assert content(read_side(data_config(train="a.jsonl"), "train")) == [(("a",), name)]


@pytest.fixture
def saved(tmp_path: Path) -> str:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    splits = {
        "train": Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features),
        "hidden": Dataset.from_dict({"text": ["c"], "label": [-1]}, features),
    }
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def test_a_dataset_has_the_names_of_its_labels(data_config: Callable[..., Any], saved: str) -> None:
    config = data_config(format="dataset", dataset=saved, train="train")
    assert at_one_state(config, pytest.fail) == config
    side = read_side(config, "train")
    assert content(side) == [(("a",), "pos"), (("b",), "neg")]
    assert side.label_order == ["neg", "pos"]
    assert [example.name for example in side.examples] == ["train#1", "train#2"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train": "dev"}, r"^data: .*saved has no split 'dev'; the splits are: train, hidden$"),
        ({"train": "hidden"}, r"saved, hidden \(row 1\): has no label; fix or remove"),
        (
            {"train": "train", "label_field": "labels"},
            r"^data.label_field: .*saved, train has no field 'labels'; it has: text, label; did "
            r"you mean 'label'\?$",
        ),
    ],
)
def test_what_a_dataset_does_not_have_is_said(
    data_config: Callable[..., Any], saved: str, keys: dict[str, str], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        read_side(data_config(format="dataset", dataset=saved, **keys), "train")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a"}, r"data.label_field: .*a.jsonl:2 has no field 'label'; it has: text$"),
        ({"label": "a"}, r"data.text_field: .*a.jsonl:2 has no field 'text'; it has: label$"),
        ({"text": "a", "label": None}, r"a.jsonl:2: has no label; fix or remove the example"),
        ({"text": "a", "label": " "}, r"a.jsonl:2: has no label; fix or remove the example"),
        ({"text": "a", "label": 0.5}, r"a.jsonl:2: 'label' is a number: a label is a string or"),
        ({"text": 5, "label": "a"}, r"a.jsonl:2: 'text' is a number, not a string \(set data.tex"),
        ({"text": " \n", "label": "a"}, r"a.jsonl:2: the text is empty; fix or remove the exam"),
        ({"text": None, "label": "a"}, r"a.jsonl:2: the text is empty; fix or remove the exampl"),
        (["a"], r"a.jsonl:2: an object is needed, not a list"),
    ],
)
def test_a_broken_example_names_its_line(
    tmp_path: Path, data_config: Callable[..., Any], record: Any, message: str
) -> None:
    write_lines(tmp_path / "a.jsonl", [RECORDS[0], record])
    with pytest.raises(DataError, match=message) as caught:
        read_side(data_config(train="a.jsonl"), "train")
    assert "\n" not in str(caught.value)


def test_many_empty_texts_are_counted(tmp_path: Path, data_config: Callable[..., Any]) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "", "label": "a"}] * 5)
    message = r"a.jsonl:1, .*:2, .*:3 and 2 more: the text is empty; fix or remove these 5 exam"
    with pytest.raises(DataError, match=message):
        read_side(data_config(train="a.jsonl"), "train")


@pytest.mark.parametrize(
    ("format_", "train", "message"),
    [
        (
            "csv",
            "a.csv",
            r"data.label_field: .*a.csv has no field 'label'; it has: text, labl; did",
        ),
        ("json", "none.jsonl", r"data.train: there is no file .*none.jsonl"),
        ("json", "folder", r"data.train: .*folder is a folder; .* format: folder if"),
        ("folder", "a.csv", r"data.train: there is no folder .*a.csv"),
        ("folder", "folder", r"data.train: .*folder holds no examples"),
        ("json", "a.csv", r"a.csv:1: not a line of JSON"),
        ("parquet", "a.csv", r"a.csv: neither Parquet nor Arrow"),
    ],
)
def test_a_wrong_file_is_said(
    tmp_path: Path, data_config: Callable[..., Any], format_: str, train: str, message: str
) -> None:
    (tmp_path / "a.csv").write_text("text,labl\na,b\n")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=message) as caught:
        read_side(data_config(format=format_, train=train), "train")
    assert "\n" not in str(caught.value)
