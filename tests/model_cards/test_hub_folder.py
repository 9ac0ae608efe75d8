"""A folder pushed to a Hub of this machine by the real client: equal, in one commit, and safe at every fault."""

import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hub_client import HubClient
from safetensors.numpy import save_file

ANA, READER, BEN = "hf_write_token_of_ana", "hf_read_token_of_ana", "hf_write_token_of_ben"
PUSH = """
import sys
from pathlib import Path
from casita.model_cards.hub_folder import Target, describe_push, push_folder
def push(folder, name, **options):
    where = {key: options.pop(key) for key in ("kind", "private", "strict", "revision") if key in options}
    target = Target(**({"kind": "model"} | where), name=name)
    print(describe_push(push_folder(Path(folder), target, message="a push", **options)))
try:
    CALL
except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
"""


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    modules = ("casita.cli", "casita.model_cards.publish")
    with HubClient(hub.environment(folder / "hf", ANA), folder, modules) as started:
        yield started


@pytest.fixture(autouse=True)
def fresh(hub):
    """No repositories, no faults, no memory of requests."""
    hub.store.repos.clear()
    hub.requests.clear()
    hub.faults.__init__()


@pytest.fixture
def push(client):
    def run(call, **options):
        return client.run(PUSH.replace("CALL", f"push({call})"), **options)

    return run


@pytest.fixture
def folder(tmp_path):
    """A card, a text in a folder, and a megabyte of tensors."""
    made = tmp_path / "tree"
    (made / "plots").mkdir(parents=True)
    (made / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (made / "plots" / "notes.txt").write_text("first\n")
    tensor = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
    save_file({"table": tensor}, made / "model.safetensors")
    return made


def tree(repo, revision="main"):
    return {path: blob.etag for path, blob in repo.commit(revision).files.items() if path != ".gitattributes"}


def uploads(hub):
    return [request for request in hub.requests if request.startswith("PUT /cdn/")]


def test_a_push_makes_the_repository_equal_to_the_folder_in_one_commit(hub, push, folder):
    done = push(f"{str(folder)!r}, 'lab/m', tag='v1'")
    assert done.code == 0, done.stderr
    assert "3 files put, 0 removed" in done.stdout
    assert f"{hub.endpoint}/lab/m" in done.stdout
    repo = hub.store.repos["model", "lab/m"]
    assert repo.private
    assert len(repo.commits) == 2  # the Hub's own .gitattributes, and this one
    for path in ("README.md", "plots/notes.txt", "model.safetensors"):
        blob = repo.file("v1", path)
        assert hub.store.content(blob.etag).read_bytes() == (folder / path).read_bytes()
    assert repo.file("v1", "model.safetensors").sha256
    assert repo.file("v1", "README.md").sha256 is None
    assert not hub.leaks


def test_nothing_changed_makes_no_commit_and_uploads_nothing(hub, push, folder):
    push(f"{str(folder)!r}, 'lab/m', tag='v1'")
    hub.requests.clear()
    done = push(f"{str(folder)!r}, 'lab/m', tag='v1'")
    assert "nothing changed, no commit" in done.stdout
    assert len(hub.store.repos["model", "lab/m"].commits) == 2
    assert not [request for request in hub.requests if "preupload" in request or "/commit/" in request]
    assert not uploads(hub)


def test_only_what_differs_goes_up_and_what_is_gone_goes_away(hub, push, folder):
    push(f"{str(folder)!r}, 'lab/m', tag='v1'")
    hub.requests.clear()
    (folder / "plots" / "notes.txt").write_text("other\n")  # of equal size
    (folder / "new.json").write_text("{}")
    (folder / "README.md").unlink()
    done = push(f"{str(folder)!r}, 'lab/m'")
    assert "2 files put, 1 removed" in done.stdout
    assert not uploads(hub)
    repo = hub.store.repos["model", "lab/m"]
    assert set(tree(repo)) == {"plots/notes.txt", "new.json", "model.safetensors"}
    assert "README.md" in tree(repo, "v1")  # the version keeps what it had
    assert ".gitattributes" in repo.commit("main").files


def test_a_tag_never_moves(hub, push, folder):
    push(f"{str(folder)!r}, 'lab/m', tag='v1'")
    first = hub.store.repos["model", "lab/m"].tags["v1"]
    (folder / "new.json").write_text("{}")
    hub.requests.clear()
    refused = push(f"{str(folder)!r}, 'lab/m', tag='v1'")
    assert "tag v1 is at commit" in refused.error
    assert not [request for request in hub.requests if "/commit/" in request]
    stays = push(f"{str(folder)!r}, 'lab/m', tag='v1', new_tag=False")
    assert f"tag v1 is at commit {first[:8]}, whose files are others, and stays there" in stays.stdout
    assert hub.store.repos["model", "lab/m"].tags == {"v1": first}


def test_a_branch_of_its_own_leaves_main_alone(hub, push, folder):
    push(f"{str(folder)!r}, 'lab/m'")
    main = hub.store.repos["model", "lab/m"].branches["main"]
    (folder / "new.json").write_text("{}")
    done = push(f"{str(folder)!r}, 'lab/m', revision='trial/two'")
    assert "/tree/trial/two" in done.stdout
    branches = hub.store.repos["model", "lab/m"].branches
    assert branches["main"] == main != branches["trial/two"]


@pytest.mark.parametrize("name", ["two words", "-x", "a..b", "a//b", "x.", "v1~", ""])
def test_a_tag_or_branch_that_git_or_a_shell_would_stumble_over_is_refused(hub, push, folder, name):
    assert f"tag {name!r}: expected letters" in push(f"{str(folder)!r}, 'lab/m', tag={name!r}").error
    assert f"branch {name!r}: expected letters" in push(f"{str(folder)!r}, 'lab/m', revision={name!r}").error
    assert not hub.requests


def test_visibility_is_that_asked_for_and_never_changes_in_silence(hub, push, folder):
    push(f"{str(folder)!r}, 'lab/d', kind='dataset', private=False")
    assert not hub.store.repos["dataset", "lab/d"].private
    again = push(f"{str(folder)!r}, 'lab/d', kind='dataset'")
    assert "(public): nothing changed" in again.stdout
    refused = push(f"{str(folder)!r}, 'lab/d', kind='dataset', private=True, strict=True")
    assert "is public, and was to be private" in refused.error


@pytest.mark.parametrize(
    "token, message",
    [
        (None, "asks for a token, and there is none (401)"),
        ("hf_wrong_token_of_nobody", "does not know this token (401)"),
        (READER, "the token may not write to lab (403)"),
        (BEN, "the token may not write to lab (403)"),
    ],
)
def test_a_forbidden_push_is_refused_in_one_line_without_the_token(hub, push, folder, token, message):
    done = push(f"{str(folder)!r}, 'lab/m'", HF_TOKEN=token)
    assert message in done.error
    assert "hf auth login" in done.error
    assert not hub.store.repos
    assert "hf_" not in done.stdout + done.stderr


def test_a_stranger_may_not_write_into_a_repository_that_is_there(hub, push, folder):
    push(f"{str(folder)!r}, 'lab/m', private=False")
    (folder / "new.json").write_text("{}")
    for token in (READER, BEN):
        assert "(403)" in push(f"{str(folder)!r}, 'lab/m'", HF_TOKEN=token).error
    assert len(hub.store.repos["model", "lab/m"].commits) == 2


def test_a_connection_cut_in_the_middle_of_an_upload_is_tried_again(hub, push, folder):
    hub.faults.cut_uploads, hub.faults.cut_after = 1, 300_000
    done = push(f"{str(folder)!r}, 'lab/m'")
    assert done.code == 0, done.stderr
    assert len(uploads(hub)) == 2
    assert "model.safetensors" in tree(hub.store.repos["model", "lab/m"])


def test_a_push_killed_in_the_middle_goes_on_where_it_was(hub, push, folder):
    save_file({"other": np.ones((300, 300), np.float32)}, folder / "a.safetensors")
    push(f"{str(folder)!r}, 'lab/m'")  # what is there before the push that is killed
    save_file({"other": np.zeros((300, 300), np.float32)}, folder / "a.safetensors")
    save_file({"table": np.ones((600, 600), np.float32)}, folder / "model.safetensors")
    before = tree(hub.store.repos["model", "lab/m"])
    hub.faults.stall_uploads, hub.faults.cut_after = True, 100_000
    killed = push(f"{str(folder)!r}, 'lab/m'", kill_when=hub.faults.stalled)
    assert killed.code == -9
    assert tree(hub.store.repos["model", "lab/m"]) == before  # half a push is no push
    hub.faults.__init__()
    done = push(f"{str(folder)!r}, 'lab/m', tag='v2'")
    assert "2 files put" in done.stdout
    assert len(hub.store.repos["model", "lab/m"].commits) == 3


def test_what_an_interrupted_push_uploaded_is_not_uploaded_again(hub, push, folder):
    push(f"{str(folder)!r}, 'lab/m'")
    repo = hub.store.repos["model", "lab/m"]
    save_file({"table": np.ones((600, 600), np.float32)}, folder / "model.safetensors")
    objects = set(repo.objects)

    def refuse(_):
        raise ConnectionError  # the large file is there, the commit never comes

    hub.faults.before_commit = refuse
    broken = push(f"{str(folder)!r}, 'lab/m'")
    assert "the connection to" in broken.error
    assert "goes on where this one stopped" in broken.error
    assert len(repo.objects - objects) == 1
    hub.requests.clear()
    assert "1 files put" in push(f"{str(folder)!r}, 'lab/m'").stdout
    assert not uploads(hub)


def test_of_two_pushes_at_once_one_looks_again_and_goes_on_top_of_the_other(hub, push, folder, tmp_path):
    push(f"{str(folder)!r}, 'lab/m'")
    repo = hub.store.repos["model", "lab/m"]
    theirs = tmp_path / "theirs"
    shutil.copytree(folder, theirs)
    (theirs / "theirs.json").write_text("{}")
    (folder / "mine.json").write_text("{}")
    environment = hub.environment(tmp_path / "hf", ANA)
    with HubClient(environment, tmp_path / "other", ("casita.model_cards.publish",)) as other:
        # a whole push of another process, between what this one looked at and its commit
        call = PUSH.replace("CALL", f"push({str(theirs)!r}, 'lab/m', tag='theirs')")
        hub.faults.before_commit = lambda _: other.run(call)
        done = push(f"{str(folder)!r}, 'lab/m'")
    assert "somebody else's commit came in between; looking again (try 2 of 3)" in done.stdout
    assert "1 files put, 1 removed" in done.stdout
    newest = repo.commit("main")
    assert set(tree(repo)) == {"README.md", "plots/notes.txt", "model.safetensors", "mine.json"}
    assert newest.parent == repo.tags["theirs"]
    assert "theirs.json" in tree(repo, "theirs")  # nothing is lost


def test_a_push_that_never_gets_its_turn_gives_up(hub, push, folder):
    push(f"{str(folder)!r}, 'lab/m'")
    (folder / "mine.json").write_text("{}")

    def again_and_again(repo):
        hub.faults.before_commit = again_and_again
        content = str(len(repo.commits)).encode()
        hub.store.apply(repo, "main", {"summary": "busy"}, [("file", {"path": "busy.txt", "content": content})])

    hub.faults.before_commit = again_and_again
    assert "3 times another commit came in between" in push(f"{str(folder)!r}, 'lab/m'").error


def test_metadata_that_the_hub_refuses_is_named_before_anything_is_uploaded(hub, push, folder):
    (folder / "README.md").write_text("---\nlicense: [1]\n---\n")
    assert "Invalid metadata in README.md" in push(f"{str(folder)!r}, 'lab/m'").error
    assert not uploads(hub)


def put_link(folder: Path):
    (folder / "link.txt").symlink_to("/etc/hostname")
    return "link.txt is a link"


def put_pickle(folder: Path):
    (folder / "notes.dat").write_bytes(pickle.dumps({"a": 1}))
    return "notes.dat is a pickle by its first bytes"


def put_archive(folder: Path):
    with zipfile.ZipFile(folder / "state.safe", "w") as archive:  # what torch.save makes
        archive.writestr("state/data.pkl", pickle.dumps({"a": 1}))
    return "state.safe is an archive with a pickle in it (state/data.pkl)"


def put_named(folder: Path):
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    return "pytorch_model.bin is a pickle by its name"


def put_half(folder: Path):
    (folder / ".results.123.partial.json").write_text("{")
    return "is half-written"


def put_damage(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    return "model.safetensors is no sound safetensors file"


def put_token(folder: Path):
    (folder / "plots" / "notes.txt").write_text(f"login with hf_{'a1' * 17}\n")
    return "plots/notes.txt holds an access token"


def put_own_token(folder: Path):
    (folder / "plots" / "notes.txt").write_text(f"login with {ANA}\n")
    return "plots/notes.txt holds an access token"


@pytest.mark.parametrize(
    "spoil", [put_link, put_pickle, put_archive, put_named, put_half, put_damage, put_token, put_own_token]
)
def test_what_must_not_be_published_is_refused_before_anything_is_sent(hub, push, folder, spoil):
    message = spoil(folder)
    done = push(f"{str(folder)!r}, 'lab/m'")
    assert message in done.error
    assert not hub.requests
    assert ANA not in done.stderr


def test_an_empty_folder_is_nothing_to_push(push, folder):
    shutil.rmtree(folder)
    folder.mkdir()
    assert "holds no files" in push(f"{str(folder)!r}, 'lab/m'").error


def test_a_hub_without_xet_is_named_with_what_to_do(hub, folder, tmp_path):
    environment = hub.environment(tmp_path / "hf", ANA)
    del environment["HF_HUB_DISABLE_XET"]
    with HubClient(environment, tmp_path / "client", ("casita.model_cards.publish",)) as client:
        done = client.run(PUSH.replace("CALL", f"push({str(folder)!r}, 'lab/m')"))
    assert "has no Xet storage. Set HF_HUB_DISABLE_XET=1." in done.error


def test_a_push_needs_the_network(hub, folder, tmp_path):
    environment = hub.environment(tmp_path / "hf", ANA) | {"HF_HUB_OFFLINE": "1"}
    with HubClient(environment, tmp_path / "client", ("casita.model_cards.publish",)) as client:
        done = client.run(PUSH.replace("CALL", f"push({str(folder)!r}, 'lab/m')"))
    assert "HF_HUB_OFFLINE is set" in done.error
    environment = hub.environment(tmp_path / "hf", ANA) | {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody listens there
    with HubClient(environment, tmp_path / "client", ("casita.model_cards.publish",)) as client:
        done = client.run(PUSH.replace("CALL", f"push({str(folder)!r}, 'lab/m')"))
    assert "the connection to http://127.0.0.1:9 broke" in done.error
    assert not hub.requests
