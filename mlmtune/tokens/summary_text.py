"""The content of corpus.json as text for a terminal: the funnel, tables and examples."""

from collections.abc import Iterator
from typing import Any

from mlmtune.corpus.funnel import remarks
from mlmtune.printable import counted
from mlmtune.tables import histogram, table
from mlmtune.tokens.unknown import describe_unknown

_SHOWN = 10


def describe(summary: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a summary, with an empty line between two sections."""
    sections = (
        _funnel(summary),
        _sides(summary),
        _sources(summary),
        _lengths(summary["lengths"]),
        _words(summary),
        _pairs("near-duplicates left out, the least similar first", summary["near_duplicates"]),
        _pairs("duplicates left out", summary["duplicates"]),
        _overlaps(summary),
        _selections(summary),
        _left_out(summary),
    )
    separator: list[str] = []
    for lines in filter(None, map(list, sections)):
        yield from separator + lines
        separator = [""]


def _number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _minus(count: int) -> str:
    return f"{-count:+,}" if count else "0"


def _funnel(summary: dict[str, Any]) -> Iterator[str]:
    files, documents, characters = (summary[name] for name in ("files", "documents", "characters"))
    if files["found"]:
        reasons = ", ".join(f"{_spaced(r)} {n:,}" for r, n in files["left_out"].items())
        yield f"{counted(files['found'], 'file')} found, {files['read']:,} read" + (
            f"; left out: {reasons}" if reasons else ""
        )
        encodings = ", ".join(f"{name} {n:,}" for name, n in files["encodings"].items())
        if encodings:
            yield f"encodings: {encodings}"
    notes = list(remarks(summary))
    yield from notes
    if files["found"] or notes:
        yield ""
    rows = [
        ["", "documents", "characters"],
        ["found", _number(documents["found"]), _number(characters["found"])],
    ]
    cleaned = characters["found"]
    for step, count in characters["cleaned_away"].items():
        rows.append([f"  {_spaced(step)}", "", _minus(count)])
        cleaned -= count
    rows.append(["cleaned", _number(documents["found"]), _number(cleaned)])
    for reason, count in documents["left_out"].items():
        lost = characters["left_out"].get(reason, 0)
        rows.append([f"  {_spaced(reason)}", _minus(count), _minus(lost)])
    rows.append(["kept", _number(documents["kept"]), _number(characters["kept"])])
    yield from table(rows)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _sides(summary: dict[str, Any]) -> Iterator[str]:
    columns = ("documents", "characters", "tokens", "chunks")
    rows = [["", *columns]]
    for name, title in (("train", "training"), ("validation", "validation")):
        rows.append([title, *(_number(summary[name][column]) for column in columns)])
    yield from table(rows)
    for name in ("train", "validation"):
        lost = summary[name]["tokens_dropped"] + summary[name]["tokens_truncated"]
        if lost:
            yield f"{counted(lost, 'token')} of {name} cut off by the settings of chunking"
    epoch = summary["train"]["epoch"]
    kind = "pair" if "pairs" in summary["train"] else "chunk"
    sequences, tokens = counted(epoch["chunks"], kind), counted(epoch["tokens"], "token")
    yield f"an epoch is {sequences}, {tokens} with special ones"
    for name in ("train", "validation"):
        if left_out := summary[name].get("tokens_without_pair"):
            yield f"{name}: {left_out:,} tokens have no second sentence to make a pair with"


def _sources(summary: dict[str, Any]) -> Iterator[str]:
    header = ["source", "found", "kept", "characters", "tokens", "unknown", "weight", "per epoch"]
    rows = [
        [
            name + (" (validation)" if source["validation"] else ""),
            _number(source["documents"]["found"]),
            _number(source["documents"]["kept"]),
            _number(source["characters"]["kept"]),
            _number(source["tokens"]),
            f"{source['unknown_tokens'] / max(source['tokens'], 1):.2%}",
            f"{source['weight']:g}",
            _number(source["epoch_tokens"]),
        ]
        for name, source in summary["sources"].items()
    ]
    yield from table([header, *rows])


def _lengths(lengths: dict[str, Any]) -> Iterator[str]:
    yield (
        f"tokens per document: from {lengths['shortest']:,} to {lengths['longest']:,}, median "
        f"{lengths['median']:,}"
    )
    bins = [(f"{b['from']:,} to {b['below'] - 1:,}", b["documents"]) for b in lengths["histogram"]]
    yield from histogram([(label, count, f"{count:,}") for label, count in bins])


def _words(summary: dict[str, Any]) -> Iterator[str]:
    share = summary["unknown_tokens"] / max(summary["tokens"], 1)
    yield (
        f"{summary['tokens_per_word']:.2f} tokens per word (in {summary['sampled_words']:,} words)"
        f"; {share:.2%} of the tokens are unknown"
    )
    if summary["unknown_characters"]:
        yield describe_unknown(summary["unknown_characters"], ())
    if summary["fragmented_words"]:
        yield "words whose many pieces cost most"
        rows = [
            [word["word"], f"{word['count']:,} x", " ".join(word["pieces"])]
            for word in summary["fragmented_words"][:_SHOWN]
        ]
        yield from table(rows, left=(0, 2), indent="  ")


def _pairs(title: str, pairs: list[dict[str, Any]]) -> Iterator[str]:
    if pairs:
        yield title
    for pair in pairs[:_SHOWN]:
        yield f"  {pair['similarity']:.2f}  {pair['document']}"
        yield f"        {pair['repeats']}"


def _overlaps(summary: dict[str, Any]) -> Iterator[str]:
    overlaps = summary["overlaps"]
    if overlaps:
        yield "documents left out because they share words in a row with exclude_overlap_with"
    for overlap in overlaps[:_SHOWN]:
        yield f"  {overlap['document']}"
        yield f"        {overlap['words']}"
    if len(overlaps) > _SHOWN:
        yield f"  and {len(overlaps) - _SHOWN:,} more; --json lists them"
    if summary["references_too_short"]:
        yield f"{summary['references_too_short']:,} of its texts have fewer than 5 words: not used"


def _selections(summary: dict[str, Any]) -> Iterator[str]:
    for selected in summary["selections"]:
        source, like = selected["source"], selected["like"]
        total = selected["num_kept"] + selected["num_left_out"]
        yield f"the documents of {source} that are most like {like}, with their scores"
        kept, alike = f"{selected['num_kept']:,} of {total:,}", f"{selected['num_alike']:,}"
        yield f"  {kept} are kept, down to {selected['lowest_kept']:.2f}"
        yield f"  {alike} are more like {like} than like {source}, above 0"
        yield f"  the documents of {like} itself: {selected['domain_median']:.2f} in the median"
        for title, key in (("most", "most_alike"), ("least", "least_alike")):
            yield f"  {title} alike"
            for scored in selected[key]:
                yield f"    {scored['score']:5.2f}  {scored['document']}"


def _left_out(summary: dict[str, Any]) -> Iterator[str]:
    for title, entries, name, detail in (
        ("files left out", summary["files_left_out"], "path", "detail"),
        ("encodings that were guessed", summary["encodings_guessed"], "path", "encoding"),
        ("records that are broken", summary["records_broken"], "place", "detail"),
        ("documents in other languages", summary["other_languages"], "document", "language"),
    ):
        if entries:
            yield title
        for entry in entries[:_SHOWN]:
            reason = f"{_spaced(entry['reason'])}: " if "reason" in entry else ""
            yield f"  {entry[name]}  {reason}{entry[detail]}"
        if len(entries) > _SHOWN:
            yield f"  and more; --json lists the first {len(entries)}"
