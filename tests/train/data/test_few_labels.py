"""A few labels are drawn once: probes and fine-tuning of one seed learn from the very same windows."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from evaluation_home import LAYOUT, made_events

from casita.datasets_scripts.schema import EVENTS, WINDOWS, HomeFolder, read_table, write_table
from casita.datasets_scripts.windows.cut import WindowSettings, cut_home
from casita.train.configs.finetune_config import FinetuneConfig
from casita.train.data.few_labels import draw_few, label_stretches
from casita.train.evaluation.finetuned import load_chosen
from casita.train.evaluation.inputs import EvaluationInputs
from casita.train.evaluation.protocol_split import FEW_SHOT, EvaluationHome
from casita.train.evaluation.protocols import make_split

CUTS = {
    "chronological": {},
    "added train windows": {"train_overlap": 0.9},
    # Days of one split with days of another between them: their windows are no neighbours.
    "random_days": {"split": "random", "split_by": "day"},
}


@pytest.fixture(scope="module", params=CUTS)
def cut(request, tmp_path_factory) -> SimpleNamespace:
    """A home of made-up events with its windows, and the protocol by which they are divided."""
    folder = HomeFolder(tmp_path_factory.mktemp("few") / "home")
    folder.describe(home="small", layout=LAYOUT)
    write_table(folder.events, made_events(days=20), EVENTS)
    cut_home(folder, WindowSettings(length=12, overlap=0.5, **CUTS[request.param]))
    windows = read_table(folder.windows, WINDOWS)
    home = EvaluationHome(folder, EvaluationInputs(windows, [], np.zeros((0, 0))))
    protocol = "random_days" if request.param == "random_days" else "chronological"
    return SimpleNamespace(folder=folder, home=home, windows=windows, protocol=protocol)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("share", FEW_SHOT)
def test_a_probe_and_a_fine_tuned_model_learn_from_the_same_windows(cut, share, seed):
    settings = FinetuneConfig(model="unused", data=str(cut.folder.root), out="unused", few_shot=share, seed=seed)
    chosen = load_chosen(settings)
    split = make_split(cut.protocol, cut.home, trained_in=True, max_windows=20_000, draws=[seed])
    task = split.few_tasks[share][str(seed)]
    for name, rows in (("train", task.train), ("validation", task.validation), ("test", task.test)):
        learned_from = split.windows["window_id"].take(pa.array(rows)).to_pylist()
        assert learned_from == chosen[name].table["window_id"].to_pylist()
        assert len(learned_from) > 0
    assert len(chosen["train"]) < 0.4 * len(split.tasks["labelled"].train)


def test_the_draw_is_made_before_windows_are_thinned(cut):
    def few_windows(max_windows: int) -> list[str]:
        split = make_split(cut.protocol, cut.home, trained_in=True, max_windows=max_windows)
        return split.windows["window_id"].take(pa.array(split.few_tasks[0.05]["1"].train)).to_pylist()

    assert few_windows(250) == few_windows(20_000)
    assert set(few_windows(50)) <= set(few_windows(20_000))
    thinned = make_split(cut.protocol, cut.home, trained_in=True, max_windows=50)
    assert len(thinned.tasks["labelled"].train) == len(thinned.few_tasks[0.3]["0"].train) == 50
    # What only a draw holds is none of the train windows that other parts read.
    assert set(thinned.train) == set(np.concatenate([task.train for task in thinned.tasks.values()]))


def test_stretches_end_where_the_label_or_the_session_changes():
    table = pa.table({"session": list("aaaabb"), "activity": ["x", "x", None, "x", "x", "x"]})
    np.testing.assert_array_equal(label_stretches(table), [0, 0, 1, 2, 3, 3])
    assert len(label_stretches(table.slice(0, 0))) == 0


def test_few_labels_are_whole_stretches_the_same_for_a_seed_and_a_share_of_each_part():
    labels = np.repeat(["a", "b", "a"] * 10, 12).astype(object)
    stretches = np.repeat(np.arange(30), 12)
    parts = [(labels, stretches), (labels[:120], stretches[:120])]
    (few, chosen_on), (same, _), (other, _) = (draw_few(parts, 0.3, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(few, same)
    assert not np.array_equal(few, other)
    assert few.tolist() == sorted(set(few))
    for (part, _), drawn in zip(parts, (few, chosen_on), strict=True):
        for label in ("a", "b"):
            rows = drawn[part[drawn] == label]
            assert len(rows) == round(0.3 * (part == label).sum())
            assert len(set(stretches[rows])) <= len(rows) / 12 + 1  # stretches, the last one cut
    least, _ = draw_few(parts, 0.0001, 0)
    assert sorted(labels[least]) == ["a", "b"]  # at least one of each
    three, _ = draw_few(parts, 3, 0)
    assert sorted(labels[three]) == ["a"] * 3 + ["b"] * 3
    assert len(draw_few([(labels[:0], stretches[:0])], 0.3, 0)[0]) == 0
