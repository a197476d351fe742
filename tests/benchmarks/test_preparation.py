import corpus
import preparation
import pytest
import texts

WORDS = ("storage", "account", "vault", "cluster", "node", "pool", "network", "policy", "image")


@pytest.fixture
def pages(tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for number, word in enumerate(WORDS):
        page = f"# Model {word}\n\n" + "".join(f"## {other} {word}\n\nData.\n" for other in WORDS)
        (text / f"{number}.md").write_text(page, encoding="utf-8")
    folder = tmp_path / "pages"
    texts.write_pages(text, folder, 10_000)
    return folder


@pytest.mark.parametrize("format_", corpus.LIMITS)
def test_cleaning_and_its_limit_go_through_the_same_bytes(pages, tmp_path, format_):
    folder = tmp_path / "written"
    num_bytes = texts.write_pages(tmp_path / "text", folder, 10_000, format_)
    cleaning = preparation.Cleaning(folder, tmp_path, 1, format_)
    for side in (cleaning, preparation.Limit(folder, format_)):
        block = side.run(2)
        assert (block.num_steps, block.amount) == (2, 2 * num_bytes)
    assert len(list(cleaning.text.read().documents())) == len(list(pages.rglob("*.md")))


def test_cleaning_begins_anew_each_time(pages, tmp_path):
    side = preparation.Cleaning(pages, tmp_path, 1)
    written = []
    for _ in range(2):
        side.run(1)
        written.append([path.stat().st_mtime_ns for path in side.folder.rglob("*.parquet")])
    assert written[0]
    assert not set(written[0]) & set(written[1])


def test_a_preparation_goes_on_with_what_is_cleaned(pages, tmp_path, model_dir):
    place = preparation.Preparation(pages, model_dir, tmp_path, {})
    cleaned = place.clean()
    assert cleaned["documents"]["kept"] == len(list(pages.rglob("*.md")))
    assert cleaned["num_bytes"] > 0
    before = {path: path.stat().st_mtime_ns for path in place.cleaned.rglob("*.parquet")}
    prepared = place.prepare()
    assert prepared["num_tokens"] * 2 < prepared["num_bytes"]
    assert prepared == {**place.prepare(), "seconds": prepared["seconds"]}
    assert before == {path: path.stat().st_mtime_ns for path in place.cleaned.rglob("*.parquet")}


def test_what_is_compared_is_told_by_its_reason(pages, tmp_path, model_dir):
    reference = tmp_path / "reference.txt"
    page = next(iter(sorted(pages.rglob("*.md")))).read_text(encoding="utf-8")
    reference.write_text(" ".join(page.split()), encoding="utf-8")
    place = preparation.Preparation(
        pages, model_dir, tmp_path, {"exclude_overlap_with": str(reference), "overlap_words": 5}
    )
    assert place.clean()["documents"]["left_out"]["overlap"] > 0
    assert place.trace() > 0
