"""A drafted config loads, says why, and is what the run keeps."""

from mlmtune.config_loading import load_config_text
from mlmtune.drafting.draft import commented, draft_config
from mlmtune.drafting.sizing import Choice
from mlmtune.modeling.locating import locate_model
from mlmtune.modeling.tokenizer import load_tokenizer
from mlmtune.tokens import opening


def test_the_text_loads_as_the_config(corpus_dir, model_dir, console):
    overrides = ["training.max_steps=3", "run.output_dir=elsewhere", "masking.strategy=whole_word"]
    draft = draft_config([str(corpus_dir)], str(model_dir), overrides, console)
    assert load_config_text(draft.text, "test") == draft.config
    assert draft.config.training.max_steps == 3
    assert draft.config.run.output_dir == "elsewhere"
    assert draft.reason.startswith("40 documents (")
    assert "  # share of the tokens that are predicted\n" in draft.text


def test_the_text_is_read_once(corpus_dir, model_dir, console, monkeypatch):
    built = []
    build = opening._build
    monkeypatch.setattr(opening, "_build", lambda *them: (built.append(1), build(*them)))
    for _ in range(2):
        draft = draft_config([str(corpus_dir)], str(model_dir), [], console)
    text = opening.CorpusText.of(draft.config.corpus, draft.config.tokenization, console)
    opening.open_store(text.listed(), load_tokenizer(locate_model(str(model_dir), None)))
    assert built == [1]


def test_a_reason_is_beside_what_was_chosen_and_not_beside_what_the_user_set():
    settings = {
        "training": {"epochs": 3, "max_steps": None},
        "corpus": {"sources": [{"path": "a"}]},
    }
    choices = [Choice("training", "epochs", 3, "passes"), Choice("training", "max_steps", 7, "why")]
    assert commented(settings, choices) == (
        "training:\n  epochs: 3                     # passes\n  max_steps: null\n\n"
        "corpus:\n  sources:\n    - path: a\n"
    )
