"""The written queries share no wording with captions or prompts, and their rankings are what they say."""

import re

import numpy as np
import pytest

from casita.datasets_scripts.captions import templates as caption_styles
from casita.datasets_scripts.captions import wording as caption_words
from casita.datasets_scripts.captions.caption import caption_windows
from casita.datasets_scripts.layouts.label_prompts import FALLBACK
from casita.datasets_scripts.layouts.layout import coarse_activities, load_layout
from casita.train.evaluation.bootstrap import BootstrapClusters
from casita.train.evaluation.written_queries import (
    PARAPHRASES,
    queries_for,
    query_intervals,
    rank_at_random,
    rank_windows,
)
from casita.train.metrics.ranking import NAMES

LAYOUTS = ("aruba", "cairo", "kasteren_a", "kasteren_b", "kyoto", "milan", "ordonez_a", "synthetic", "tulum")
# Words that say nothing by themselves: runs of these alone give nothing away.
SMALL = """a an the of to in on at for with from by and or is was are were be been being it its as off up down out into
after before over under through between not no some any one one's own other while when where what which who did does do
has had have he she his her they their then there two last full""".split()  # noqa: SIM905


def runs_of(text, length):
    words = re.findall(r"[a-z']+", text.lower())
    return {
        run for run in zip(*(words[i:] for i in range(length)), strict=False) if sum(word not in SMALL for word in run)
    }


@pytest.fixture(scope="module")
def known_texts():
    """All label prompts, and captions of all rule-made styles with every wording of their templates."""
    texts = [*FALLBACK]
    for activities in [coarse_activities(), *(load_layout(name).get("activities", {}) for name in LAYOUTS)]:
        for described in activities.values():
            texts += [*described.get("prompts", []), described.get("short", ""), described.get("long", "")]
    for module in (caption_styles, caption_words):
        for value in vars(module).values():
            texts += [text for text in value if isinstance(text, str)] if isinstance(value, tuple | list) else []
    return texts + made_captions()


def made_captions():
    import pyarrow as pa

    from casita.datasets_scripts.schema import WINDOWS

    layout, rng = load_layout("synthetic"), np.random.default_rng(0)
    states = {"door": ["OPEN", "CLOSE"], "item": ["ABSENT", "PRESENT"]}
    keys = [f"{s}_{x}" for s, sensor in layout["sensors"].items() for x in states.get(sensor["type"], ["ON", "OFF"])]
    rows = []
    for i in range(300):
        chosen = rng.choice(keys, size=12).tolist()
        start = np.datetime64("2024-01-01T00:00:00", "us") + np.timedelta64(int(i * 77), "m")
        seconds = np.cumsum(rng.exponential(60, size=12)).astype(np.float32)
        row = {"window_id": f"w{i}", "home": "h", "session": "s", "split": "train", "start": start}
        end = start + np.timedelta64(int(seconds[-1]), "s")
        row |= {"end": end, "sensor_keys": chosen, "seconds": seconds.tolist(), "activity_share": 1.0}
        rows.append(row | {"activity": None})
    windows = pa.Table.from_pylist([{n: r[n] for n in WINDOWS.names} for r in rows], schema=WINDOWS)
    return [
        text
        for style in caption_styles.STYLES
        for captions in caption_windows(windows, layout, style)
        for text in captions
    ]


def test_every_coarse_activity_has_at_least_five_and_no_two_are_alike():
    assert set(PARAPHRASES) == set(coarse_activities())
    assert all(len(texts) >= 5 for texts in PARAPHRASES.values())
    everything = [text for texts in PARAPHRASES.values() for text in texts]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize("length", [3, 4])
def test_no_query_shares_a_run_of_words_with_a_caption_or_a_prompt(known_texts, length):
    known = set().union(*(runs_of(text, length) for text in known_texts))
    shared = {
        (label, text): hits
        for label, texts in PARAPHRASES.items()
        for text in texts
        if (hits := runs_of(text, length) & known)
    }
    assert not shared


def test_no_query_names_its_label(known_texts):
    for label, texts in PARAPHRASES.items():
        words = [
            word for word in re.split(r"[_\W]+", label.lower()) if word not in SMALL and word not in ("home", "bed")
        ]
        for text in texts:
            assert not any(re.search(rf"\b{word}\b", text.lower()) for word in words), (label, text)


def test_windows_without_a_label_are_no_candidates_and_a_perfect_encoder_scores_one():
    labels = np.array(["Cook", None, "Sleep", "Cook", None], dtype=object)
    wanted = ["Cook", "Sleep"]
    perfect = np.array([[0.9, 1.0, 0.1, 0.8, 1.0], [0.1, 1.0, 0.9, 0.2, 1.0]])
    found = rank_windows(perfect, wanted, labels)
    assert found.mean() == pytest.approx({**dict.fromkeys(NAMES, 1.0), "queries": 2, "candidates": 3})
    same = rank_windows(np.zeros((2, 5)), wanted, labels)
    np.testing.assert_allclose(same.scores, rank_at_random(wanted, labels).scores)


def test_only_labels_that_are_there_are_asked_for():
    assert {label for _, label in queries_for(["Cook", "Cook", "Nonsense"])} == {"Cook"}


def test_the_interval_holds_the_number_and_is_left_out_where_a_label_is_of_one_day_in_many():
    rng = np.random.default_rng(0)
    labels, clusters = (
        rng.choice(["Cook", "Sleep"], size=300).astype(object),
        BootstrapClusters(np.arange(300) // 10, "day"),
    )
    wanted = ["Cook"] * 5 + ["Sleep"] * 5
    scores = np.stack([(labels == label) + rng.normal(0, 0.8, size=300) for label in wanted])
    bounds = query_intervals([scores], wanted, labels, clusters)
    mean = rank_windows(scores, wanted, labels).mean()
    assert all(bounds[f"{name}_ci"][0] <= mean[name] <= bounds[f"{name}_ci"][1] for name in ("map", "ndcg_at_10"))
    rare = labels.copy()
    once = ["Eat", "Dress", "Work", "Pack", "Relax"]
    rare[[5, 15, 25, 35, 45]] = once  # a draw has all five of these days in one case of ten
    assert query_intervals([np.zeros((5, 300))], once, rare, clusters) == {}
