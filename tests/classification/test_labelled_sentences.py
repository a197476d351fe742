"""Sentences with tags out of every format, and one line for what is wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from mlmtune.classification.entity_data import read_entity_data
from mlmtune.classification.labelled_sentences import read_sentences
from mlmtune.errors import DataError

EXPECTED = [
    (("EU", "rejects", "German", "call"), ("B-ORG", "O", "B-MISC", "O")),
    (("#", "Peter", "Blackburn"), ("O", "B-PER", "I-PER")),
]

CONLL = """\
-DOCSTART- -X- -X- O

EU NNP B-NP I-ORG
rejects VBZ B-VP O
German JJ B-NP I-MISC
call NN I-NP O

# SYM O O
Peter NNP B-NP I-PER
Blackburn NNP I-NP I-PER
"""

CONLL_U = """\
# id = 1
1\tEU\tB-ORG\t_
2\trejects\tO\t_
3\tGerman\tB-MISC\t_
4\tcall\tO\t_
\t
# id = 2
1\t#\tO\t_
2\tPeter\tB-PER\t_
3\tBlackburn\tI-PER\t_
"""


def read(config: Any, notes: list[str] | None = None) -> list[tuple[Any, Any]]:
    sentences = read_sentences(config, "train", [] if notes is None else notes).examples
    return [(sentence.tokens, sentence.tags) for sentence in sentences]


TAG_SECOND = """\
EU B-ORG x
rejects O x
German B-MISC x
call O x

# O x
Peter B-PER x
Blackburn I-PER x
"""


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (CONLL, {}),
        (CONLL_U, {"token_column": 2, "tag_column": 3}),
        (TAG_SECOND, {"tag_column": 2}),
    ],
)
def test_columns(
    tmp_path: Path, data_config: Callable[..., Any], text: str, keys: dict[str, int]
) -> None:
    (tmp_path / "a.conll").write_text(text)
    assert read(data_config(format="conll", train="a.conll", **keys)) == EXPECTED


def test_json_lines_and_the_names_of_fields(
    tmp_path: Path, data_config: Callable[..., Any]
) -> None:
    lines = [json.dumps({"words": tokens, "ner": tags}) for tokens, tags in EXPECTED]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    config = data_config(train="a.jsonl", text_field="words", label_field="ner")
    assert read(config) == EXPECTED


def test_a_dataset_has_the_names_and_the_order_of_its_tags(
    tmp_path: Path, data_config: Callable[..., Any]
) -> None:
    names = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-MISC", "I-MISC"]
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=names))})
    rows = {
        "tokens": [list(tokens) for tokens, _ in EXPECTED],
        "tags": [[names.index(tag) for tag in tags] for _, tags in EXPECTED],
    }
    other = {"tokens": [["Other", "Smith"]], "tags": [[0, 1]]}
    DatasetDict(
        train=Dataset.from_dict(rows, features), test=Dataset.from_dict(other, features)
    ).save_to_disk(tmp_path / "saved")
    config = data_config(
        format="dataset", dataset=str(tmp_path / "saved"), train="train", validation="test"
    )
    assert read(config) == EXPECTED
    assert read_entity_data(config, pytest.fail).types == ("PER", "ORG", "MISC")


def test_what_was_rewritten_is_one_line(tmp_path: Path, data_config: Callable[..., Any]) -> None:
    (tmp_path / "a.conll").write_text(CONLL)
    (tmp_path / "b.conll").write_text("a O\nb I-X\nc B-X\nd I-Y\n\ne B-X\nf B-Y\n")
    notes: list[str] = []
    read(data_config(format="conll", train="a.conll"), notes)
    assert notes == [
        "train: the tags are IOB1; 3 of 7 are rewritten to IOB2, which marks the same entities"
    ]
    notes = []
    assert read(data_config(format="conll", train="b.conll"), notes)[0][1] == (
        "O", "B-X", "B-X", "B-Y",
    )  # fmt: skip
    assert notes == [
        f"train: 2 tags of 6 break IOB2 (first {tmp_path}/b.conll:2: 'I-X' after 'O'); each entity "
        "is read as conlleval reads it, and written in IOB2"
    ]


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("", {}, r"^data.train: .*a.conll holds no sentences$"),
        ("\n-DOCSTART- O\n\n", {}, r"^data.train: .*a.conll holds no sentences$"),
        ("EU\nrejects\n", {}, r"a.conll:1: a single column; a line has a token and its tag, with"),
        (
            "EU O\n",
            {"token_column": 2},
            r"a.conll:1: column 2 would be both the token and its tag; set data.token_column or",
        ),
        (
            "1\tEU\tB-ORG\n2\trejects\tO\n",
            {},
            r"a.conll:1: all tokens are numbers, such as those of lines; set data.token_column if",
        ),
        ("token tag\nEU O\n", {}, r"a.conll:1: 'tag' is not a tag .*, or remove the line if it is"),
        ("EU O\nrejects VBZ O\n", {}, r"a.conll:2: 3 columns, but line 1 has 2; fix the line$"),
        ("EU\tO\n\tO\n", {}, r"a.conll:2: the token is empty; fix or remove the line$"),
        ("EU NNP O\n", {"tag_column": 4}, r"^data.tag_column is 4, but .*a.conll:1 has 3 columns$"),
        ("EU NNP O\n", {"token_column": 4}, r"^data.token_column is 4, but .*:1 has 3 columns$"),
        (
            "EU O\n\nrejects PER\n",
            {},
            r"a.conll:3: 'PER' is not a tag such as O, B-PER or I-PER; fix it, or set data.tag_col",
        ),
        (
            "EU S-A\nx L-A\n",
            {},
            r"a.conll:2: 'L-A' belongs to another scheme than earlier tags, which begin with S",
        ),
    ],
)
def test_broken_columns_are_refused_with_their_line(
    tmp_path: Path, data_config: Callable[..., Any], text: str, keys: dict[str, int], message: str
) -> None:
    (tmp_path / "a.conll").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read(data_config(format="conll", train="a.conll", **keys))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"tokens": ["a"]}, r"^data.label_field: .*a.jsonl:2 has no field 'tags'; it has: tokens$"),
        ({"tags": ["O"]}, r"^data.text_field: .*a.jsonl:2 has no field 'tokens'; it has: tags$"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, r":2: 2 tokens in 'tokens' and 1 tag in 'tags'; e"),
        ({"tokens": [], "tags": ["O"]}, r":2: 'tokens' is empty; fix or remove the sentence$"),
        ({"tokens": "a b", "tags": ["O"]}, r":2: 'tokens' is a string, not a list of strings \(se"),
        ({"tokens": ["a"], "tags": [3]}, r":2: item 1 of 'tags' is a number, not a string; write"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, r":2, token 2: the token is empty; fix or"),
        ({"tokens": ["a", "b"], "tags": ["O", "X"]}, r":2, token 2: 'X' is not a tag such as O, B"),
    ],
)
def test_a_broken_record_is_refused_with_its_line(
    tmp_path: Path, data_config: Callable[..., Any], record: Any, message: str
) -> None:
    records = [{"tokens": ["a"], "tags": ["O"]}, record]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(DataError, match=message) as caught:
        read(data_config(train="a.jsonl"))
    assert "\n" not in str(caught.value)


def write_conll(path: Path, *sentences: str) -> None:
    """Write sentences of tokens with tags: `EU/B-ORG rejects/O`."""
    lines = (sentence.replace(" ", "\n").replace("/", " ") for sentence in sentences)
    path.write_text("\n\n".join(lines) + "\n")


def test_sides_share_no_sentence_and_no_unknown_type(
    tmp_path: Path, data_config: Callable[..., Any]
) -> None:
    write_conll(tmp_path / "train", "a/B-X b/O", "c/B-Y", "d/O", "e/O")
    write_conll(tmp_path / "dev", "a/O b/O", "new/B-Y", "newer/O")
    config = data_config(format="conll", train="train", validation="dev")
    data = read_entity_data(config, pytest.fail)
    assert data.labels == ("O", "B-Y", "I-Y")
    assert (data.train.names, data.num_left_out) == (["train#2", "train#3", "train#4"], 1)


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        ("a/B-X", "c/O b/B-Z", r"dev:2: no training sentence has an entity of the type 'Z'; ther"),
        (
            "a/O",
            "b/O",
            r"^data.train: every tag is O, so there is no entity to learn; set data.tag",
        ),
        ("a/B-X", "b/O", r"^data.validation: every tag is O, so there is no entity to find; give"),
        ("a/B-X", "a/B-X", r"^data.validation: 1 of its 1 texts are in data.train, too; give exam"),
    ],
)
def test_sides_that_do_not_fit(
    tmp_path: Path, data_config: Callable[..., Any], train: str, dev: str, message: str
) -> None:
    write_conll(tmp_path / "train", train)
    write_conll(tmp_path / "dev", dev)
    with pytest.raises(DataError, match=message):
        read_entity_data(data_config(format="conll", train="train", validation="dev"), pytest.fail)
