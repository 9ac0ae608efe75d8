"""The README of a model directory, fresh or for release: a view of its files, in which a hole is an error."""

from collections.abc import Mapping
from typing import Any

from casita.model_cards.metadata import METHODS, check_results, leak_counts, model_metadata
from casita.model_cards.pages import front_matter, percent, render_page

FINETUNING = (
    "mode",
    "from_scratch",
    "level",
    "few_shot",
    "batch_size",
    "epochs",
    "learning_rate",
    "weight_decay",
    "seed",
)
LOSSES = {
    "info_nce": "symmetric InfoNCE",
    "sigmoid": "sigmoid loss over all pairs",
    "focal_sigmoid": "focal sigmoid loss over all pairs",
}
SETTINGS = ("preset", "batch_size", "epochs", "learning_rate", "weight_decay", "temperature", "dropout", "seed")


def render_model_card(
    config: Any,
    processor: Any,
    training: Mapping[str, Any],
    results: Mapping | None,
    release: Mapping[str, Any] | None = None,
) -> str:
    """The Markdown of a model card, with the Hub's YAML in front.

    Args:
        config: the model's configuration, as config.json holds it, or an object with `to_dict()`.
        processor: the processor's, as processor_config.json holds it, or an object with `to_dict()`.
        training: `home`, `windows` (by split), `config` (the run's settings), `step`, `validation` (`loss`, or None),
            `processes`, `device`, `precision`, `versions`; of a classifier also `classes`, label -> train windows.
        results: of `casita evaluate`, with `settings.protocol` and rows of metrics in `headline`; None before that.
        release: for a repository, what only it knows: `repo_id`, `dataset` (its id on the Hub, or None), `homes`
            (facts of each), `plans` and `plots` (files in the tree), `report` (whether report.html is one), `watts`
            (assumed of each device, or None).

    Raises:
        ValueError: something that the card tells is missing; the message names it. With `release` also results that
            are missing, or whose leak audit is not zero.
    """
    config, processor = _content(config), _content(processor)
    if release is not None:
        check_results(results)
    body = render_page(
        "model_card.md.jinja",
        config=config,
        processor=processor,
        training=training,
        results=results,
        release=release,
        objective=_objective(training["config"]),
        settings=FINETUNING if "classes" in training else SETTINGS,
        classes=training.get("classes"),
        **_facts(config, processor, release),
        **_measured(results),
    )
    return front_matter(model_metadata(processor, results, release)) + body


def _content(source: Any) -> dict[str, Any]:
    return dict(source) if isinstance(source, Mapping) else source.to_dict()


def _objective(settings: Mapping[str, Any]) -> str:
    """The loss in words, of the settings of an alignment run."""
    told = LOSSES[settings.get("loss", "info_nce")]
    masked, contrast = settings.get("masked_weight", 0.0), settings.get("contrast_weight", 1.0)
    if not contrast:
        return "prediction of masked events alone, so the shared space with sentences was not trained"
    return f"{told} (weight {contrast}) and prediction of masked events (weight {masked})" if masked else told


def _facts(
    config: Mapping[str, Any], processor: Mapping[str, Any], release: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What the template tells in words of its own."""
    try:
        vision, text = processor["vision_model"], processor["text_model"]
        homes = processor.get("homes") or []
        prefix = f"{homes[0]}/" if homes else ""
        # A log holds readings, not their levels; and states hold no underscore, though sensors may.
        seen = [key.removeprefix(prefix).rsplit("_", 1) for key in processor["vocab"] if key.startswith(prefix)]
        plain = [event for event in seen if event[1] not in ("LOW", "NORMAL", "HIGH")]
        if config["embedding_source"] == "image":
            tokens = f"frozen pictures of sensor states, embedded by `{vision}`"
        else:
            tokens = "learned embeddings of sensor, state and room"
        return {
            "home": ", ".join(homes) or processor["home"],
            "home_argument": f', home="{homes[0]}"' if homes else "",
            "vocab": processor["vocab"],
            "vision_model": vision,
            "text_model": text,
            "tokens": tokens,
            "alibi": {"index": "steps", "time": "seconds"}[config["alibi_distance"]],
            "example": plain[:3],
            "where": release["repo_id"] if release else "PATH_OR_HUB_ID",
        }
    except KeyError as error:
        raise ValueError(f"model card: a fact is missing ({error}). Give it; a card has no holes.") from None


def _measured(results: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the template tells of results; those of a classifier have one protocol, and no entry of its scores."""
    told: dict[str, Any] = {"protocol": None, "scores": {}, "audit": {}, "best": [], "others": {}, "spread": ""}
    if results is None:
        return told
    name, protocols = results["settings"]["protocol"], results.get("protocols", {})
    ours = [row for row in results["headline"] if row["method"] in METHODS]
    others = [row for row in results["headline"] if row["method"] not in METHODS]
    best = [max(rows, key=lambda row: row["macro_f1"]) for rows in (ours, others) if rows]
    bounds = [row["macro_f1_ci"] for row in best if "macro_f1_ci" in row]
    return {
        "protocol": name,
        "scores": protocols.get(name, {}),
        "audit": dict(leak_counts(results.get("data", {}).get("leak_audit", {}))),
        "best": best,
        "overlap": len(bounds) == 2 and max(low for low, _ in bounds) <= min(high for _, high in bounds),
        "others": {other: _other(found) for other, found in protocols.items() if other != name},
        "own_methods": [row["method"] for row in ours],
        "spread": _spread(results),
    }


def _other(found: Mapping[str, Any]) -> dict[str, Any]:
    """Rows by method of a protocol that is not the headline's, and in words what it asks."""
    about = found.get("about", {})
    words = [about["told"]] if "told" in about else []
    if about.get("seen_share"):
        words.append(f"The encoder had seen {percent(about['seen_share'])} % of the windows in training, unlabelled.")
    return {"rows": found.get("classification", {}).get("labelled", {}), "about": " ".join(words)}


def _spread(results: Mapping[str, Any]) -> str:
    """What stands beside the headline's numbers, in words."""
    told, kinds = results["settings"].get("intervals"), {key for row in results["headline"] for key in row}
    parts = []
    if "macro_f1_ci" in kinds:
        how = (
            f"{100 * told['level']:.0f} % confidence intervals over {told['over']}" if told else "confidence intervals"
        )
        parts.append(f"In brackets: {how}.")
    if any("macro_f1_sd" in row and "macro_f1_ci" not in row for row in results["headline"]):
        parts.append("After ±: standard deviation over seeds.")
    return " ".join(parts)
