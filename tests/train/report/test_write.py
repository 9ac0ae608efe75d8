"""Plots show the numbers they are given, and the report writes them; no evaluation is run here."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from casita.train.data.labelled_windows import UNLABELLED
from casita.train.report.markdown import report_text
from casita.train.report.plots import BARS, plot_confusion, plot_loss, plot_retrieval, save
from casita.train.report.window_map import flat_windows, group_by_name, plot_map
from casita.train.report.wording import DIRECTIONS, METRICS, readable, sampling_line, verdict
from casita.train.report.write import headline_text

METHODS = ("linear_probe", "zero_shot", "random_encoder", "bag_of_sensors", "tfidf_captions", "majority")


def row(value, spread=None):
    scores = {name: value + 0.01 * i for i, name in enumerate(METRICS)}
    return scores | ({f"{name}_sd": spread for name in METRICS} if spread else {})


@pytest.fixture
def results():
    """As `evaluate_run` returns them, with numbers of our own choice."""
    rows = {method: row(0.2 + 0.1 * i) for i, method in enumerate(METHODS)}
    rows["random_encoder"] = row(0.4, spread=0.0123)
    both_ways = dict.fromkeys(DIRECTIONS, dict.fromkeys(BARS, 0.25) | {"queries": 40, "candidates": 30})
    split = {"windows": 90, "labelled": 70, "sessions": 1, "days": 4, "labels": {"Sleep": 50, "Bed_to_Toilet": 20}}
    splits = dict.fromkeys(("train", "validation", "test"), split)
    audit = {"train/test": 0, "train/validation": 0}
    classes = {label: {"f1": 0.5, "support": count} for label, count in split["labels"].items()}
    return {
        "casita_version": "0.1.0",
        "run": "demo",
        "home": "small",
        "model": {
            "preset": "tiny", "embedding_source": "image", "vision_model": "pixels", "text_model": "minilm",
            "caption_style": "narrative", "pooling": "cls_mean", "seed": 42, "parameters": 1_234_567,
        },
        "settings": {
            "protocol": "chronological", "protocols": ["chronological"], "runs": ["demo"], "learned": [], "seeds": 3,
            "max_windows": 100, "c_grid": [1.0], "few_shot": [], "command": "casita evaluate demo",
            "intervals": {"level": 0.95, "resamples": 100, "over": "whole days or sessions"},
        },
        "data": {
            "sampling": {"presegment": False, "length": 20, "overlap": 0.5},
            "splits": splits,
            "labels": ["Bed_to_Toilet", "Sleep"],
            "leak_audit": audit,
        },
        "timing_s": {"encode": 1.0},
        "headline": [{"method": method, **scores} for method, scores in rows.items()],
        "protocols": {
            "chronological": {
                "about": {
                    "description": "Later.", "leaky": False, "seen_share": 0.0, "level": "fine", "split_by": "day",
                    "leak_audit": audit, "splits": splits, "intervals": {"unit": "day", "units": 4},
                },
                "retrieval": dict.fromkeys(("casita", "random_encoder", "chance"), both_ways),
                "classification": {"labelled": rows, "with_unlabelled": rows},
                "per_class": dict.fromkeys(("linear_probe", "zero_shot", "bag_of_sensors"), classes),
                "left_out": {},
            }
        },
        "plots": ["plots/confusion_linear_probe.png", "plots/loss.png"],
    }  # fmt: skip


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_confusion_plot_shows_shares_of_each_row_the_most_frequent_on_top():
    y_true = ["Cook"] * 3 + ["Watch_TV"] * 8
    y_pred = ["Cook", "Cook", "Sleep"] + ["Watch_TV"] * 6 + ["Cook"] * 2
    axes = plot_confusion(y_true, y_pred, "run").axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["Watch TV (8)", "Cook (3)"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["Watch TV", "Cook", "Sleep"]  # Sleep never occurs
    shares = np.zeros((2, 3))
    for cell in axes.patches:
        column, row = np.add(cell.get_xy(), 0.5).astype(int)
        shares[row, column] = cell.get_alpha()
    np.testing.assert_allclose(shares, [[6 / 8, 2 / 8, 0], [0, 2 / 3, 1 / 3]])
    assert sorted(texts(axes)) == ["25", "33", "67", "75"]


def test_the_map_keeps_apart_what_is_apart_and_names_every_label():
    rng = np.random.default_rng(0)
    names = ["Sleep", "Cook", UNLABELLED]
    labels = np.array(names)[np.arange(150) % 3]
    centres = {name: 6 * rng.normal(size=20) for name in names}
    embeddings = np.stack([centres[label] for label in labels]) + rng.normal(size=(150, 20))
    kept, flat = flat_windows(embeddings.astype(np.float32))
    assert kept.tolist() == list(range(150))
    axes = plot_map(flat, group_by_name(labels.tolist()), "run").axes[0]
    assert {t.get_text() for t in axes.get_legend().get_texts()} == {"Sleep (50)", "Cook (50)", "unlabelled (50)"}
    points = np.concatenate([c.get_offsets() for c in axes.collections])
    drawn = np.repeat([c.get_label() for c in axes.collections], 50)
    assert KNeighborsClassifier(5).fit(points[::2], drawn[::2]).score(points[1::2], drawn[1::2]) > 0.95


@pytest.mark.parametrize("windows", [1, 2, 12])
def test_a_handful_of_windows_still_makes_a_map(windows, tmp_path):
    _, flat = flat_windows(np.random.default_rng(0).normal(size=(windows, 8)))
    figure = plot_map(flat, group_by_name(["Cook"] * windows), "run")
    save(figure, tmp_path / "map.png")
    assert sum(len(c.get_offsets()) for c in figure.axes[0].collections) == windows
    with Image.open(tmp_path / "map.png") as picture:
        assert len(picture.convert("RGB").getcolors(maxcolors=10**6)) > 10


def test_many_windows_are_thinned_and_the_title_says_so():
    embeddings, labels = np.random.default_rng(0).normal(size=(500, 8)), ["Cook"] * 250 + ["Sleep"] * 250
    kept, flat = flat_windows(embeddings, most=60)
    axes = plot_map(flat, group_by_name([labels[i] for i in kept]), "run").axes[0]
    assert sum(len(c.get_offsets()) for c in axes.collections) == 60
    assert "60 windows" in axes.get_title(loc="left")
    assert {t.get_text() for t in axes.get_legend().get_texts()} == {"Cook (30)", "Sleep (30)"}


def test_an_encoder_that_maps_everything_to_one_point_has_a_map():
    _, flat = flat_windows(np.ones((30, 8), dtype=np.float32))
    assert np.isfinite(flat).all()


def test_more_activities_than_colours_still_look_different():
    names = [f"activity {i}" for i in range(40)]
    axes = plot_map(np.random.default_rng(0).normal(size=(80, 2)), group_by_name(names * 2), "run").axes[0]
    looks = {(*c.get_facecolor()[0], c.get_paths()[0].vertices.tobytes()) for c in axes.collections}
    assert len(looks) == 40


def test_the_loss_plot_marks_the_best_validation():
    lines = [{"step": s, "split": "train", "loss": 5 - s / 10} for s in range(1, 31)]
    lines += [{"step": 10, "split": "validation", "loss": 4.5}, {"step": 20, "split": "validation", "loss": 3.25}]
    lines += [{"step": 30, "split": "validation", "loss": 3.5}]
    axes = plot_loss(lines, "run").axes[0]
    assert texts(axes) == ["best 3.250, step 20"]
    curves = {line.get_label(): line.get_xydata() for line in axes.lines}
    assert len(curves["train"]) == 30
    np.testing.assert_allclose(curves["validation"], [[10, 4.5], [20, 3.25], [30, 3.5]])


def test_a_run_without_validation_has_a_loss_plot_too():
    axes = plot_loss(
        [{"step": 1, "split": "train", "loss": 2.0}, {"step": 2, "split": "train", "loss": 1.0}], "run"
    ).axes[0]
    assert [line.get_label() for line in axes.lines] == ["train"]
    assert texts(axes) == []


def test_the_retrieval_plot_has_a_bar_for_each_number(results):
    retrieval = json.loads(json.dumps(results["protocols"]["chronological"]["retrieval"]))  # nothing shared
    retrieval["casita"]["text_to_sensor"]["mrr"] = 0.875
    panels = plot_retrieval(retrieval, "run").axes
    heights = [sorted(round(bar.get_height(), 6) for bar in axes.patches) for axes in panels]
    assert heights == [[25.0] * 12, [25.0] * 11 + [87.5]]
    assert "40 queries, 30 candidates" in panels[0].get_title()


def test_the_report_has_every_number_of_the_headline(results):
    text = report_text(results)
    for method, scores in results["protocols"]["chronological"]["classification"]["labelled"].items():
        spread = " ± 1.2" if method == "random_encoder" else ""
        cells = [f"`{method}`", *(f"{100 * scores[name]:.1f}{spread}" for name in METRICS)]
        assert "| " + " | ".join(cells) + " |" in text
    assert "| Bed to toilet | 20 | 50.0 | 50.0 | 50.0 |" in text
    assert "1.2 M parameters" in text
    assert "casita evaluate demo" in text
    assert "Events shared between splits: train/test 0, train/validation 0." in text


def test_every_table_of_the_report_is_rectangular(results):
    tables = re.findall(r"(?:^\|.*\|$\n?)+", report_text(results), flags=re.MULTILINE)
    assert len(tables) == 6
    for table in tables:
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1


@pytest.mark.parametrize("gap, words", [(0.05, "5.0 points above"), (-0.05, "5.0 points below"), (0, "level with")])
def test_the_verdict_says_who_wins_over_the_best_baseline(results, gap, words):
    rows = results["protocols"]["chronological"]["classification"]["labelled"]
    rows["tfidf_captions"]["macro_f1"] = 0.9
    rows["linear_probe"]["macro_f1"] = 0.9 + gap
    assert f"{words} the best baseline (caption words, 90.0\N{NO-BREAK SPACE}%)" in report_text(results)


@pytest.mark.parametrize("high, words", [(0.81, "do not overlap"), (0.88, "but their intervals overlap")])
def test_the_verdict_claims_no_more_than_the_intervals_allow(results, high, words):
    rows = results["protocols"]["chronological"]["classification"]["labelled"]
    rows["linear_probe"] |= {"macro_f1": 0.9, "macro_f1_ci": [0.85, 0.95]}
    assert "overlap" not in verdict(rows)  # the baseline has no interval yet
    rows["majority"] |= {"macro_f1": 0.8, "macro_f1_ci": [0.75, high]}
    assert words in verdict(rows)


def test_what_was_not_measured_is_named_with_its_reason(results):
    text = report_text(results)
    assert "- Groups without labels: this evaluation did not measure it." in text
    results["protocols"]["chronological"]["left_out"] = {"clustering": "only one activity."}
    assert "- Groups without labels: only one activity." in report_text(results)


def test_windows_cut_by_the_true_labels_are_not_kept_quiet(results):
    assert "true labels" not in report_text(results)
    results["data"]["sampling"]["presegment"] = True
    assert "true labels" in report_text(results)


def test_a_run_without_loss_curves_links_none(results):
    assert "plots/loss.png" in report_text(results)
    results["plots"].remove("plots/loss.png")
    assert "plots/loss.png" not in report_text(results)


def test_the_terminal_table_is_aligned(results):
    lines = headline_text(results["headline"]).splitlines()
    assert len(lines) == 1 + len(METHODS)
    assert len({len(line) for line in lines}) == 1


def test_labels_read_as_words():
    assert readable("R1_Bed_to_Toilet") == "R1 bed to toilet"
    assert readable("Watch_TV") == "Watch TV"
    assert readable("unlabelled") == "unlabelled"


@pytest.mark.parametrize(
    ("sampling", "sentence"),
    [
        ({"duration_s": 60.0, "durations_s": None}, "Windows of 60 seconds, overlapping by 50 %."),
        ({"duration_s": None, "durations_s": [30.0, 90.0]}, "Windows of 30 or 90 seconds, overlapping by 50 %."),
    ],
)
def test_windows_by_duration_have_their_seconds_named(sampling, sentence):
    assert sampling_line({"length": 20, "overlap": 0.5, **sampling}) == sentence
