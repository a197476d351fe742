"""Words of several ideographs in a tokenizer of BERT, which makes each ideograph a word.

Its normalizer puts a space on either side of each ideograph. For words of several, the normalizer
must leave them, and the pre-tokenizer cuts where the words that it is given end: at each place it
takes the longest one, or else a single ideograph. So all text without these words is cut as before.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mlmtune.tokens.steps import normalizers, pre_tokenizers

IDEOGRAPHS = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    "\U0002b740-\U0002b81f\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f"
)
"""The characters around which BERT's normalizer puts spaces, for a class in a pattern; those of
tokenizers, normalizers/bert.rs, is_chinese_char."""

_SEVERAL = re.compile(f"[{IDEOGRAPHS}]{{2,}}")
_SINGLE = f"|[{IDEOGRAPHS}]"


def is_several(word: str) -> bool:
    """Whether a word consists of two ideographs or more."""
    return _SEVERAL.fullmatch(word) is not None


def normalizer_parts(content: Mapping[str, Any]) -> bool:
    """Whether the normalizer of a tokenizer.json makes each ideograph a word."""
    return any(step.get("handle_chinese_chars") for step in normalizers(content))


def joined_words(content: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the words of several ideographs that a tokenizer.json of BERT keeps together.

    Returns:
        Such words, none in most tokenizers; None if its pre-tokenizer is not BERT's, with or
        without the step that `with_joined_words` adds.
    """
    *others, last = pre_tokenizers(content) or [{}]
    if last.get("type") != "BertPreTokenizer":
        return None
    if not others:
        return frozenset()
    pattern = others[0].get("pattern", {}).get("Regex", "")
    if not pattern.endswith(_SINGLE):
        return None
    matches = re.compile(pattern).fullmatch
    words = frozenset(w for w in content["model"]["vocab"] if is_several(w) and matches(w))
    return words if others == [_split(words)] else None


def parts(content: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json of BERT makes each ideograph a word, besides words it was given."""
    words = joined_words(content)
    return words is not None and (bool(words) or normalizer_parts(content))


def with_joined_words(content: Mapping[str, Any], words: Collection[str]) -> dict[str, Any]:
    """Return a tokenizer.json that keeps more words of several ideographs together.

    Args:
        content: One that makes each ideograph a word.
        words: The words; those that it keeps together already stay so.
    """
    known = joined_words(content)
    assert known is not None
    steps = [_split(known.union(words)), pre_tokenizers(content)[-1]]
    left = [
        {**step, "handle_chinese_chars": False} if "handle_chinese_chars" in step else step
        for step in normalizers(content)
    ]
    normalizer = left[0] if len(left) == 1 else {"type": "Sequence", "normalizers": left}
    pre_tokenizer = {"type": "Sequence", "pretokenizers": steps}
    return {**content, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer}


def _split(words: Collection[str]) -> dict[str, Any]:
    # Most ideographs begin none of the words, which is found faster at once than in the tree.
    firsts = "".join(sorted({word[0] for word in words}))
    pattern = {"Regex": f"(?=[{firsts}]){_pattern(words)}{_SINGLE}"}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


_Tree = dict[str, "_Tree"]


def _pattern(words: Collection[str]) -> str:
    """Return a pattern of the longest of some words.

    It goes through a tree of their characters, because the time of a pattern with all words side by
    side grows with their number: 2,000 of them take 18 times as long.
    """
    tree: _Tree = {}
    for word in words:
        place = tree
        for character in word:
            place = place.setdefault(character, {})
        place[""] = {}  # a word ends here
    return _pattern_of(tree)


def _pattern_of(tree: _Tree) -> str:
    branches = [(first, _pattern_of(rest)) for first, rest in sorted(tree.items()) if first]
    if not branches:
        return ""
    return f"(?:{_one_of(branches)})?" if "" in tree else _one_of(branches)


def _one_of(branches: Sequence[tuple[str, str]]) -> str:
    """Return a pattern that finds the branch by halves, since alternatives are tried in turn."""
    if len(branches) == 1:
        return "".join(branches[0])
    middle = len(branches) // 2
    begin, end = branches[0][0], branches[middle - 1][0]
    return f"(?:(?=[{begin}-{end}]){_one_of(branches[:middle])}|{_one_of(branches[middle:])})"
