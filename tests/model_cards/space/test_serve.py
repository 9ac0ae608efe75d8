"""The Space's tree as the Hub would start it, asked through its API and looked at in a real browser."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from huggingface_hub import SpaceCardData
from paths import ROOT
from playwright.sync_api import sync_playwright
from snippets import snippets
from space_home import make_space_home
from space_server import running

from casita.cli import main
from casita.datasets_scripts.schema import HomeFolder
from casita.model_cards.space.home_view import HomeView, LoadedModel, seconds_of
from casita.model_cards.space.playback import states_at
from casita.model_cards.space_tree import CODE_SUFFIXES, write_space_tree
from tests.packages import FOLDERS

LAYOUT = {
    "home": "flat",
    "size": [400, 300],
    "sensors": {
        "A1": {"x": 50, "y": 50, "room": "kitchen", "type": "motion"},
        "A2": {"x": 350, "y": 250, "room": "bedroom", "type": "door"},
    },
}
LOG = "".join(
    f"2031-03-0{day} {hour:02d}:00:{second:02d} {sensor} {state}\n"
    for day in (1, 2)
    for hour in (8, 19)
    for second, (sensor, state) in enumerate([("A1", "ON"), ("A1", "OFF"), ("A2", "OPEN"), ("A2", "CLOSE")])
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_space_home(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def tree(made, tmp_path_factory):
    home, run = made
    out = tmp_path_factory.mktemp("hub") / "space"
    write_space_tree(out, repo_id="lab/space", model_id=str(run / "model"), home=home.root)
    return out


@pytest.fixture(scope="module")
def view(made):
    home, run = made
    return HomeView.from_folder(home, LoadedModel.load(run / "model"))


@pytest.fixture(scope="module")
def url(tree):
    with running(["app.py"], tree, GRADIO_TEMP_DIR=str(tree.parent / "uploads")) as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


@pytest.fixture
def files(tmp_path):
    """The paths of a log and a layout, written as given."""

    def write(log=LOG, layout=LAYOUT):
        (tmp_path / "mine.txt").write_bytes((log or "").encode("latin-1"))
        (tmp_path / "mine.json").write_text(layout if isinstance(layout, str) else json.dumps(layout))
        logs = [] if log is None else [handle_file(tmp_path / "mine.txt")]
        return logs, None if layout is None else handle_file(tmp_path / "mine.json")

    return write


def upload(client, logs, layout, choice="my file"):
    return client.predict(logs, choice, layout, api_name="/upload")


def printed(code, tree):
    """The words that Python code prints when it runs in the tree."""
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_tree_runs_its_own_copy_of_the_code(tree):
    code = "import casita.files, casita.model_cards.space as space; print(casita.files.__file__, space.__file__)"
    assert all(Path(path).is_relative_to(tree) for path in printed(code, tree))


def test_the_tree_holds_each_file_of_every_package_once(tree):
    names, root = set(), ROOT.resolve()
    for folder in FOLDERS:
        for path in (root / folder).rglob("*"):
            inside = path.relative_to(root)
            if is_code(path) and path.resolve() == path:  # casita/ has links, too
                names.add(inside.as_posix() if folder == "casita" else f"casita/{inside.as_posix()}")
    copied = {path.relative_to(tree).as_posix() for path in (tree / "casita").rglob("*") if is_code(path)}
    assert copied == names
    assert {f"casita/{name}" for name in ("cli.py", "train/inference/embedding.py", "train/data/dataset.py")} <= copied


def test_the_tree_can_be_written_again_from_its_own_copy_where_packages_lie_inside_as_in_a_wheel(tree):
    code = "from casita.model_cards.space_tree import code_files; print(*(name for name, _ in code_files()))"
    names = printed(code, tree)
    assert len(names) == len(set(names))
    assert set(names) == {str(path.relative_to(tree)) for path in (tree / "casita").rglob("*") if is_code(path)}


def is_code(path):
    return path.is_file() and path.suffix in CODE_SUFFIXES


def test_the_trees_card_is_valid_and_its_requirements_are_the_packages(tree):
    _, yaml, _ = (tree / "README.md").read_text().split("---\n", 2)
    card = SpaceCardData(**__import__("yaml").safe_load(yaml))
    assert (card.sdk, card.app_file) == ("gradio", "app.py")
    assert len(card.short_description) <= 60
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (tree / "requirements.txt").read_text().splitlines()[1:]
    assert set(lines) <= {*project["dependencies"], *project["optional-dependencies"]["minilm"]}


def test_the_tree_holds_nothing_of_the_machine_that_built_the_home(tree, made):
    text = (tree / "home" / "home.json").read_text()
    assert str(made[0].root.parent) not in text
    assert set(json.loads(text)) == {"schema_version", "home", "layout"}


def test_a_frame_shows_the_states_of_its_moment(client, view):
    day = client.predict(api_name="/days")[1]
    plan = client.predict(day, "07:30", api_name="/frame")
    assert plan["states"] == states_at(view, day, seconds_of("07:30"))
    assert plan["svg"].startswith("<svg")


def test_search_answers_with_the_places_own_moments(client, view):
    day = list(view.days)[1]
    rows = client.predict("Somebody is cooking.", day, 4, api_name="/search")
    _, moments = view.search("Somebody is cooking.", [day], top=4)
    assert [row["start_s"] for row in rows] == [moment.start_s for moment in moments]
    assert [row["score"] for row in rows] == pytest.approx([moment.score for moment in moments], abs=1e-5)
    everywhere = client.predict("Somebody is cooking.", "all days", 4, api_name="/search")
    assert everywhere[0]["score"] >= rows[0]["score"]


def test_zero_shot_scores_own_activities_that_share_one(client, view):
    day = list(view.days)[1]
    answer = client.predict(["cook: somebody cooks | dinner is made", "somebody sleeps"], day, api_name="/zero_shot")
    assert answer["activities"] == ["cook", "somebody sleeps"]
    assert [sum(row) for row in answer["scores"]] == pytest.approx([1.0] * len(answer["scores"]), abs=1e-5)
    assert len(answer["scores"]) == len(view.day(day).windows.vectors)


def test_an_uploaded_home_is_shown_with_its_days(client, files):
    assert upload(client, *files()) == "**flat**: 16 events on 2 days."


def test_the_pages_own_snippet_runs(url, files, tmp_path, monkeypatch):
    files()
    monkeypatch.chdir(tmp_path)
    (snippet,) = snippets("docs/space.md", "python")
    names = {}
    exec(snippet.replace("http://127.0.0.1:7860", url), names)
    assert len(names["moments"]) == 5
    assert names["shares"]["activities"] == ["cook", "sleep"]


def test_an_upload_is_gone_once_it_was_read_and_stays_to_be_mended_when_it_was_not(client, files, tree):
    log = LOG.replace("2031", "2032")  # of no other test

    def is_kept():
        there = (path for path in (tree.parent / "uploads").rglob("*") if path.is_file())
        return any(path.read_bytes() == log.encode() for path in there)

    with pytest.raises(AppError):
        upload(client, *files(log, "{"))
    assert is_kept()
    upload(client, *files(log))
    assert not is_kept()


def test_an_uploaded_csv_pair_is_read_with_a_shipped_layout(client, tmp_path):
    layout = json.loads((ROOT / "datasets_scripts" / "layouts" / "kasteren_a.json").read_text())
    sensor = next(iter(layout["sensors"]))
    (tmp_path / "devices.csv").write_text(f"time,device,value\n2031-03-01 08:00:00,{sensor},True\n")
    summary = upload(client, [handle_file(tmp_path / "devices.csv")], None, "kasteren_a")
    assert summary == "**kasteren_a**: 1 events on 1 days."


@pytest.mark.parametrize(
    ("log", "layout", "words"),
    [
        ("not a log at all\n", LAYOUT, "mine.txt"),
        ("", LAYOUT, "mine.txt"),
        (LOG, "{", "expected JSON"),
        (LOG, None, "The layout is missing"),
        (None, LAYOUT, "The log is missing"),
        (LOG, "[" * 100_000, "nested too deeply"),
        (LOG, LAYOUT | {"size": [0, 0]}, "size should be"),
        (LOG, LAYOUT | {"floor_plan": "/etc/hostname"}, "Leave that entry out"),
        (LOG, LAYOUT | {"floor_plan": "../../no/such.png"}, "Leave that entry out"),
        (LOG.replace("A1", "Z1").replace("A2", "Z2"), LAYOUT, "another home's"),
        ("\x1f\x8b", LAYOUT, "Unpack it first"),
    ],
)
def test_a_bad_upload_is_one_friendly_line(client, files, log, layout, words):
    with pytest.raises(AppError) as refused:
        upload(client, *files(log, layout))
    message = str(refused.value)
    assert words in message
    assert "\n" not in message
    assert "Traceback" not in message
    assert not [part for part in message.split() if part.startswith("/") and "casita-upload" in part]


def test_a_wrong_question_is_answered_with_a_message_and_the_page_lives_on(client):
    for arguments, name, words in (
        (("2031-01-01", "07:30"), "/frame", "its days lie between"),
        (("2024-01-02", "7.30"), "/frame", "such as 07:30"),
        ((" ", "2024-01-02", 3), "/search", "Type a sentence"),
        ((["one"], "2024-01-02"), "/zero_shot", "two activities or more"),
    ):
        with pytest.raises(AppError, match=words):
            client.predict(*arguments, api_name=name)
    assert len(client.predict(api_name="/days")) == 3


@pytest.fixture(scope="module")
def browser():
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


def test_a_browser_plays_finds_and_jumps_without_reaching_outside(browser, url, view):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    outside, complaints = [], []
    page.on(
        "request", lambda request: outside.append(request.url) if not request.url.startswith((url, "data:")) else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    page.wait_for_selector(".ranking li", timeout=60_000)
    page.locator(".scrub").evaluate("bar => { bar.value = 27000; bar.dispatchEvent(new Event('input')); }")
    seen = page.locator("[data-sensor]").evaluate_all(
        "dots => dots.map(dot => [dot.dataset.sensor, dot.dataset.state])"
    )
    shown = page.evaluate("document.documentElement.dataset.day")
    assert dict(seen) == states_at(view, shown, 27_000)
    page.locator(".play").click()
    page.wait_for_function("Number(document.querySelector('.scrub').value) > 27300")
    page.get_by_label("all days").check()
    page.wait_for_selector(".timeline.many")
    best = page.locator(".ranking button").first
    day, second = best.get_attribute("data-day"), best.get_attribute("data-second")
    best.click()
    page.wait_for_function(
        "([day, second]) => document.documentElement.dataset.day === day "
        "&& document.querySelector('.scrub').value === second",
        arg=[day, second],
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390  # nothing sticks out on a phone
    assert not outside
    assert not complaints


def test_only_an_open_home_is_shown_to_everybody(made, tmp_path):
    home = HomeFolder(shutil.copytree(made[0].root, tmp_path / "home"))
    out, arguments = tmp_path / "space", {"repo_id": "lab/space", "model_id": "lab/model", "home": home.root}
    for stated in ({"redistribution": "restricted", "terms": "ask the lab"}, {"redistribution": None}):
        home.describe(layout=home.layout | stated)
        with pytest.raises(PermissionError, match="a Space shows to everybody"):
            write_space_tree(out, **arguments)
        assert not out.exists()
    assert (write_space_tree(out, **arguments, permission=True) / "app.py").is_file()


def test_the_command_serves_a_run(made, tmp_path):
    home, run = made
    command = ["-m", "casita.cli", "space", str(run), "--home", str(home.root)]
    with running(command, tmp_path, PYTHONPATH=str(ROOT)) as (url, _):
        assert len(Client(url, verbose=False).predict(api_name="/days")) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--home", "home"], "nowhere"),
        (["run"], "--home DIR"),
        (["--home", "home"], "--home needs the RUN"),
        (["run", "--home", "nowhere"], "neither a home folder"),
        (["run", "--home", "."], "name one"),
    ],
)
def test_a_mistake_of_the_command_is_one_line(made, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(made[0].root.parent)
    assert words in refused(capsys, arguments)


def test_without_gradio_the_command_says_how_to_get_it(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("casita.model_cards.space.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "pip install 'casita[space]'" in refused(capsys, [])


def refused(capsys, arguments):
    """The one line with which `casita space` ends."""
    assert main(["space", *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    return line
