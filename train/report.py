"""What an evaluation looks like: the Markdown report, and its plots as PNG. It tells numbers and computes none."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # not pyplot: no screen, and no figures kept behind the scenes
from sklearn.manifold import TSNE

from casita.train.metrics import confusion
from casita.train.probes import UNLABELLED

METHODS = {
    "linear_probe": "**Linear probe**: logistic regression on this model's frozen embedding of a window.",
    "zero_shot": "**Zero-shot**: no label was used to answer; a window gets the activity whose written prompts lie "
    "nearest. One temperature, fitted on validation windows, sets how sure the answers are (ECE), and changes none.",
    "random_encoder": "Linear probe on the same architecture and table before any training: what both give for free.",
    "bag_of_sensors": "Logistic regression on how often each sensor state occurs in the window: no order, no model.",
    "tfidf_captions": "Logistic regression on tf-idf of the window's caption: what the wording alone gives away.",
    "nearest_prompt_tfidf": "Zero-shot by words alone: whose prompts share most with the caption, by tf-idf.",
    "majority": "Always the most frequent activity of the train split.",
    "chance": "A guess among the train split's activities.",
}
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced acc.",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "ece": "ECE",
}
RETRIEVAL = {"recall_at_1": "R@1", "recall_at_5": "R@5", "recall_at_10": "R@10", "mrr": "MRR"}
DIRECTIONS = {"sensor_to_text": "window → caption", "text_to_sensor": "caption → window"}
ROWS = {
    "casita": "this model",
    "learned": "learned tokens",
    "random_encoder": "random encoder",
    "caption_only": "captions alone",
    "chance": "chance",
}
COLOURS = {"casita": "#1f6f8b", "random_encoder": "#e0a458", "chance": "#b8b8b8"}

MAP_WINDOWS = 2000  # t-SNE's time grows faster than the number of points; more would not be told apart anyway
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
}
# Colours of tab20 without its two greys, strong ones first, with one marker after the other; grey is the unlabelled's.
_STRONG_FIRST = [i for i in (*range(0, 20, 2), *range(1, 20, 2)) if i not in (14, 15)]
MAP_LOOKS = [(matplotlib.colormaps["tab20"](i), marker) for marker in "o^sD" for i in _STRONG_FIRST]
GREY = "#d9d9d9"


# ------------------------------------------------------------------------------------------------------------ plots
def plot_confusion(y_true: Sequence[str], y_pred: Sequence[str], title: str) -> Figure:
    """Share of each true activity's windows (row) that was called what (column), the most frequent activity on top."""
    support = Counter(y_true)
    rows = [label for label, _ in support.most_common()]
    columns = rows + sorted(set(y_pred) - set(rows))
    share = confusion(y_true, y_pred, columns)[: len(rows)] / np.array([[support[label]] for label in rows])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.8 + 0.46 * len(columns), 1.8 + 0.42 * len(rows)))
        axes = figure.subplots()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for i, j in np.argwhere(share >= 0.005):
            colour = "white" if share[i, j] > 0.55 else "#1a2a3a"
            axes.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(columns)), [readable(label) for label in columns], rotation=45, ha="right")
        axes.set_yticks(range(len(rows)), [f"{readable(label)} ({support[label]})" for label in rows])
        axes.set(xlabel="called", ylabel="true activity (test windows)")
        axes.set_title(f"{title}\n% of each row", loc="left")
        axes.spines[:].set_visible(False)
    return figure


def plot_map(embeddings: np.ndarray, activities: Sequence[str], title: str, most: int = MAP_WINDOWS) -> Figure:
    """Windows `(N, C)` as points: 50 principal components, then t-SNE; at most `most` evenly spaced windows."""
    kept = np.linspace(0, len(embeddings) - 1, min(len(embeddings), most)).round().astype(int)
    points, labels = _flat(embeddings[kept]), np.array([activities[i] for i in kept])
    order = [label for label, _ in Counter(labels.tolist()).most_common() if label != UNLABELLED]
    size = float(np.clip(6000 / len(kept), 12, 60))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 7))
        axes = figure.subplots()
        for i, label in enumerate([UNLABELLED, *order]):
            x, y = points[labels == label].T
            if not len(x):  # no unlabelled window
                continue
            colour, marker = MAP_LOOKS[i % len(MAP_LOOKS)] if i else (GREY, "o")
            axes.scatter(
                x, y, s=size, color=colour, marker=marker, linewidths=0, label=f"{readable(label)} ({len(x)})"
            )
        columns = 1 + len(order) // 28
        axes.legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, markerscale=(60 / size) ** 0.5, ncols=columns
        )
        axes.set_title(f"{title}: {len(kept)} windows of the test split, t-SNE", loc="left")
        axes.set_axis_off()
    return figure


def plot_loss(lines: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Training and validation loss over steps, from the lines of `metrics.jsonl`; the best validation is marked."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.2))
        axes = figure.subplots()
        for split, colour, marker in (
            ("train", COLOURS["random_encoder"], ""),
            ("validation", COLOURS["casita"], "o"),
        ):
            mine = [(line["step"], line["loss"]) for line in lines if line["split"] == split]
            if mine:
                axes.plot(*zip(*mine, strict=True), color=colour, label=split, marker=marker, markersize=3)
        if mine:
            step, loss = min(mine, key=lambda point: point[1])
            axes.annotate(
                f"best {loss:.3f}, step {step}", (step, loss), (0, 12), textcoords="offset points", ha="center"
            )
            axes.plot(step, loss, marker="o", markersize=9, markerfacecolor="none", markeredgecolor=COLOURS["casita"])
        axes.set(xlabel="optimizer step", ylabel="contrastive loss")
        axes.set_title(title, loc="left")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False)
    return figure


def plot_retrieval(retrieval: Mapping[str, Mapping[str, Mapping[str, float]]], title: str) -> Figure:
    """Bars of R@1/5/10 and MRR both ways: the model, the random encoder and chance."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.2))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (direction, told) in zip(panels, DIRECTIONS.items(), strict=True):
            for i, (row, scores) in enumerate(retrieval.items()):
                heights = [100 * scores[direction][name] for name in RETRIEVAL]
                spread = [100 * scores[direction].get(f"{name}_sd", 0) for name in RETRIEVAL]
                at = np.arange(len(RETRIEVAL)) + (i - 1) * 0.27
                bars = axes.bar(
                    at, heights, 0.25, color=COLOURS[row], label=ROWS[row], yerr=spread if any(spread) else None
                )
                axes.bar_label(bars, [f"{height:.1f}" for height in heights], fontsize=7, padding=2)
            size = retrieval["casita"][direction]
            axes.set_title(f"{told}: {size['queries']} queries, {size['candidates']} candidates", fontsize=10)
            axes.set_xticks(range(len(RETRIEVAL)), list(RETRIEVAL.values()))
        panels[0].set_ylim(bottom=0)
        panels[0].set_ylabel("%")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="upper right", ncols=3, frameon=False)
        figure.suptitle(title, x=0.09, y=0.98, ha="left")
        figure.subplots_adjust(top=0.82)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a plot as PNG, cut to its content."""
    figure.savefig(path, dpi=130, bbox_inches="tight")


def readable(label: str) -> str:
    """A label as words: `R1_Bed_to_Toilet` -> `R1 bed to toilet`."""
    first, *others = label.replace("_", " ").split(" ")
    return " ".join([first, *(word.lower() if not word.isupper() else word for word in others)])


def _flat(embeddings: np.ndarray) -> np.ndarray:
    """`(N, C)` to `(N, 2)`; a handful of windows, too few for neighbours, by principal components alone."""
    left, strength, _ = np.linalg.svd(embeddings - embeddings.mean(axis=0), full_matrices=False)
    components = np.pad((left * strength)[:, :50], ((0, 0), (0, 2)))
    if len(components) < 10:
        return components[:, :2]
    # Not init="pca": it divides by a spread of 0 where an encoder maps everything to one point.
    start = 1e-4 * components[:, :2] / max(components[:, 0].std(), 1e-12)
    perplexity = min(30, (len(components) - 1) / 3)
    return TSNE(perplexity=perplexity, init=start.astype(np.float32), random_state=0).fit_transform(components)


# ------------------------------------------------------------------------------------------------------- report
def report_text(results: Mapping[str, Any]) -> str:
    """The Markdown report of `results.json`'s content; its pictures lie in `plots/` beside it."""
    protocol = results["settings"]["protocol"]
    scores = results["protocols"][protocol]
    sections = [
        f"# {results['run']} on {results['home']}",
        _opening(results),
        "## Which activity is it?",
        _verdict(scores["classification"]["labelled"]),
        _classification_table(scores["classification"]["labelled"]),
        "\n".join(f"- `{name}`: {told}" for name, told in METHODS.items()),
        _seed_note(results),
        "![confusion matrix of the linear probe](plots/confusion_linear_probe.png)",
        "### Activity by activity (F1, %)",
        _class_table(scores["per_class"]),
        "![confusion matrix of zero-shot](plots/confusion_zero_shot.png)",
        "### With the unlabelled windows as a class of their own",
        _classification_table(scores["classification"]["with_unlabelled"]),
        'No prompt says "unlabelled", so zero-shot misses all of those windows.',
        "## Does a window find its caption, and a caption its window?",
        _retrieval_table(scores["retrieval"]),
        "Equal captions count as one candidate; a caption has found its window when any window with that caption is "
        "found. `chance` is exact: the mean over all rankings.",
        "![retrieval beside chance](plots/retrieval.png)",
        "## The windows as the model sees them",
        "![map of the test windows by activity](plots/window_map.png)",
        *(["## Training", "![loss curves](plots/loss.png)"] if "plots/loss.png" in results["plots"] else []),
        "## What it was measured on",
        _data_table(results["data"]),
        _sampling_line(results["data"]["sampling"]),
        _leak_line(results["data"]["leak_audit"]),
        "## How to get these numbers again",
        f"```\n{results['settings']['command']}\n```",
        "Settings: " + json.dumps(results["settings"], ensure_ascii=False),
    ]
    return "\n\n".join(sections) + "\n"


def headline_text(results: Mapping[str, Any]) -> str:
    """The headline as aligned plain text, for a terminal."""
    lines = [["%", *METRICS.values()]]
    lines += [[row["method"], *(_percent(row, metric) for metric in METRICS)] for row in results["headline"]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _opening(results: Mapping[str, Any]) -> str:
    model, test = results["model"], results["data"]["splits"]["test"]
    source = (
        f"pictures embedded by {model['vision_model']}"
        if model["embedding_source"] == "image"
        else "learned embeddings"
    )
    return (
        f"Preset {model['preset']} ({model['parameters'] / 1e6:.1f} M parameters), events as {source}, aligned with "
        f"{model['caption_style']} captions embedded by {model['text_model']}, seed {model['seed']}. "
        f"Tested on {test['windows']} windows ({test['labelled']} labelled) of {test['days']} days that the model was "
        f"not trained on, protocol {results['settings']['protocol']}."
    )


def _verdict(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The two comparisons that matter, as a sentence."""
    told = []
    for other, against in (("bag_of_sensors", "a bag of sensors"), ("random_encoder", "the untrained encoder")):
        gap = 100 * (rows["linear_probe"]["macro_f1"] - rows[other]["macro_f1"])
        told.append(f"{abs(gap):.1f} points of macro F1 {'above' if gap >= 0 else 'below'} {against}")
    return f"The linear probe is {' and '.join(told)}."


def _classification_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    body = [[f"`{name}`", *(_percent(row, metric) for metric in METRICS)] for name, row in rows.items()]
    return _table(["%", *METRICS.values()], body)


def _class_table(per_class: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    methods = list(per_class)
    labels = sorted(per_class[methods[0]].items(), key=lambda item: -item[1]["support"])
    body = [
        [readable(label), str(row["support"]), *(f"{100 * per_class[method][label]['f1']:.1f}" for method in methods)]
        for label, row in labels
    ]
    return _table(["activity", "test windows", *(f"`{method}`" for method in methods)], body)


def _retrieval_table(retrieval: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    body = [
        [told, ROWS[row], *(_percent(scores[direction], name) for name in RETRIEVAL)]
        for direction, told in DIRECTIONS.items()
        for row, scores in retrieval.items()
    ]
    return _table(["%", "", *RETRIEVAL.values()], body)


def _data_table(data: Mapping[str, Any]) -> str:
    body = [
        [name, *(str(split[key]) for key in ("windows", "labelled", "sessions", "days")), str(len(split["labels"]))]
        for name, split in data["splits"].items()
    ]
    return _table(["split", "windows", "labelled", "sessions", "days", "activities"], body)


def _sampling_line(sampling: Mapping[str, Any]) -> str:
    durations_s = [d for d in (sampling.get("duration_s"), *(sampling.get("durations_s") or ())) if d]
    size = f"{' or '.join(f'{d:g}' for d in durations_s)} seconds" if durations_s else f"{sampling['length']} events"
    told = f"Windows of {size}, overlapping by {100 * sampling['overlap']:.0f} %."
    if sampling["presegment"]:
        told += " **They were cut where the true labels change, in the test split too: easier than a stream is.**"
    return told


def _leak_line(audit: Mapping[str, int]) -> str:
    return "Events shared between splits: " + ", ".join(f"{pair} {count}" for pair, count in audit.items()) + "."


def _seed_note(results: Mapping[str, Any]) -> str:
    return (
        f"± is the standard deviation over the {results['settings']['seeds']} random initialisations of the untrained "
        f"encoder; the trained one is a single run (seed {results['model']['seed']}), the others have nothing random. "
        f"Macro F1 and balanced accuracy are means over the activities of the test split; one of its labelled windows "
        f"is {100 / results['data']['splits']['test']['labelled']:.2g} points of accuracy. Each probe was fitted on "
        f"at most {results['settings']['max_windows']} train windows, evenly spaced, and chose C on validation."
    )


def _percent(row: Mapping[str, Any], name: str) -> str:
    spread = f" ± {100 * row[f'{name}_sd']:.1f}" if f"{name}_sd" in row else ""
    return f"{100 * row[name]:.1f}{spread}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *(["---:"] * (len(head) - 1))], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
