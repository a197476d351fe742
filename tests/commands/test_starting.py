import gc
import importlib.util
import sys

from mlmtune.commands.starting import importing_libraries


def test_libraries_are_imported_without_what_is_slow_and_nothing_stays_hidden(monkeypatch):
    before = importlib.util.find_spec("sklearn")
    frozen = gc.get_freeze_count()
    for name in ("scipy", "sklearn"):  # as at the start of a process
        monkeypatch.delitem(sys.modules, name, raising=False)
    with importing_libraries():
        assert not gc.isenabled()
        assert importlib.util.find_spec("sklearn") is importlib.util.find_spec("scipy") is None
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen
    gc.unfreeze()
    assert importlib.util.find_spec("sklearn") == before


def test_what_is_imported_already_is_not_hidden(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", sys)
    with importing_libraries():
        assert sys.modules["scipy"] is sys
    assert sys.modules["scipy"] is sys
