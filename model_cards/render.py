"""The README of a saved model directory: a view of its files, in which a hole is an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

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
SETTINGS = ("preset", "batch_size", "epochs", "learning_rate", "weight_decay", "temperature", "dropout", "seed")


def render_model_card(config: Any, processor: Any, training: Mapping[str, Any], results: Mapping | None) -> str:
    """The Markdown of a model card, with the Hub's YAML in front.

    Args:
        config: the model's configuration, as config.json holds it, or an object with `to_dict()`.
        processor: the processor's, as processor_config.json holds it, or an object with `to_dict()`.
        training: `home`, `windows` (by split), `config` (the run's settings), `step`, `validation` (`loss`, or None),
            `processes`, `device`, `precision`, `versions`; of a classifier also `classes`, label -> train windows.
        results: of `casita evaluate`, with `settings.protocol` and rows of metrics in `headline`; None before that.

    Raises:
        ValueError: something that the card tells is missing; the message names it.
    """
    config, processor = _content(config), _content(processor)
    try:
        return (
            _environment()
            .get_template("model_card.md.jinja")
            .render(
                config=config,
                processor=processor,
                training=training,
                results=results,
                settings=FINETUNING if "classes" in training else SETTINGS,
                classes=training.get("classes"),
                percent=lambda share: f"{100 * share:.1f}",
                **_facts(config, processor),
            )
        )
    except (UndefinedError, KeyError) as error:
        raise ValueError(f"model card: a fact is missing ({error}). Give it; a card has no holes.") from None


def _content(source: Any) -> dict[str, Any]:
    return dict(source) if isinstance(source, Mapping) else source.to_dict()


def _facts(config: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    """What the template tells in words of its own."""
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
    }


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
