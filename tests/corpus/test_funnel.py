import json

from hypothesis import given
from hypothesis import strategies as st

from mlmtune.corpus.funnel import Funnel

events = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from(["read", "left", "kept", "short", "duplicate", "broken"]),
    )
)


@given(events=events)
def test_counts_add_up(events):
    funnel = Funnel()
    for source in ("a", "b"):
        funnel.add_source(source)
    for source, event in events:
        match event:
            case "read":
                funnel.file_read(source)
            case "left":
                funnel.file_left_out(source, "path", "binary", "")
            case "kept":
                funnel.document_kept(source, 10)
            case "short" | "duplicate":
                funnel.document_left_out(source, event)
            case "broken":
                funnel.record_broken(source, "path:1", "")

    counts = json.loads(json.dumps(funnel.to_json()))
    num_files = sum(event in ("read", "left") for _, event in events)
    for part in (counts, *counts["sources"].values()):
        files, documents = part["files"], part["documents"]
        assert files["found"] == files["read"] + sum(files["left_out"].values())
        assert documents["found"] == documents["kept"] + sum(documents["left_out"].values())
        assert part["characters"] == 10 * documents["kept"]
    assert counts["files"]["found"] == num_files
    assert counts["documents"]["found"] == len(events) - num_files
    assert sum(part["files"]["found"] for part in counts["sources"].values()) == num_files


def test_names_are_bounded_and_counts_are_not():
    funnel = Funnel()
    funnel.add_source("a")
    for number in range(150):
        funnel.file_left_out("a", f"{number}.md", "binary", "no text")
        funnel.record_broken("a", f"x:{number}", "no JSON")
    counts = funnel.to_json()
    assert len(counts["files_left_out"]) == len(counts["records_broken"]) == 100
    assert counts["files_left_out"][0] == {"path": "0.md", "reason": "binary", "detail": "no text"}
    assert counts["files"]["left_out"] == {"binary": 150}
    assert counts["documents"]["left_out"] == {"broken": 150}


def test_summary_is_one_line_with_each_reason():
    funnel = Funnel()
    funnel.add_source("a")
    funnel.file_read("a")
    funnel.file_left_out("a", "b.md", "binary", "")
    funnel.document_left_out("a", "too_short")
    assert funnel.summary() == (
        "2 files found, 1 read (1 binary); 1 documents found, 0 kept (1 too_short)"
    )
