"""What was pushed is used by name, through the clients that people have: transformers, datasets, and casita itself."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hub_client import HubClient

from casita.datasets_scripts.captions.text_embeddings import minilm_directory
from casita.datasets_scripts.schema import HomeFolder
from casita.datasets_scripts.stages import BuildSettings, build_home
from casita.datasets_scripts.synthetic.home import write_synthetic_log
from casita.datasets_scripts.windows.cut import WindowSettings
from casita.model_cards.tree_check import PICKLED, pickled
from casita.processing.sensor_embeddings import SensorEmbeddingTable

ANA = "hf_write_token_of_ana"
SMALL = ["--hidden-size", "32", "--num-hidden-layers", "2", "--intermediate-size", "64", "--projection-dim", "32"]
TRAIN = ["--config", "demo", "--epochs", "1", "--batch-size", "32", "--tracker", "none", *SMALL]
PUSH_ALL = ["push", "all", "--namespace", "lab", "--name", "d", "--tag", "v1"]
PUSH = """
from pathlib import Path
from casita.model_cards.hub_folder import Target, push_folder
done = push_folder(Path({folder!r}), Target(kind={kind!r}, name={name!r}), message="a push", tag={tag!r})
print('"' + done.commit + '"')
"""
CONSUMER = """
import json, sys
sys.modules["casita"] = None  # importing it fails, as where it is absent
import torch
from transformers import AutoModel, AutoProcessor, pipeline
request = json.loads({request!r})
where = {{"trust_remote_code": True, "revision": request["revision"]}}
model = AutoModel.from_pretrained("lab/d", **where).eval()
processor = AutoProcessor.from_pretrained("lab/d", **where)
events = request["events"]
with torch.inference_mode():
    vectors = model(**processor([events], return_tensors="pt")).sensor_embeds
embed = pipeline("sensor-embedding", model="lab/d", device="cpu", **where)
ask = pipeline("zero-shot-activity", model="lab/d", text_model=request["text_model"], device="cpu", **where)
answers = ask([events], ["somebody is cooking", "somebody is asleep"])
print(json.dumps({{
    "module": type(model).__module__, "vectors": vectors.tolist(), "rows": embed([events])[0]["vector"].tolist(),
    "labels": sorted(answers[0]["labels"]), "total": sum(answers[0]["scores"]),
}}))
"""
DATASETS = """
import json
from datasets import load_dataset
whole = load_dataset("lab/d", "windows", revision={revision!r})
stream = load_dataset("lab/d", "windows", split="test", streaming=True, revision={revision!r})
captions = load_dataset("lab/d", "captions", split="train", revision={revision!r})
texts = load_dataset("lab/d", "text_embeddings_narrative_minilm", split="train", revision={revision!r})
pictures = load_dataset("lab/d", "pictures", split="full", revision={revision!r})
rows = load_dataset("lab/d", "image_embeddings_pixels", split="full", revision={revision!r})
events = load_dataset("lab/d", "events", split="full", revision={revision!r})
print(json.dumps({{
    "rows": {{name: len(split) for name, split in whole.items()}}, "first": next(iter(stream))["window_id"],
    "captions": captions["caption"][:3], "width": len(texts[0]["embedding"]), "picture": pictures[0]["image"].size,
    "keys": list(rows["key"]), "events": len(events),
}}))
"""
TABLE = """
import json
from casita.processing.sensor_embeddings import SensorEmbeddingTable
table = SensorEmbeddingTable.from_pretrained({arguments})
print(json.dumps({{"keys": table.keys, "rows": table.embeddings.tolist()}}))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def client(hub, place):
    modules = ("torch", "transformers", "sentence_transformers", "datasets", "huggingface_hub")
    with HubClient(hub.environment(place / "hf", ANA), place / "client", modules) as started:
        yield started


@pytest.fixture(scope="module")
def home(place):
    folder = HomeFolder(place / "home")
    log = write_synthetic_log(folder.root / "synthetic.txt", days=4, progress=False)
    cut = WindowSettings(length=60, overlap=0.0)
    settings = BuildSettings(layout="synthetic", vision_model="pixels", text_model="minilm", windows=cut)
    build_home(folder, [log], settings)
    return folder


@pytest.fixture(scope="module")
def run(client, place, home):
    """A short training on the home's folder."""
    done = client.casita("train", *TRAIN, "--data", home.root, "--out", place / "run")
    assert done.code == 0, done.stderr
    return place / "run"


@pytest.fixture(scope="module")
def pushed(client, run):
    """All four repositories of the evaluated run: what the command said."""
    done = client.casita("evaluate", run, "--seeds", "1")
    assert done.code == 0, done.stderr
    done = client.casita(*PUSH_ALL, "--run", run)
    assert done.code == 0, done.stderr
    return done.stdout


def push(client, folder, kind, name, tag=None):
    done = client.run(PUSH.format(folder=str(folder), kind=kind, name=name, tag=tag))
    assert done.code == 0, done.stderr
    return done.value


@pytest.fixture
def events(home):
    """Some that every table knows: no readings of thermometers, which need levels."""
    table = pq.read_table(home.events).slice(0, 60).to_pylist()
    return [[str(e["timestamp"]), e["sensor"], e["state"]] for e in table if e["value"] is None]


def consume(client, events, revision):
    request = json.dumps({"events": events, "revision": revision, "text_model": str(minilm_directory())})
    done = client.run(CONSUMER.format(request=request))
    assert done.code == 0, done.stderr
    return done.value


def local_vectors(model_directory, events):
    import torch

    from casita.train.inference.model_directory import load_published

    model, processor = load_published(model_directory)
    with torch.inference_mode():
        return model(**processor([events], text_kwargs={"return_tensors": "pt"})).sensor_embeds.numpy()


def test_a_push_of_everything_is_four_repositories_and_a_second_one_is_none(client, hub, pushed, run):
    repos = {name: repo for name, repo in hub.store.repos.items() if repo.name.startswith("lab/d")}
    kinds = [("model", "lab/d"), ("dataset", "lab/d"), ("dataset", "lab/d-embeddings"), ("space", "lab/d")]
    assert set(repos) == set(kinds)
    assert {name for name, repo in repos.items() if repo.private} == {*kinds[1:3]}  # data, unless one says otherwise
    for kind, name in kinds:
        assert f"{hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{name}" in pushed
        assert "v1" in repos[kind, name].tags
    commits = [len(repo.commits) for repo in repos.values()]
    assert client.casita(*PUSH_ALL, "--run", run).stdout.count("nothing changed, no commit; tag v1") == 4
    assert [len(repo.commits) for repo in repos.values()] == commits == [2, 2, 2, 2]


def test_a_model_is_used_by_its_name_and_stays_what_it_was_at_a_revision(client, hub, pushed, run, events, tmp_path):
    answer = consume(client, events, "v1")
    assert answer["module"].startswith("transformers_modules.lab.d.")
    expected = local_vectors(run / "model", events)
    np.testing.assert_allclose(answer["vectors"], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(answer["rows"], expected[0], rtol=0, atol=1e-6)
    assert answer["labels"] == ["somebody is asleep", "somebody is cooking"]
    assert answer["total"] == pytest.approx(1)

    other = tmp_path / "model"  # the next version has other weights
    shutil.copytree(run / "model", other)
    from safetensors.numpy import load_file, save_file

    tensors = load_file(other / "model.safetensors")
    weights = next(name for name in tensors if name.startswith("sensor_projection"))
    tensors[weights] = -tensors[weights]
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    first = hub.store.repos["model", "lab/d"].tags["v1"]
    push(client, other, "model", "lab/d", "v2")
    for revision, directory in ((first, run / "model"), ("main", other)):
        again = consume(client, events, revision)["vectors"]
        np.testing.assert_allclose(again, local_vectors(directory, events), rtol=0, atol=1e-6)
    assert not hub.leaks


def test_a_data_set_is_used_by_its_name_whole_and_streamed(client, pushed, home):
    answer = client.run(DATASETS.format(revision="v1")).value
    windows = pq.read_table(home.windows)
    splits = windows["split"].to_pylist()
    assert answer["rows"] == {split: splits.count(split) for split in ("train", "validation", "test")}
    assert answer["first"] == windows["window_id"].to_pylist()[splits.index("test")]
    captions = {row["window_id"]: row["caption"] for row in pq.read_table(home.captions("narrative")).to_pylist()}
    first = [name for name, split in zip(windows["window_id"].to_pylist(), splits, strict=True) if split == "train"]
    assert answer["captions"] == [captions[name] for name in first[:3]]
    assert (answer["width"], answer["picture"]) == (384, [224, 224])
    assert answer["keys"] == SensorEmbeddingTable.load(home.image_embeddings("pixels")).keys
    assert answer["events"] == pq.read_metadata(home.events).num_rows


def test_a_dry_run_writes_what_a_push_would_send_and_sends_nothing(client, hub, pushed, run, tmp_path):
    hub.requests.clear()
    done = client.casita(*PUSH_ALL, "--run", run, "--dry-run", tmp_path / "trees", HF_TOKEN=None)
    assert done.code == 0, done.stderr
    assert not hub.requests
    for what, kind, name in (
        ("model", "model", "d"),
        ("embeddings", "dataset", "d-embeddings"),
        ("space", "space", "d"),
    ):
        sent = {
            k: hub.store.content(b.etag).read_bytes()
            for k, b in hub.store.repos[kind, f"lab/{name}"].commit("v1").files.items()
        }
        del sent[".gitattributes"]
        assert contents(tmp_path / "trees" / what) == sent
    page = tmp_path / "page"
    fetch = f"snapshot_download('lab/d', repo_type='space', local_dir={str(page)!r})"
    assert client.run(f"from huggingface_hub import snapshot_download\n{fetch}").code == 0
    page_files = {path: content for path, content in contents(page).items() if not path.startswith((".cache", ".git"))}
    assert page_files == contents(tmp_path / "trees" / "space")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_restricted_home_stays_here_and_nothing_else_of_that_push_leaves(client, hub, pushed, home, run, tmp_path):
    kept = tmp_path / "home"
    shutil.copytree(home.root, kept)
    description = json.loads((kept / "home.json").read_text())
    description["layout"] |= {"redistribution": "restricted", "terms": "Ask the lab."}
    (kept / "home.json").write_text(json.dumps(description))
    hub.requests.clear()
    done = client.casita("push", "all", "--run", run, "--home", kept, "--namespace", "lab", "--name", "kept")
    assert "--i-have-permission" in done.error
    assert not hub.requests
    where = ("--home", kept, "--namespace", "lab", "--name", "kept")
    assert client.casita("push", "embeddings", *where).code == 0
    assert client.casita("push", "dataset", "--without-recordings", *where).code == 0
    files = hub.store.repos["dataset", "lab/kept"].commit("main").files
    assert not [path for path in files if path.startswith(("events/", "windows/", "captions/", "text_embeddings/"))]
    assert client.casita("push", "dataset", "--i-have-permission", *where).code == 0
    assert "windows/synthetic" in " ".join(hub.store.repos["dataset", "lab/kept"].commit("main").files)


def test_no_stage_and_no_training_writes_a_pickle(pushed, home, run):
    files = [path for folder in (home.root, run) for path in folder.rglob("*") if path.is_file()]
    assert {"optimizer.safetensors", "progress.json", "events.parquet"} <= {path.name for path in files}
    assert {path.name: reason for path in files if (reason := pickled(path))} == {}


def test_nothing_that_was_pushed_is_a_pickle_or_holds_a_token(hub, pushed, client, place):
    for repo in hub.store.repos.values():
        for commit in repo.commits.values():
            for path, blob in commit.files.items():
                content = hub.store.content(blob.etag)
                assert not content.read_bytes().count(ANA.encode()), path
                assert pickled(content) is None, path
                assert not path.endswith(PICKLED), path
    written = [path for path in place.rglob("*") if path.is_file() and "token" not in path.name]
    assert not [path for path in written if ANA.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "arguments",
    [
        '"lab/d", home="synthetic", vision_model="pixels"',
        '"lab/d", revision="v1"',
        '"lab/d-embeddings", home="synthetic"',
        '"lab/m", home="synthetic", vision_model="pixels"',  # a model has its own table
    ],
)
def test_a_table_is_found_by_home_and_vision_model(client, pushed, home, run, arguments):
    if "lab/m" in arguments:
        push(client, run / "model", "model", "lab/m")
    answer = client.run(TABLE.format(arguments=arguments)).value
    table = SensorEmbeddingTable.load(home.image_embeddings("pixels"))
    assert answer["keys"] == table.keys
    np.testing.assert_array_equal(np.array(answer["rows"], np.float32), table.embeddings)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ('"lab/d", home="milan"', "home='milan', vision_model=None: no such table; there are"),
        ('"lab/d", vision_model="clip"', "(home, vision model) (synthetic, pixels)"),
        ('"lab/nothing"', "no Hub repository with a sensor_embeddings.safetensors"),
        ('"lab/d", revision="v9"', "Revision Not Found"),
    ],
)
def test_a_table_that_is_not_there_is_refused_with_what_is(client, pushed, arguments, message):
    done = client.run(TABLE.format(arguments=arguments))
    assert message in done.stderr.splitlines()[-1]


def test_training_on_a_data_set_by_name_gives_the_bytes_of_training_on_its_folder(client, hub, pushed, run, place):
    done = client.casita("train", *TRAIN, "--data", "lab/d@v1", "--out", place / "hub_run")
    assert done.code == 0, done.stderr
    commit = hub.store.repos["dataset", "lab/d"].tags["v1"]
    assert yaml.safe_load((place / "hub_run" / "config.yaml").read_text())["data"] == f"lab/d@{commit}"
    weights = [(each / "model" / "model.safetensors").read_bytes() for each in (run, place / "hub_run")]
    assert weights[0] == weights[1]
    hub.requests.clear()
    tuning = ["--epochs", "1", "--mode", "frozen", "--tracker", "none"]
    done = client.casita("finetune", place / "hub_run", "--out", place / "labels", *tuning)
    assert done.code == 0, done.stderr
    done = client.casita("evaluate", place / "run", "--data", "lab/d@v1", "--seeds", "1", "--out", place / "again")
    assert done.code == 0, done.stderr
    results = [json.loads((place / name / "results.json").read_text()) for name in ("run", "again")]
    assert results[0]["headline"] == results[1]["headline"]
    # a commit is fetched once; only what a tag stands for is asked again
    assert set(hub.requests) <= {"GET /api/datasets/lab/d/revision/v1"}


@pytest.mark.parametrize(
    "data, message",
    [("lab/nothing", "Repository Not Found"), ("lab/d@v9", "Revision Not Found"), ("lab/m", "Repository Not Found")],
)
def test_data_that_is_nowhere_is_one_line(client, pushed, place, data, message):
    done = client.casita("train", *TRAIN, "--data", data, "--out", place / "never")
    assert message in done.error
    assert f"{data}: holds no home.json" in done.error


def test_without_a_token_nothing_private_is_there(client, pushed, home, place):
    # another name: what the cache holds is this machine's, token or not
    named = ("--home", home.root, "--namespace", "lab", "--name", "secret")
    assert client.casita("push", "embeddings", *named).code == 0
    for token in (None, "hf_write_token_of_ben"):
        done = client.casita("train", *TRAIN, "--data", "lab/d", "--out", place / "never", HF_TOKEN=token)
        assert "Repository Not Found" in done.error
        done = client.run(TABLE.format(arguments='"lab/secret-embeddings"'), HF_TOKEN=token)
        assert "Repository Not Found" in done.stderr.splitlines()[-1]


def flipped(content: bytes) -> bytes:
    """The same length, one bit of the last byte another."""
    return content[:-1] + bytes([content[-1] ^ 1])


def test_what_was_tampered_with_is_refused(client, hub, pushed, home, run, place, tmp_path):
    store = hub.store
    data = store.repos["dataset", "lab/d"]
    name = "image_embeddings/synthetic/pixels.safetensors"
    tree = tmp_path / "tree"  # other repositories: what the cache holds is not fetched again
    for path, blob in data.commit("v1").files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store.content(blob.etag), tree / path)
    for number in range(2):
        push(client, tree, "dataset", f"lab/spoilt{number}")
    sha256 = data.file("v1", name).sha256
    true = store.content(sha256).read_bytes()
    hub.faults.tamper = {sha256: flipped(true)}
    done = client.run(TABLE.format(arguments='"lab/spoilt0"'))
    assert "damaged or tampered with" in done.stderr.splitlines()[-1]
    hub.faults.tamper = {sha256: true[:-8]}
    done = client.run(TABLE.format(arguments='"lab/spoilt1"'))
    assert "Consistency check failed" in done.stderr
    shard = next(path for path in data.commit("v1").files if path.startswith("windows/") and "train" in path)
    hub.faults.tamper = {
        data.file("v1", shard).sha256: flipped(store.content(data.file("v1", shard).sha256).read_bytes())
    }
    done = client.casita("train", *TRAIN, "--data", "lab/spoilt1", "--out", place / "never")
    assert "differs from its checksum" in done.error

    model = run / "model" / "model.safetensors"
    push(client, run / "model", "model", "lab/spoilt2")
    header = bytearray(model.read_bytes())
    header[9] ^= 1  # within the header's JSON
    hub.faults.tamper = {store.repos["model", "lab/spoilt2"].file("main", "model.safetensors").sha256: bytes(header)}
    load = 'from transformers import AutoModel\nAutoModel.from_pretrained("lab/spoilt2", trust_remote_code=True)'
    done = client.run(load)
    assert done.code == 1
    assert "header" in done.stderr.splitlines()[-1].lower()
    hub.faults.__init__()


def test_after_a_first_use_everything_works_offline_without_a_request(client, hub, pushed, place, events, run):
    consume(client, events, "v1")
    table = TABLE.format(arguments='"lab/d", home="synthetic", revision="v1"')
    fetch = 'from casita.datasets_scripts.hub.named_data import data_folder\ndata_folder("lab/d@v1")'
    for first_use in (DATASETS.format(revision="v1"), table, fetch):
        done = client.run(first_use)
        assert done.code == 0, done.stderr
    hub.requests.clear()
    environment = hub.environment(place / "hf") | {"HF_HUB_OFFLINE": "1"}
    modules = ("torch", "transformers", "sentence_transformers", "datasets", "huggingface_hub")
    with HubClient(environment, place / "offline", modules) as offline:
        answer = consume(offline, events, "v1")
        np.testing.assert_allclose(answer["vectors"], local_vectors(run / "model", events), rtol=0, atol=1e-6)
        assert offline.run(table).value["keys"]
        done = offline.casita("train", *TRAIN, "--data", "lab/d@v1", "--out", place / "offline_run")
        assert done.code == 0, done.stderr
        assert offline.run(DATASETS.format(revision="v1")).value["events"]
        assert "holds no home.json" in offline.casita("train", *TRAIN, "--data", "lab/x", "--out", place / "y").error
    assert not hub.requests
