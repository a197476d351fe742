"""The tags of named entities: which scheme they follow, and the same entities in IOB2.

IOB2 marks the first token of an entity with `B-TYPE`, the others with `I-TYPE`, and all other
tokens with `O`. IOB1 has a `B-` only where an entity follows another of its type (Tjong Kim Sang
and Veenstra 1999, Representing Text Chunks, 2). BIOES, BILOU and their like also mark the last
token of an entity, and entities of a single token.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

OUTSIDE = "O"

SCHEMES = {"IOB2": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES", "BMEWO": "BMEW"}
"""The prefixes of each scheme: begin, inside and, if it has them, end and single."""
_INSIDE, _END, _SINGLE = frozenset("IM"), frozenset("EL"), frozenset("SUW")

_TAG = re.compile(f"([{''.join(SCHEMES.values())}])-(\\S.*)")

Tags = tuple[str, ...]


@dataclass(frozen=True)
class Normalised:
    """The tags of sentences in IOB2.

    Attributes:
        tags: The tags of each sentence.
        scheme: The scheme that they followed.
        num_rewritten: How many tags differ from those given.
        faults: The sentence and the token of each tag that breaks the scheme, such as an `I-` after
            `O` in IOB2.
    """

    tags: list[Tags]
    scheme: str
    num_rewritten: int
    faults: list[tuple[int, int]]


def split_tag(tag: str) -> tuple[str, str] | None:
    """Return the prefix and the type of a tag, both empty for `O`; None if it is not a tag."""
    if tag == OUTSIDE:
        return "", ""
    parts = _TAG.fullmatch(tag)
    return (parts[1], parts[2]) if parts else None


def scheme_of(prefixes: Iterable[str]) -> str | None:
    """Return the first scheme that has all of some prefixes; None if they belong to several."""
    found = set(prefixes) - {""}
    return next((name for name, known in SCHEMES.items() if found <= set(known)), None)


def to_iob2(sentences: Sequence[Tags], scheme: str) -> Normalised:
    """Write the tags of sentences in IOB2.

    An entity begins where the scheme says so, and at each tag that does not continue the entity of
    the token before it. That is how conlleval and seqeval read tags that break their scheme.

    Args:
        sentences: Tags that `split_tag` knows.
        scheme: A key of `SCHEMES`. Tags without ends that follow IOB1 and not IOB2 are recognised.
    """
    written = [tuple(tag for tag, _ in _rewritten(tags, scheme)) for tags in sentences]
    faults = [
        (number, place)
        for number, tags in enumerate(sentences)
        for place, (_, is_fault) in enumerate(_rewritten(tags, scheme))
        if is_fault
    ]
    if scheme == "IOB2" and faults and all(map(_is_iob1, sentences)):
        scheme, faults = "IOB1", []
    num_rewritten = sum(
        tag != given
        for tags, others in zip(written, sentences, strict=True)
        for tag, given in zip(tags, others, strict=True)
    )
    return Normalised(written, scheme, num_rewritten, faults)


def _rewritten(tags: Tags, scheme: str) -> Iterator[tuple[str, bool]]:
    """Yield each tag in IOB2, and whether it breaks its scheme."""
    marks_ends = len(SCHEMES[scheme]) > 2
    before, kind_before = "", ""
    for place, tag in enumerate(tags):
        prefix, kind = split_tag(tag) or ("", "")
        goes_on = prefix in _INSIDE | _END
        is_open = before != "" and before not in _END | _SINGLE
        continues = goes_on and is_open and kind == kind_before
        is_fault = goes_on and not continues
        if marks_ends:
            is_last = place == len(tags) - 1
            is_fault |= is_open and not continues
            is_fault |= is_last and prefix != "" and prefix not in _END | _SINGLE
        yield f"{'I' if continues else 'B'}-{kind}" if prefix else OUTSIDE, is_fault
        before, kind_before = prefix, kind


def _is_iob1(tags: Tags) -> bool:
    """Whether each `B-` follows an entity of its type, as in IOB1."""
    kinds = [split_tag(tag) or ("", "") for tag in tags]
    return all(
        prefix != "B" or (place > 0 and kinds[place - 1][1] == kind)
        for place, (prefix, kind) in enumerate(kinds)
    )
