"""The README of a model directory, fresh or for release: a view of its files, in which a hole is an error."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from casita.datasets_scripts.windows.splits import count_leaks
from casita.model_cards.metadata import TASKS, Release, check_results, model_metadata
from casita.model_cards.pages import front_matter, percent, render_page
from casita.results import OWN_METHODS, ProtocolResults, Results

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, ProcessorMixin

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
    config: "Mapping[str, Any] | PreTrainedConfig",
    processor: "Mapping[str, Any] | ProcessorMixin",
    training: Mapping[str, Any],
    results: Results | None,
    release: Release | None = None,
) -> str:
    """Return the Markdown of a model card, with the Hub's YAML in front.

    Args:
        config: the model's configuration, or the content of config.json.
        processor: the processor, or the content of processor_config.json.
        training: `home`, `windows` (by split), `config` (the run's settings), `step`, `validation` (`loss`, or None),
            `processes`, `device`, `precision`, `versions`; of a classifier also `classes`, label -> train windows.
        results: of `casita evaluate`, with `settings.protocol` and rows of metrics in `headline`; None before that.
        release: for a repository, what only it knows.

    Raises:
        ValueError: something that the card needs is missing; the message names it. With `release` also results that
            are missing, or whose leak audit is not zero.
    """
    config = config if isinstance(config, Mapping) else config.to_dict()
    processor = processor if isinstance(processor, Mapping) else processor.to_dict()
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
        **_model_facts(config, processor, release),
        **_evaluation_facts(results),
    )
    return front_matter(model_metadata(results, release)) + body


def _objective(settings: Mapping[str, Any]) -> str:
    """Name the loss in words, from the settings of an alignment run."""
    loss = LOSSES[settings.get("loss", "info_nce")]
    masked_weight = settings.get("masked_weight", 0.0)
    contrast_weight = settings.get("contrast_weight", 1.0)
    if not contrast_weight:
        return "prediction of masked events alone, so the shared space with sentences was not trained"
    if not masked_weight:
        return loss
    return f"{loss} (weight {contrast_weight}) and prediction of masked events (weight {masked_weight})"


def _model_facts(config: Mapping[str, Any], processor: Mapping[str, Any], release: Release | None) -> dict[str, Any]:
    """Return what the template says of the model in words of its own."""
    try:
        homes = processor.get("homes") or []
        prefix = f"{homes[0]}/" if homes else ""
        # States hold no underscore, though sensors may.
        events = [key.removeprefix(prefix).rsplit("_", 1) for key in processor["vocab"] if key.startswith(prefix)]
        if config["embedding_source"] == "image":
            tokens = f"frozen pictures of sensor states, embedded by `{processor['vision_model']}`"
        else:
            tokens = "learned embeddings of sensor, state and room"
        return {
            "home": ", ".join(homes) or processor["home"],
            "home_argument": f', home="{homes[0]}"' if homes else "",
            "vocab": processor["vocab"],
            "vision_model": processor["vision_model"],
            "text_model": processor["text_model"],
            "tokens": tokens,
            "alibi": {"index": "steps", "time": "seconds"}[config["alibi_distance"]],
            # A log holds readings, not their levels.
            "example": [event for event in events if event[1] not in ("LOW", "NORMAL", "HIGH")][:3],
            "where": release["repo_id"] if release else "PATH_OR_HUB_ID",
        }
    except KeyError as error:
        raise ValueError(f"model card: a fact is missing ({error}). Give it; a card has no holes.") from None


def _evaluation_facts(results: Results | None) -> dict[str, Any]:
    """Return what the template says of results; a classifier's have one protocol, and no entry of its scores."""
    if results is None:
        return {"protocol": None, "scores": {}, "audit": {}, "best": [], "others": {}, "spread": ""}
    protocol = results["settings"]["protocol"]
    protocols = results.get("protocols", {})
    own_methods = {*OWN_METHODS, *TASKS}
    own_rows = [row for row in results["headline"] if row["method"] in own_methods]
    baseline_rows = [row for row in results["headline"] if row["method"] not in own_methods]
    best = [max(rows, key=lambda row: row["macro_f1"]) for rows in (own_rows, baseline_rows) if rows]
    bounds = [row["macro_f1_ci"] for row in best if "macro_f1_ci" in row]
    return {
        "protocol": protocol,
        "scores": protocols.get(protocol, {}),
        "audit": count_leaks(results.get("data", {}).get("leak_audit", {})),
        "best": best,
        "overlap": len(bounds) == 2 and max(low for low, _ in bounds) <= min(high for _, high in bounds),
        "others": {name: _other_protocol(scores) for name, scores in protocols.items() if name != protocol},
        "own_methods": [row["method"] for row in own_rows],
        "spread": _spread(results),
    }


def _other_protocol(scores: ProtocolResults) -> dict[str, Any]:
    """Return rows by method of a protocol that is not the headline's, and in words what it asks."""
    about = scores.get("about", {})
    sentences = [about["description"]] if "description" in about else []
    if about.get("seen_share"):
        seen = percent(about["seen_share"])
        sentences.append(f"The encoder had seen {seen} % of the windows in training, unlabelled.")
    return {"rows": scores.get("classification", {}).get("labelled", {}), "about": " ".join(sentences)}


def _spread(results: Results) -> str:
    """Explain in words what stands beside the headline's numbers."""
    intervals = results["settings"].get("intervals")
    sentences = []
    if any("macro_f1_ci" in row for row in results["headline"]):
        kind = "confidence intervals"
        if intervals:
            kind = f"{100 * intervals['level']:.0f} % confidence intervals over {intervals['over']}"
        sentences.append(f"In brackets: {kind}.")
    if any("macro_f1_sd" in row and "macro_f1_ci" not in row for row in results["headline"]):
        sentences.append("After ±: standard deviation over seeds.")
    return " ".join(sentences)
