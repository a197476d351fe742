from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from local_hub import READ_ONLY_TOKEN

from mlmtune.errors import ConfigError
from mlmtune.sharing.hub_repository import (
    HubRepository,
    PushFailed,
    open_repository,
    push_folder,
)  # fmt: skip


def ignore(line):
    pass


def opened(name="bert", is_private=True):
    return open_repository(name, is_private=is_private, say=ignore)


def push(repository, folder, say=ignore):
    return push_folder(repository, folder, "step 3", say)


def test_a_repository_is_made_private_in_ones_own_account(hub):
    repository = opened()
    assert repository == HubRepository("someone/bert", is_private=True)
    assert hub.repos["someone/bert"].private
    assert repository.url == f"{hub.endpoint}/someone/bert"


def test_it_may_be_an_organisations_and_public(hub):
    assert opened("lab/bert", is_private=False).name == "lab/bert"
    assert not hub.repos["lab/bert"].private


def test_one_that_is_there_is_taken(hub):
    assert opened() == opened()
    assert opened(is_private=False).is_private  # it stays as it was made


def test_nothing_private_goes_to_a_public_repository(hub):
    opened(is_private=False)
    with pytest.raises(ConfigError, match=r"someone/bert is public.*--public"):
        opened()


@pytest.mark.parametrize("name", ["a/b/c", "a b", "-a", "a..b"])
def test_what_is_no_name_is_told(hub, name):
    with pytest.raises(ConfigError, match="not a valid name of a repository"):
        opened(name)
    assert hub.requests == []


def test_a_folder_arrives_whole_in_one_commit(hub, folder):
    commit = push(opened(), folder)
    repo = hub.repos["someone/bert"]
    assert [made["oid"] for made in repo.commits] == [commit]
    assert repo.commits[0]["summary"] == "step 3"
    assert set(repo.files) == {file.name for file in folder.iterdir()}
    assert repo.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert repo.files["config.json"] == (folder / "config.json").read_bytes()


def test_the_cards_snippet_loads_it_from_there(hub, folder):
    push(opened(), folder)
    assert hub.repos["someone/bert"].files["README.md"] == b'model = "someone/bert"\n'
    assert "someone" not in (folder / "README.md").read_text(encoding="utf-8")


def test_what_has_not_changed_is_not_sent_again(hub, folder):
    repository = opened()
    first = push(repository, folder)
    assert push(repository, folder) == first
    (folder / "config.json").write_text("{}", encoding="utf-8")
    second = push(repository, folder)
    assert hub.repos["someone/bert"].commits[-1] == {
        "oid": second, "summary": "step 3", "files": ["config.json"],
    }  # fmt: skip
    assert hub.count("PUT", "/blobs/") == 1


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_after_an_error_of_the_server_it_tries_again(hub, folder, status):
    hub.fail("POST .*/commit/", status)
    said = []
    push(opened(), folder, said.append)
    assert len(hub.repos["someone/bert"].commits) == 1
    assert said == [
        f"{hub.endpoint} answers with HTTP status {status} (injected); trying again in 0 s"
    ]


def test_what_a_failed_attempt_has_uploaded_is_not_uploaded_again(hub, folder):
    hub.fail("POST .*/commit/", 503, times=3)
    repository = opened()
    with pytest.raises(PushFailed, match="HTTP status 503"):
        push(repository, folder)
    assert hub.repos["someone/bert"].files == {}
    push(repository, folder)  # the user's own attempt, later
    assert hub.count("PUT", "/blobs/") == 1
    assert hub.repos["someone/bert"].files.keys() == {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("request_", ["POST .*/create", "PUT /blobs/", "POST .*/commit/",
                                      "POST .*/preupload/", "POST .*/batch"])  # fmt: skip
@pytest.mark.parametrize("status", [None, 500])
def test_a_failure_in_the_middle_is_no_end(hub, folder, request_, status):
    """A dropped connection, or an error of the server."""
    hub.fail(request_, status)
    push(opened(), folder)
    assert len(hub.repos["someone/bert"].commits) == 1


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub, folder):
    hub.fail("POST .*/commit/", None, after=True)
    commit = push(opened(), folder)
    assert [made["oid"] for made in hub.repos["someone/bert"].commits] == [commit]


def test_a_server_that_stays_away_is_told(hub, folder):
    hub.fail("POST .*/commit/", None, times=100)
    with pytest.raises(PushFailed, match="cannot be reached") as failed:
        push(opened(), folder)
    assert failed.value.may_pass
    assert failed.value.exit_code == 7
    assert hub.count("POST", "/commit/") == 3


def test_a_refused_token_is_told_at_once(hub, folder, monkeypatch):
    repository = opened()
    monkeypatch.setenv("HF_TOKEN", "hf_SomethingElseAltogether")
    for attempt in (opened, lambda: push(repository, folder)):
        before = len(hub.requests)
        with pytest.raises(PushFailed, match=r"401.*not valid; set HF_TOKEN") as failed:
            attempt()
        assert not failed.value.may_pass
        assert len(hub.requests) - before <= 2
        assert "SomethingElse" not in str(failed.value)


def test_a_missing_token_is_told(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with pytest.raises(PushFailed, match=r"401.*there is no token; set HF_TOKEN"):
        opened()


def test_a_token_that_may_not_write_is_told(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ_ONLY_TOKEN)
    with pytest.raises(PushFailed, match=r"403.*may not write there") as failed:
        opened()
    assert not failed.value.may_pass


def test_a_token_that_may_not_write_to_what_is_there_is_told(hub, folder, monkeypatch):
    """Making it again is no error to the client, whatever the token may do."""
    opened()
    monkeypatch.setenv("HF_TOKEN", READ_ONLY_TOKEN)
    with pytest.raises(PushFailed, match=r"403.*may not write there"):
        opened()


def test_a_hub_that_cannot_say_who_may_write_is_asked_by_pushing(hub, folder):
    hub.answers["/api/models/someone/bert/auth-check/write"] = 404, {"error": "no such endpoint"}
    push(opened(), folder)
    assert len(hub.repos["someone/bert"].commits) == 1


def test_a_proxy_that_answers_in_place_of_the_hub_is_told(hub):
    hub.answers["/api/repos/create"] = 200, b"<html>Please log in</html>"
    with pytest.raises(PushFailed, match="does not answer as a hub does"):
        opened()


def test_a_card_that_is_no_text_is_told(hub, folder):
    (folder / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"README.md: is not UTF-8"):
        push(opened(), folder)


def test_no_request_is_made_where_the_hub_must_not_be_asked(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PushFailed, match="HF_HUB_OFFLINE is set"):
        opened()
    assert hub.requests == []


def test_a_hub_without_xet_storage_gets_plain_uploads(hub, folder):
    """Mirrors have none; the client asks for it whatever the hub says it has."""
    pytest.importorskip("hf_xet")
    push(opened(), folder)
    assert hub.count("GET", "/xet-write-token/") >= 1
    assert hub.count("PUT", "/blobs/") == 1


def test_what_the_hub_has_against_a_card_is_told(hub, folder):
    """Such as a licence that it does not know."""
    hub.answers["/api/validate-yaml"] = 400, {"errors": [{"message": '"license" must be one of'}]}
    with pytest.raises(
        PushFailed, match=r'does not take the model card .*"license" must be one of'
    ):
        push(opened(), folder)
    assert hub.repos["someone/bert"].files == {}


def test_a_file_that_cannot_be_read_is_no_fault_of_the_hub(hub, folder):
    repository = opened()
    (folder / "link.json").symlink_to(folder / "nothing")
    push(repository, folder)  # no file, nothing to push
    assert "link.json" not in hub.repos["someone/bert"].files


def test_the_endpoint_is_shown_without_its_password(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "https://me:secret@mirror")
    assert SimpleNamespace(url=HubRepository("a/b", True).url).url == "https://mirror/a/b"
