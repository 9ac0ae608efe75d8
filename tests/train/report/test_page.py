"""The page: nothing to fetch, every number that of results.json, windows at their sensors' places, no hostile text."""

import copy
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import jinja2
import numpy as np
import pytest
from report_case import Case
from typed_dicts import mismatches

from casita.datasets_scripts.layouts.layout import empty_layout
from casita.datasets_scripts.pictures.palettes import RANK
from casita.results import METHODS, Results
from casita.train.evaluation.report_inputs import Query
from casita.train.report.floor_plan import MARGIN, SIDE
from casita.train.report.markdown import report_text
from casita.train.report.page import TITLES, report_page
from casita.train.report.window_map import group_windows
from casita.train.report.write import SAVED, draw_figures, write_results

VOID = {"meta", "link", "input", "br"}
HOSTILE = "<script>alert('x')</script>&\"quoted\""


class Page(HTMLParser):
    """The page's elements as (tag, attributes, text directly within), and whether every tag that opens closes."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict, list[str]]] = []
        self.open: list[tuple[str, dict, list[str]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"{tag}: an attribute twice"
        element = (tag, dict(attrs), [])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        assert self.open[-1][0] == tag, f"</{tag}> closes <{self.open[-1][0]}>"
        self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.open[-1][2].append(data)

    def all(self, tag, **wanted):
        """Elements of a tag with these attributes; `css` is one of the classes."""
        css = wanted.pop("css", None)
        return [
            (attributes, "".join(text))
            for name, attributes, text in self.elements
            if name == tag
            and all(attributes.get(key.replace("_", "-")) == value for key, value in wanted.items())
            and (css is None or css in (attributes.get("class") or "").split())
        ]


@pytest.fixture(scope="module")
def case():
    return Case()


@pytest.fixture(scope="module")
def written(case, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    write_results(out, case.results, case.inputs, progress=False)
    return out


@pytest.fixture(scope="module")
def html(written):
    return (written / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture(scope="module")
def points(case):
    rng = np.random.default_rng(0)
    return rng.normal(size=(case.inputs.windows.num_rows, 2))


def rendered(results, inputs, points):
    groups = group_windows(inputs.windows.to_pylist(), inputs.rooms)
    return report_page(results, inputs, draw_figures(results, inputs, points, groups), groups)


def at(results, pointer):
    """The value that a JSON pointer leads to, as RFC 6901 has it."""
    for token in pointer.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~")
        results = results[int(token) if isinstance(results, list) else token]
    return results


def test_the_made_up_results_are_what_the_types_promise(case):
    assert list(mismatches(case.results, Results)) == []
    broken = {**case.results, "timing_s": None, "more": 1}
    del broken["home"]
    assert sorted(mismatches(broken, Results)) == [
        "/home: missing",
        "/more: unknown",
        "/timing_s: NoneType, not Mapping",
    ]


# ---------------------------------------------------------------------------------------------------------- the file
def test_the_page_stands_alone(html, page, written):
    assert len(html.encode()) < 5e6
    for _, attributes, _ in page.elements:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert not re.search(r"url\(|@import|https?://", html)
    assert "default-src 'none'" in page.all("meta", http_equiv="Content-Security-Policy")[0][0]["content"]
    assert {path.name for path in written.iterdir()} == {"report.html", "report.md", "results.json", "plots"}


def test_every_section_is_there_and_the_contents_lead_to_them(page):
    headings = {attributes["id"]: text for attributes, text in page.all("h2")}
    assert headings == {key: title for key, title in TITLES.items() if key != "left_out"}
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a, _ in page.all("a") + page.all("use")} <= set(ids)


def test_tables_pictures_and_headings_speak_to_a_screen_reader(page):
    assert all(attributes.get("scope") in ("row", "col") for attributes, _ in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    for attributes, _ in page.all("svg"):
        assert attributes["role"] == "img"
        assert attributes["aria-label"]
    for attributes, _ in page.all("div", css="scroll"):  # scrolls, so a keyboard must get there
        assert attributes["tabindex"] == "0"
        assert attributes["aria-label"]
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_text_stands_out_from_its_ground_by_day_and_by_night(html):
    def luminance(colour):
        share = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    themes = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", html, re.S)]
    assert len(themes[0]) == len(themes[1]) > 30
    pairs = [(text, ground) for text in ("ink", "soft", "own") for ground in ("paper", "card", "wash")]
    pairs += [("good", "card"), ("bad", "card"), ("warn", "warn-wash"), ("paper", "own")]
    for theme in themes[:2]:
        for text, ground in pairs:
            low, high = sorted((luminance(theme[text]), luminance(theme[ground])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, f"{text} on {ground}"  # WCAG 2 AA


# ------------------------------------------------------------------------------------------------------- the numbers
def test_every_number_is_that_of_results_json(page, written):
    results = json.loads((written / "results.json").read_text())
    numbers = [(attributes["data-at"], text) for attributes, text in page.all("span", css="num")]
    assert len(numbers) > 300
    for pointer, text in numbers:
        value = at(results, pointer)
        if isinstance(value, int):
            assert text == str(value), pointer
        else:
            assert text == (f"{value:.2f}" if pointer.endswith(("/ari", "/nmi")) else f"{100 * value:.1f}"), pointer


def test_no_row_of_results_json_is_kept_quiet(page, case):
    shown = {attributes["data-at"] for attributes, _ in page.all("span", css="num")}

    def wanted(value, pointer):
        if isinstance(value, dict):
            for key, below in value.items():
                if key not in ("about", "seeds", "left_out", "queries", "candidates") and not key.endswith("_sd"):
                    yield from wanted(below, f"{pointer}/{key}")
        elif isinstance(value, float):
            yield pointer

    for name, scores in case.results["protocols"].items():
        assert set(wanted(scores, f"/protocols/{name}")) - shown == set()


def test_deviations_and_intervals_stand_beside_their_numbers(page, case):
    row = case.results["protocols"]["chronological"]["classification"]["labelled"]["linear_probe"]
    low, high = row["macro_f1_ci"]
    assert f" ± {100 * row['macro_f1_sd']:.1f}" in [text for _, text in page.all("span", css="sd")]
    assert "95 % interval over resampled single windows" in " ".join(text for _, text in page.all("p", css="note"))
    assert f"{100 * low:.1f} \N{EN DASH} {100 * high:.1f}" in [text for _, text in page.all("span", css="ci")]
    styles = [attributes["style"] for attributes, _ in page.all("span", css="track")]
    assert f"--w:{100 * row['macro_f1']:.1f}%;--low:{100 * low:.1f}%;--high:{100 * high:.1f}%" in styles


def test_every_method_has_a_colour_of_its_own_and_rivals_without_a_model_share_grey(html):
    rules = re.findall(r"^((?:\.[\w-]+,? ?)+) \{ --m: ([^}]+); \}$", html, re.MULTILINE)
    colour = {name.strip(): value for names, value in rules for name in names.split(",")}
    assert set(METHODS) <= {name.removeprefix(".m-") for name in colour}
    colour_by_method = {method: colour[f".m-{method}"] for method in METHODS}
    assert colour_by_method["majority"] == colour_by_method["chance"]
    shared = ("majority", "chance", "bag_of_rooms", "casita")  # never beside bag_of_sensors, or beside linear_probe
    colours = [colour_by_method[method] for method in METHODS if method not in shared]
    assert len(set(colours)) == len(colours)


def test_the_leaky_protocol_is_marked_and_only_that(page):
    rows = [attributes.get("class") for attributes, _ in page.all("tr")]
    assert rows.count("leaky") == 1
    assert [text for _, text in page.all("span", css="badge")] == ["leaky, for comparison"]


def test_a_leaky_headline_warns_of_itself(case, points, page):
    assert not page.all("p", css="warning")
    assert "the model was not trained on them" in page.all("p", css="opening")[0][1]
    leaky = case.results["protocols"]["shuffled_segments"]
    document = Page(rendered(case.results | {"protocols": {"shuffled_segments": leaky}}, case.inputs, points))
    assert "leaky protocol (shuffled_segments)" in document.all("p", css="warning")[0][1]
    opening = document.all("p", css="opening")[0][1]
    assert "of 100\N{NO-BREAK SPACE}% of them the encoder had read events" in opening
    assert "leaky protocol (shuffled_segments)" in report_text(
        case.results | {"protocols": {"shuffled_segments": leaky}}
    )


def test_a_section_that_was_not_measured_gives_its_reason(case, points):
    results = copy.deepcopy(case.results)
    scores = results["protocols"]["chronological"]
    for key in ("few_shot", "paraphrases", "clustering", "calibration", "per_class", "retrieval", "caption_styles"):
        del scores[key]
    scores["left_out"] = {"few_shot": "too few labels for 5 % of them."}
    results["protocols"] = {"chronological": scores}
    inputs = replace(case.inputs, table=None, metrics=[], queries=[])
    document = Page(rendered(results, inputs, points))
    assert {a["id"] for a, _ in document.all("h2")} == {"activity", "map", "data", "again", "left_out"}
    reasons = {text for _, text in document.all("dd")}
    assert "too few labels for 5 % of them." in reasons
    assert "this evaluation did not measure it." in reasons
    assert "the run has no metrics.jsonl." in reasons


def test_a_home_without_a_layout_has_a_page_without_a_plan(case, points):
    document = Page(rendered(case.results, replace(case.inputs, layout=empty_layout("synthetic")), points))
    assert not document.all("svg", css="path")
    assert "the home has no layout with sensors." in {text for _, text in document.all("dd")}
    assert len(document.all("li", css="hit")) > 10  # the examples are there in words


def test_a_hole_is_an_error(case, points):
    results = {key: value for key, value in case.results.items() if key != "casita_version"}
    with pytest.raises(jinja2.UndefinedError, match="casita_version"):
        rendered(results, case.inputs, points)


# -------------------------------------------------------------------------------------------------------- the plan
def paths(page):
    """Each drawn window's dots: sensor -> (x, y)."""
    drawn, current = [], None
    for tag, attributes, _ in page.elements:
        if tag == "svg":
            current = {} if attributes.get("class") == "path" else None
            drawn += [] if current is None else [current]
        elif tag == "circle" and current is not None and "data-sensor" in attributes:
            current[attributes["data-sensor"]] = float(attributes["cx"]), float(attributes["cy"])
    return drawn


def test_windows_are_drawn_at_their_sensors_places(page, case):
    width, height = case.layout["size"]
    scale = (SIDE - 2 * MARGIN) / max(width, height)
    known = {frozenset(key.rpartition("_")[0] for key in keys) for keys in case.keys}
    drawn = paths(page)
    assert len(drawn) == 4 * 6 + 4 * 3  # four windows an activity, and a caption
    for dots in drawn:
        assert frozenset(dots) in known
        for sensor, (x, y) in dots.items():
            place = case.layout["sensors"][sensor]
            assert x == pytest.approx(MARGIN + scale * place["x"], abs=0.051)  # written to 0.1
            assert y == pytest.approx(MARGIN + scale * place["y"], abs=0.051)


def test_a_sentence_finds_the_windows_of_the_highest_score_and_marks_them_by_label(case, points):
    windows = case.inputs.windows.to_pylist()
    scores = np.random.default_rng(3).normal(size=len(windows))
    inputs = replace(case.inputs, queries=[Query("The one sentence.", "Cook", scores)])
    results = copy.deepcopy(case.results)
    del results["protocols"]["chronological"]["retrieval"]  # its examples look alike
    document = Page(rendered(results, inputs, points))
    labelled = [i for i in np.argsort(-scores) if windows[i]["activity"] is not None]
    assert [text for _, text in document.all("q")] == ["The one sentence."]
    assert [text for _, text in document.all("p", css="label")] == [
        windows[i]["activity"].replace("_TV", " TV").replace("_at_Desk", " at desk") for i in labelled[:4]
    ]
    marks = ["right" if windows[i]["activity"] == "Cook" else "wrong" for i in labelled[:4]]
    hits = [attributes["class"] for attributes, _ in document.all("li", css="hit")]
    assert hits == [f"hit {mark}" for mark in marks]
    first = windows[labelled[0]]
    times = {f"{first['start']:%H:%M}", f"{first['end']:%H:%M}"}
    assert {text for _, text in document.all("text", css="time")[:2]} == times


def test_windows_that_overlap_are_not_shown_twice(case, points):
    start = case.inputs.windows["start"]
    same = [start[0]] * len(start)
    windows = case.inputs.windows.set_column(
        case.inputs.windows.schema.get_field_index("start"), "start", [[moment.as_py() for moment in same]]
    )
    document = Page(rendered(case.results, replace(case.inputs, windows=windows), points))
    assert {len(ol) for ol in [document.all("li", css="hit")]} == {6 + 3}  # one window an example


def test_a_state_without_a_place_is_left_out_of_the_drawing(case, points):
    layout = copy.deepcopy(case.layout)
    gone = case.keys[-1][0].rpartition("_")[0]
    del layout["sensors"][gone]
    document = Page(rendered(case.results, replace(case.inputs, layout=layout), points))
    assert len(paths(document)) == 36
    assert gone not in set().union(*paths(document))


def test_likeness_is_the_cosine_of_the_active_states(page, case, html):
    data = json.loads(page.all("script", id="cosines")[0][1])
    rows = {}
    for key, row in zip(case.inputs.table.keys, case.inputs.table.embeddings, strict=True):
        sensor, _, state = key.rpartition("_")
        if sensor not in rows or RANK[state] > RANK[rows[sensor][0]]:
            rows[sensor] = state, row / np.linalg.norm(row)
    assert data["sensors"] == sorted(case.layout["sensors"])
    for i, one in enumerate(data["sensors"]):
        expected = [float(rows[one][1] @ rows[other][1]) for other in data["sensors"]]
        np.testing.assert_allclose(np.array(data["cosines"][i]) / 1000, expected, atol=6e-4)  # in thousandths
    chosen = [int(a["data-i"]) for a, _ in page.all("circle", css="chosen")]
    test = [key.rpartition("_")[0] for keys in case.inputs.windows["sensor_keys"].to_pylist() for key in keys]
    assert len(chosen) == 1
    assert test.count(data["sensors"][chosen[0]]) == max(map(test.count, data["sensors"]))


def test_the_map_has_a_mark_for_each_window_in_each_colouring(page, case):
    layers = {}
    for tag, attributes, _ in page.elements:
        if tag == "svg":
            layer = (attributes["class"] or "").partition("chart by ")[2]
        elif tag == "use" and layer:
            layers[layer] = layers.get(layer, 0) + 1
    windows = case.inputs.windows.num_rows
    assert layers == {"by-activity": windows, "by-room": windows, "by-hour": windows}


def test_the_page_has_the_plots_that_lie_beside_it(page, written):
    shown = {attributes["aria-label"] for attributes, _ in page.all("svg", css="chart")}
    run = "case on synthetic"
    assert {run, f"{run}, Linear probe", f"{run}, Zero-shot", f"{run}: 130 windows of the test split, t-SNE"} <= shown
    assert {path.stem for path in (written / "plots").iterdir()} == set(SAVED)


def test_plots_have_the_pages_colours_and_fonts(html):
    plots = re.findall(r'<svg [^>]*class="chart.*?</svg>', html, re.DOTALL)
    assert len(plots) > 8
    for svg in plots:
        assert not re.search(r"#[0-9a-f]{6}|font-family", re.sub(r'(href|id)="#?\w+"', "", svg))


def test_marks_of_a_plot_say_their_number_when_pointed_at(page, case):
    titles = [text for _, text in page.all("title")]
    scores = case.results["protocols"]["chronological"]
    for curve in scores["calibration"].values():
        for values in curve["bins"]:
            sure, right = 100 * values["confidence"], 100 * values["accuracy"]
            assert f"{values['windows']} windows: {sure:.0f} % sure, {right:.0f} % right" in titles
    few = scores["few_shot"]["0.05"]["linear_probe"]["macro_f1"]
    assert f"Linear probe, 5 % of the labels: {100 * few:.1f} %" in titles
    recall = scores["retrieval"]["casita"]["sensor_to_text"]["recall_at_5"]
    assert f"This model, R@5: {100 * recall:.1f} %" in titles
    y_true, y_pred = case.inputs.true_and_predicted("linear_probe")
    cook = [called for true, called in zip(y_true, y_pred, strict=True) if true == "Cook"]
    assert f"Cook called Cook: {cook.count('Cook')} of {len(cook)}" in titles


# ------------------------------------------------------------------------------------------------------ hostile text
def test_labels_and_captions_stay_text(points):
    case = Case(rename=lambda label: f"{label}{HOSTILE}", caption=f"{HOSTILE} {{room}} {{sensor}}")
    results = case.results | {"run": HOSTILE, "home": HOSTILE}
    inputs = replace(case.inputs, queries=[replace(query, text=HOSTILE) for query in case.queries])
    text = rendered(results, inputs, points)
    document = Page(text)
    assert "<script>alert" not in text
    assert len(document.all("script")) == 2  # the cosines, and the page's own
    names = [name for name, _ in document.all("h1")]
    assert names == [{}]
    assert any(HOSTILE in text for _, text in document.all("q"))
    assert any(HOSTILE.lower() in text.lower() for _, text in document.all("th", scope="row"))
    assert any(HOSTILE.lower() in text.lower() for _, text in document.all("title"))  # of marks on the map


# --------------------------------------------------------------------------------------------------------- a browser
def in_browser(html, width, script, tmp_path):
    """What `script` writes into the title of the page, after it has been laid out in `width` pixels."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium here")
    path = tmp_path / "page.html"
    run = f"<script>addEventListener('load', () => {{ document.title = String({script}); }});</script></body>"
    path.write_text(html.replace("</body>", run), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [browser, *flags, f"--window-size={width},900", "--virtual-time-budget=3000", "--dump-dom", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return re.search(r"<title>(.*?)</title>", done.stdout)[1]


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_scrolls_the_page_down_and_never_sideways(html, tmp_path, width):
    assert in_browser(html, width, "document.documentElement.scrollWidth <= innerWidth", tmp_path) == "true"


def test_a_browser_colours_the_map_by_one_thing_at_a_time(html, tmp_path):
    shown = "[...document.querySelectorAll('.map .by, .groups')].filter((e) => getComputedStyle(e).display !== 'none')"
    names = f"{shown}.map((e) => e.getAttribute('class').split(' ').at(-1)).join(' ')"
    script = f"['room', 'hour', 'activity'].map((by) => (document.getElementById('by-' + by).click(), {names}))"
    clicked = in_browser(html, 1280, f"{script}.join()", tmp_path)
    assert clicked == ",".join(f"by-{by} by-{by}" for by in ("room", "hour", "activity"))


def test_a_browser_points_out_one_group_of_the_map(html, tmp_path):
    groups = "[...document.querySelectorAll('.map .by-activity [data-i]')]"
    press = "document.querySelectorAll('.groups.by-activity button')[1].click()"
    bright = f"{groups}.filter((group) => !group.classList.contains('dim')).map((group) => group.dataset.i)"
    assert in_browser(html, 1280, f"({press}, {bright}.join())", tmp_path) == "1"
    assert in_browser(html, 1280, f"{bright}.join()", tmp_path) == ",".join(map(str, range(7)))


def test_a_browser_shows_another_sensors_likeness_when_asked(html, page, tmp_path):
    data = json.loads(page.all("script", id="cosines")[0][1])
    row = data["cosines"][2]
    nearest = max((i for i in range(len(row)) if i != 2), key=lambda i: (row[i], -i))
    choose = "s = document.getElementById('sensor'), s.value = 2, s.dispatchEvent(new Event('change')), "
    expression = "document.getElementById('nearest').firstChild.textContent"
    shown = in_browser(html, 1280, f"(() => {{ let s; return ({choose}{expression}); }})()", tmp_path)
    assert shown.startswith(f"{data['sensors'][nearest]}, ")
    assert shown.endswith(f"{row[nearest] / 1000:.2f}")
