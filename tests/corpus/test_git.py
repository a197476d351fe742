import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlmtune.corpus import git, git_repository
from mlmtune.errors import ConfigError, HubError, ResourceError

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

PROGRAM = shutil.which("git")
IGNORED_KIBIBYTES = 64


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    """The settings of git's user; those of whoever runs the tests do not count."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    settings = tmp_path / "gitconfig"
    settings.write_text("[core]\nfsync = none\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return settings


def run_git(folder, *arguments, typed=None):
    """Run git without the settings and variables that the tests give to the module."""
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    ours = ("user.name=a", "user.email=a@b", "init.defaultBranch=main", "core.fsync=none")
    command = [PROGRAM, "-C", str(folder)]
    command += [part for setting in ours for part in ("-c", setting)]
    return subprocess.run(
        [*command, *arguments], check=True, capture_output=True, input=typed, env=environment
    ).stdout


@dataclass
class Origin:
    """A repository that serves its files one by one, as code hosts do."""

    folder: Path

    @property
    def url(self):
        return self.folder.as_uri()

    def commit(self, files=None, message="m"):
        for name, content in (files or {}).items():
            path = os.path.join(os.fsencode(self.folder), os.fsencode(name))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content if isinstance(content, bytes) else content.encode())
        run_git(self.folder, "add", "--all")
        run_git(self.folder, "commit", "--quiet", "--allow-empty", "--message", message)
        return self.head()

    def commit_tree(self, *entries):
        """Commit a tree that no working tree could hold: (mode, kind, id, name)."""
        lines = b"".join(f"{m} {k} {i}\t{n}".encode() + b"\0" for m, k, i, n in entries)
        tree = self.object("tree", lines)
        commit = run_git(self.folder, "commit-tree", "-m", "m", tree).decode().strip()
        run_git(self.folder, "update-ref", "HEAD", commit)
        return commit

    def object(self, kind, content):
        if kind == "tree":
            made = run_git(self.folder, "mktree", "-z", "--missing", typed=content)
        else:
            made = run_git(self.folder, "hash-object", "-w", "--stdin", typed=content)
        return made.decode().strip()

    def head(self):
        return run_git(self.folder, "rev-parse", "HEAD").decode().strip()


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Three pages, a large file that is not wanted, and a history of such."""
    origin = Origin(tmp_path_factory.mktemp("published"))
    run_git(origin.folder, "init", "--quiet", "--template=")
    run_git(origin.folder, "config", "uploadpack.allowFilter", "true")
    run_git(origin.folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    origin.commit({"a.md": "old", "image.png": os.urandom(IGNORED_KIBIBYTES << 10)})
    origin.commit({
        "a.md": "first\n", "docs/b.md": "second\r\n", "docs/deep/c.md": "",
        "docs/d.txt": "text", "image.png": os.urandom(IGNORED_KIBIBYTES << 10),
    })  # fmt: skip
    return origin


@pytest.fixture
def origin(published, tmp_path):
    """A copy of the published repository that a test may change."""
    shutil.copytree(published.folder, tmp_path / "origin")
    return Origin(tmp_path / "origin")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "repositories"


@pytest.fixture
def fetch(origin, cache):
    """Fetches the Markdown files of the origin, unless told otherwise."""

    def fetch(revision=None, *, url=None, endings=".md", say=lambda line: None, **more):
        url = origin.url if url is None else url
        selection = endings.replace(".", "_")
        matches = lambda path: path.endswith(endings)  # noqa: E731
        wanted = git.WantedFiles(url, revision, matches, selection)
        return git.fetch(wanted, cache, say, **more)

    return fetch


@pytest.fixture
def git_calls(tmp_path, monkeypatch):
    """What git was run for since the last time this was asked: a list of its commands."""
    trace = tmp_path / "trace"
    monkeypatch.setenv("GIT_TRACE", str(trace))

    def calls():
        lines = trace.read_text(errors="replace").splitlines() if trace.exists() else []
        trace.unlink(missing_ok=True)
        return [line.partition("built-in: ")[2] for line in lines if "built-in: " in line]

    return calls


def fetches(calls):
    return [call for call in calls if " fetch " in call]


def content_of(checkout):
    root = Path(checkout.folder)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if not path.is_dir()
    }


def repository_in(cache):
    (folder,) = cache.glob("*/repository")
    return folder


def objects_in(repository):
    """Number of objects of each kind."""
    listed = run_git(repository, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)")
    kinds = listed.decode().split()
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def bytes_below(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def fake_program(folder, name, script):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return folder / name


@pytest.fixture
def replace_git(tmp_path, monkeypatch):
    """Puts a shell script in the place of git; `$GIT` in it is the real one."""

    def replace(script):
        fake_program(tmp_path / "bin", "git", f"GIT={PROGRAM}\n{script}")
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    return replace


def test_the_files_that_match_are_fetched_as_they_are(fetch, origin):
    checkout = fetch()
    assert content_of(checkout) == {
        "a.md": b"first\n",
        "docs/b.md": b"second\r\n",
        "docs/deep/c.md": b"",
    }
    assert checkout.commit == origin.head()
    assert checkout.passed_over == ()


def test_nothing_but_the_files_that_match_comes_over_the_wire(fetch, origin, cache, tmp_path):
    fetch()
    # The commit, its three folders, its three pages: no other file, and nothing of the history.
    assert objects_in(repository_in(cache)) == {"blob": 3, "commit": 1, "tree": 3}
    run_git(tmp_path, "clone", "--quiet", "--bare", origin.url, "whole")
    whole = bytes_below(tmp_path / "whole" / "objects")
    assert whole > 2 * IGNORED_KIBIBYTES << 10
    assert bytes_below(repository_in(cache) / "objects") < 8 << 10


def test_a_server_that_cannot_leave_files_out_is_used_all_the_same(fetch, origin, cache):
    run_git(origin.folder, "config", "uploadpack.allowFilter", "false")
    lines = []
    assert len(content_of(fetch(say=lines.append))) == 3
    assert sum("sent all of that commit" in line for line in lines) == 1
    assert objects_in(repository_in(cache))["blob"] == 5


def test_what_takes_time_is_said(fetch, origin):
    lines = []
    commit = fetch("main", say=lines.append).commit
    assert lines == [
        f"fetching the file list of {origin.url} at main",
        f"fetching 3 files of {origin.url}",
        f"{origin.url}: 3 files, 0.0 MB, of commit {commit[:12]}",
    ]


def test_a_second_time_git_is_not_even_run(fetch, origin, git_calls):
    first = fetch()
    assert len(fetches(git_calls())) == 2
    shutil.rmtree(origin.folder)
    assert fetch(say=pytest.fail) == first
    assert git_calls() == []


def test_files_in_several_requests(fetch, monkeypatch, git_calls):
    monkeypatch.setattr(git_repository, "FETCHED_AT_ONCE", 2)
    assert len(content_of(fetch())) == 3
    assert len(fetches(git_calls())) == 3


def test_another_choice_of_files_fetches_only_what_is_not_there(fetch, cache, git_calls):
    fetch()
    git_calls()
    lines = []
    assert len(content_of(fetch(endings=".txt", say=lines.append))) == 1
    assert len(fetches(git_calls())) == 1
    assert "fetching 1 file of" in lines[0]
    assert objects_in(repository_in(cache))["blob"] == 4


def test_no_file_that_matches_is_for_the_caller_to_judge(fetch, origin):
    checkout = fetch(endings=".rst")
    assert (content_of(checkout), checkout.commit) == ({}, origin.head())


def test_a_branch_stays_where_it_was_first_seen_until_it_is_looked_up_again(fetch, origin):
    first = fetch("main")
    origin.commit({"a.md": "changed"})
    assert fetch("main") == first
    moved = fetch("main", refresh=True)
    assert moved.commit == origin.head() != first.commit
    assert content_of(moved)["a.md"] == b"changed"
    assert fetch("main") == moved


def test_what_was_looked_up_and_when_is_noted(fetch, origin, cache):
    fetch("main")
    (noted,) = cache.glob("*/revisions.json")
    entry = json.loads(noted.read_text())["main"]
    assert entry["commit"] == origin.head()
    assert entry["looked_up"].startswith("20")


def test_a_branch_that_has_not_moved_is_not_fetched_again(fetch, git_calls):
    first = fetch()
    git_calls()
    assert fetch(refresh=True) == first
    assert len(fetches(git_calls())) == 1


@pytest.mark.parametrize("kind", ["branch", "tag", "annotated tag", "commit", "COMMIT"])
def test_a_revision_is_a_branch_a_tag_or_a_commit(fetch, origin, kind):
    old = origin.head()
    run_git(origin.folder, "branch", "release/1.0@x")
    run_git(origin.folder, "tag", "light")
    run_git(origin.folder, "tag", "--annotate", "heavy", "--message", "m")
    origin.commit({"a.md": "newer"})
    names = {"branch": "release/1.0@x", "tag": "light", "annotated tag": "heavy"}
    checkout = fetch(names.get(kind) or (old.upper() if kind == "COMMIT" else old))
    assert checkout.commit == old
    assert content_of(checkout)["a.md"] == b"first\n"


def test_a_branch_called_tag_is_no_command(fetch, origin):
    run_git(origin.folder, "branch", "tag")
    assert fetch("tag").commit == origin.head()


def test_a_commit_that_a_branch_was_found_at_is_known(fetch, origin):
    first = fetch("main")
    shutil.rmtree(origin.folder)
    assert fetch(first.commit) == first
    assert fetch(first.commit, refresh=True) == first


def test_a_checkout_that_lost_something_is_made_again_off_the_network(fetch, origin, git_calls):
    first = fetch()
    whole = content_of(first)
    shutil.rmtree(origin.folder)
    (Path(first.folder) / "a.md").write_bytes(b"")
    git_calls()
    assert content_of(fetch()) == whole
    (Path(first.folder) / "docs/b.md").unlink()
    assert content_of(fetch()) == whole
    assert fetches(git_calls()) == []


def test_a_cache_that_lost_its_repository_fetches_the_same_commit_again(fetch, origin, cache):
    first = fetch()
    origin.commit({"a.md": "newer"})
    shutil.rmtree(repository_in(cache))
    shutil.rmtree(first.folder)
    assert fetch() == first


def test_a_damaged_repository_names_the_folder_to_delete(fetch, cache):
    checkout = fetch()
    for pack in repository_in(cache).glob("objects/pack/*.pack"):
        pack.chmod(0o644)
        pack.write_bytes(pack.read_bytes()[:12] + bytes(40))
    shutil.rmtree(checkout.folder)
    with pytest.raises(ResourceError, match=f"{repository_in(cache)}: .* delete the folder"):
        fetch()
    shutil.rmtree(repository_in(cache))
    assert fetch() == checkout


@pytest.mark.parametrize(("num_bytes", "what"), [(0, "is missing"), (50, "is cut short")])
def test_a_git_that_dies_over_an_object_leaves_no_half_file(fetch, replace_git, num_bytes, what):
    replace_git(
        f'case "$*" in *--buffer*) $GIT "$@" | head -c {num_bytes}; exit 1;; esac\nexec $GIT "$@"'
    )
    with pytest.raises(ResourceError, match=f"{what}.* delete the folder"):
        fetch()
    replace_git('exec $GIT "$@"')
    assert content_of(fetch())["a.md"] == b"first\n"


def test_links_submodules_and_pointers_are_passed_over(fetch, origin):
    os.symlink("/etc/passwd", origin.folder / "link.md")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
    origin.commit({"large.md": pointer})
    ours = [f"160000,{origin.head()},module.md", f"160000,{origin.head()},other"]
    run_git(origin.folder, "update-index", "--add", "--cacheinfo", ours[0], "--cacheinfo", ours[1])
    run_git(origin.folder, "commit", "--quiet", "--message", "m")
    checkout = fetch()
    assert len(content_of(checkout)) == 3
    assert not any(path.is_symlink() for path in Path(checkout.folder).rglob("*"))
    assert [(place.path, place.reason) for place in checkout.passed_over] == [
        ("large.md", "lfs_pointer"),
        ("link.md", "link"),
        ("module.md", "submodule"),
    ]
    assert fetch() == checkout


@pytest.mark.parametrize("folder", ["..", ".", ".git", ".GIT"])
def test_a_path_that_leads_out_is_passed_over(fetch, origin, tmp_path, folder):
    page = origin.object("blob", b"hostile")
    inside = origin.object("tree", f"100644 blob {page}\tx.md\0".encode())
    origin.commit_tree(("040000", "tree", inside, folder), ("100644", "blob", page, "y.md"))
    checkout = fetch()
    assert content_of(checkout) == {"y.md": b"hostile"}
    assert [(place.path, place.reason) for place in checkout.passed_over] == [
        (f"{folder}/x.md", "unsafe_path")
    ]
    assert list(tmp_path.rglob("x.md")) == []


def test_a_file_where_a_folder_is_and_names_too_long_are_passed_over(fetch, origin):
    page = origin.object("blob", b"page")
    deep = origin.object("tree", f"100644 blob {page}\tx.md\0".encode())
    for _ in range(300):
        deep = origin.object("tree", f"040000 tree {deep}\td\0".encode())
    both = origin.object("tree", f"100644 blob {page}\tx.md\0".encode())
    origin.commit_tree(
        ("100644", "blob", page, "a.md"),
        ("040000", "tree", both, "a.md"),
        ("100644", "blob", page, "b" * 300 + ".md"),
        ("040000", "tree", deep, "d"),
        ("100644", "blob", page, "z.md"),
    )
    checkout = fetch()
    assert content_of(checkout) == {"a.md": b"page", "z.md": b"page"}
    assert [place.reason for place in checkout.passed_over] == ["unsafe_path"] * 3


def test_odd_names_are_kept(fetch, origin):
    names = [
        "with space.md",
        "neue\nZeile.md",
        "文档/页.md",
        "-rf.md",
        '"q".md',
        os.fsdecode(b"\xff.md"),
    ]
    origin.commit({name: name.encode("utf-8", "surrogateescape") for name in names})
    kept = content_of(fetch())
    for name in names:
        assert kept[name] == os.fsencode(name)


def test_large_files_and_copies_are_whole(fetch, origin):
    large = os.urandom(1 << 20) * 3 + b"end"
    origin.commit({"large.md": large, "copy.md": large, "exact.md": large[: 1 << 20]})
    kept = content_of(fetch())
    assert kept["large.md"] == kept["copy.md"] == large
    assert kept["exact.md"] == large[: 1 << 20]


def test_no_hook_filter_or_attribute_takes_effect(fetch, origin, cache, tmp_path, settings):
    origin.commit({".gitattributes": "*.md filter=x ident eol=crlf\n"})
    canary = tmp_path / "canary"
    hooks = tmp_path / "template" / "hooks"
    hooks.parent.mkdir()
    for name in ("reference-transaction", "post-checkout", "post-index-change", "pre-auto-gc"):
        fake_program(hooks, name, f"touch {canary}")
    with settings.open("a") as file:
        file.write(
            f"[init]\ntemplateDir = {hooks.parent}\n[core]\nhooksPath = {hooks}\nautocrlf = true\n"
            f"fsmonitor = touch {canary}\n"
            f'[filter "x"]\nsmudge = touch {canary}; cat\nrequired = true\n'
        )
    assert content_of(fetch())["a.md"] == b"first\n"
    assert not canary.exists()
    assert not (repository_in(cache) / "hooks").exists()


def test_variables_that_tie_git_to_another_repository_are_not_heeded(
    fetch, origin, tmp_path, monkeypatch
):
    other = tmp_path / "other"
    run_git(tmp_path, "init", "--quiet", "--bare", str(other))
    monkeypatch.setenv("GIT_DIR", str(other))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other / "objects"))
    monkeypatch.setenv("GIT_NAMESPACE", "x")
    before = bytes_below(other)
    assert fetch().commit == origin.head()
    assert bytes_below(other) == before


@pytest.mark.parametrize(
    "url",
    [
        "--upload-pack=touch CANARY",
        "-oProxyCommand=touch CANARY",
        "ext::sh -c 'touch CANARY'",
        "fd::17",
        "http://127.0.0.1/x",
        "git://127.0.0.1/x",
        "ssh://-oProxyCommand=x/x",
        "ssh://user@-oProxyCommand=x/x",
        "ssh://-oProxyCommand=x@host/x",
        "https://host/x\nhost=other",
        "https://host\r/x",
        "file:///x\0",
        "https://host",
        "user@host:path",
        "/tmp/x",
        "",
    ],
)
def test_a_hostile_url_is_refused_before_git_is_run(fetch, tmp_path, git_calls, url):
    canary = tmp_path / "canary"
    with pytest.raises(ConfigError):
        fetch(url=url.replace("CANARY", str(canary)))
    assert not canary.exists()
    assert git_calls() == []


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@host/x",
        "https://secret@host/x",
        "ssh://user:secret@host/x",
        "http://user:secret@host/x",
        "https://user:sec@secret@host/x",
        "https://host/x.git?private_token=secret",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_shown(fetch, url):
    with pytest.raises(ConfigError) as raised:
        fetch(url=url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "revision",
    [
        "--upload-pack=touch CANARY",
        "-x",
        "a:refs/heads/b",
        "+main",
        "^main",
        "a b",
        "a\nb",
        "",
        "*",
    ],
)
def test_a_hostile_revision_is_refused_before_git_is_run(fetch, tmp_path, git_calls, revision):
    canary = tmp_path / "canary"
    with pytest.raises(ConfigError, match="revision"):
        fetch(revision.replace("CANARY", str(canary)))
    assert not canary.exists()
    assert git_calls() == []


def test_a_transport_that_the_user_s_settings_lead_to_is_refused(fetch, origin, tmp_path, settings):
    canary = tmp_path / "canary"
    with settings.open("a") as file:
        file.write(
            f'[url "ext::touch {canary} "]\ninsteadOf = {origin.url}\n'
            '[protocol "ext"]\nallow = always\n'
        )
    with pytest.raises(HubError, match="ext"):
        fetch()
    assert not canary.exists()


@pytest.mark.parametrize("revision", ["nosuch", "1234567", "1" * 40, "a..b", "tree"])
def test_a_revision_that_is_not_there(fetch, origin, revision):
    run_git(origin.folder, "tag", "tree", "HEAD^{tree}")
    with pytest.raises(HubError, match=r"has no revision .*all 40 digits of a commit"):
        fetch(revision)


def test_an_empty_repository_has_no_default_branch(fetch, tmp_path):
    run_git(tmp_path, "init", "--quiet", "--bare", "empty")
    with pytest.raises(HubError, match="no default branch"):
        fetch(url=(tmp_path / "empty").as_uri())


def test_a_repository_that_is_not_there(fetch, tmp_path):
    with pytest.raises(HubError, match=r"no such repository.*does not appear to be a git repo"):
        fetch(url=(tmp_path / "nowhere").as_uri())


def test_a_server_that_does_not_answer_and_no_password_is_shown(fetch, settings):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{closed.getsockname()[1]}"
        with settings.open("a") as file:
            file.write(f'[url "https://user:hidden@{where}/"]\ninsteadOf = https://host.invalid/\n')
        with pytest.raises(HubError) as raised:
            fetch(url="https://host.invalid/x")
    assert str(raised.value).startswith("https://host.invalid/x: git cannot fetch from it")
    assert where in str(raised.value)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "remote: HTTP Basic: Access denied\n"
            "fatal: Authentication failed for 'https://user:hidden@host/x/'",
            "may not read it.*Authentication failed for 'https://\\*\\*\\*@host/x/'",
        ),
        (
            "fatal: could not read Username for 'https://hidden@host': terminal prompts disabled",
            "may not read it.*terminal prompts disabled",
        ),
        (
            "git@host: Permission denied (publickey).\n"
            "fatal: Could not read from remote repository.\n\n"
            "Please make sure you have the correct access rights\nand the repository exists.",
            r"may not read it.*\(git@host: Permission denied \(publickey\).\)",
        ),
        (
            "ERROR: GitRepository not found.\nfatal: Could not read from remote repository.",
            "no such repository.*GitRepository not found",
        ),
        (
            "error: RPC failed; curl 18 transfer closed\nfatal: early EOF",
            r"cannot fetch.*\(error: RPC failed; curl 18 transfer closed\)",
        ),
        ("", "cannot fetch.*does not say why"),
    ],
)
def test_the_line_that_tells_is_shown(fetch, replace_git, tmp_path, said, shown):
    (tmp_path / "said").write_text(said)
    replace_git(
        f'case "$*" in *" fetch "*) cat {tmp_path}/said >&2; exit 128;; esac\nexec $GIT "$@"'
    )
    with pytest.raises(HubError, match=shown) as raised:
        fetch()
    assert "hidden" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_full_disk_is_an_error_of_the_system(fetch, replace_git):
    replace_git(
        'case "$*" in *" fetch "*) echo "fatal: write error: No space left on device" >&2\n'
        'exit 128;; esac\nexec $GIT "$@"'
    )
    with pytest.raises(OSError, match="No space left on device"):
        fetch()


def test_without_git_one_is_told_to_install_it(fetch, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="install git"):
        fetch()


def test_an_old_git_is_told_of(fetch, replace_git):
    replace_git('case "$*" in *--stdin*) exit 129;; esac\nexec $GIT "$@"')
    with pytest.raises(ConfigError, match=r"git 2\.29 or newer"):
        fetch()


def test_ssh_runs_as_the_user_set_it_up_and_cannot_ask(fetch, origin, tmp_path, settings):
    record = tmp_path / "record"
    ssh = fake_program(
        tmp_path / "bin", "my-ssh",
        f'(: < /dev/tty) 2>/dev/null && echo terminal >> {record}\n'
        f'echo "$SSH_ASKPASS $SSH_ASKPASS_REQUIRE $GIT_TERMINAL_PROMPT" >> {record}\n'
        'for last; do :; done\nexec sh -c "$last"',
    )  # fmt: skip
    with settings.open("a") as file:
        file.write(f"[core]\nsshCommand = {ssh}\n[ssh]\nvariant = ssh\n")
    assert len(content_of(fetch(url=f"ssh://git@host{origin.folder}"))) == 3
    assert set(record.read_text().splitlines()) == {"false never 0"}


def child_script(cache, url):
    return (
        "import signal; from pathlib import Path; from mlmtune.corpus import git\n"
        # Whoever runs the tests in the background of a shell has it ignored in all children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"wanted = git.WantedFiles({url!r}, None, lambda path: path.endswith('.md'), '_md')\n"
        f"git.fetch(wanted, Path({str(cache)!r}), lambda line: print(line, flush=True))"
    )


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


STALLS = """case "$*" in *--no-write-fetch-head*)
    if [ ! -e {stall}.released ]; then
        sleep 60 & echo "$$ $!" > {stall}.new; mv {stall}.new {stall}; wait
    fi;;
esac
exec $GIT "$@"
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_interrupt_ends_git_and_all_it_started(fetch, origin, cache, tmp_path, replace_git):
    stall = tmp_path / "stall"
    replace_git(STALLS.format(stall=stall))
    command = [sys.executable, "-c", child_script(cache, origin.url)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        wait_for(stall.exists)
        child.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in child.communicate(timeout=30)[1]
    for pid in stall.read_text().split():
        wait_for(lambda pid=pid: not is_running(pid))
    Path(f"{stall}.released").touch()
    assert len(content_of(fetch())) == 3


def test_after_a_kill_the_next_call_goes_on(fetch, origin, cache, tmp_path, replace_git):
    stall = tmp_path / "stall"
    replace_git(STALLS.format(stall=stall))
    command = [sys.executable, "-c", child_script(cache, origin.url)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        wait_for(stall.exists)
        child.kill()
    for pid in stall.read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    # What git and we leave behind when there is no time to tidy up.
    repository = repository_in(cache)
    pack = repository / "objects" / "pack" / "tmp_pack_x"
    pack.write_bytes(b"half")
    (repository / "shallow.lock").touch()
    (repository / "config.lock").touch()
    stale = repository.parent / "checkouts" / ".writing-of-another-time"
    stale.mkdir(parents=True)
    Path(f"{stall}.released").touch()
    assert sorted(content_of(fetch())) == ["a.md", "docs/b.md", "docs/deep/c.md"]
    assert not pack.exists()
    assert not stale.exists()


def test_processes_that_want_the_same_repository_wait_for_one_another(
    fetch, origin, cache, tmp_path, replace_git
):
    stall = tmp_path / "stall"
    replace_git(STALLS.format(stall=stall))
    command = [sys.executable, "-c", child_script(cache, origin.url)]
    lines = []

    def release(line):
        lines.append(line)
        Path(f"{stall}.released").touch()
        os.kill(int(stall.read_text().split()[1]), signal.SIGTERM)

    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        wait_for(stall.exists)
        assert len(content_of(fetch(say=release))) == 3
        assert child.wait(timeout=30) == 0
    assert lines == [f"waiting for another process that fetches {origin.url}"]


def test_the_files_of_a_repository_are_listed_without_their_contents(published, cache):
    said = []
    assert git.list_files(published.url, None, cache, said.append) == [
        "a.md", "docs/b.md", "docs/d.txt", "docs/deep/c.md", "image.png",
    ]  # fmt: skip
    assert said == [f"fetching the file list of {published.url}"]
    assert sum(f.stat().st_size for f in cache.rglob("*.pack")) < IGNORED_KIBIBYTES << 10
    with pytest.raises(HubError, match="no revision 'nowhere'"):
        git.list_files(published.url, "nowhere", cache, said.append)
