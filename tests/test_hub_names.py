"""What can be a name on the hub."""

import pytest

from mlmtune.hub import is_name


@pytest.mark.parametrize("name", ["bert-base-uncased", "google-bert/bert-base-uncased", "a_b/c.d"])
def test_a_name_may_be_on_the_hub(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    ["a b", "--x", "a/b/c", "..", "./a", "~/a", "/a", "", "a//b", "a--b", "x" * 300, "a\x07b", "é",
     "name.git", "-a/b", "https://host"],
)  # fmt: skip
def test_what_the_client_refuses_is_no_name(name: str) -> None:
    assert not is_name(name)
