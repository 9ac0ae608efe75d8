"""The cards of a dataset repository and of one of image embeddings: from home.json and from what lies in the tree."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCardData

from casita.model_cards.homes import ReleasedHome
from casita.model_cards.metadata import refuse_leaks
from casita.model_cards.pages import TAGS, front_matter, render_page
from casita.model_cards.shards import Config

SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}


def render_dataset_card(
    homes: Sequence[ReleasedHome], configs: Sequence[Config], index: Sequence[Mapping[str, Any]], repo_id: str
) -> str:
    """The README.md of a dataset repository, with the YAML by which `load_dataset` finds configs and splits.

    Raises:
        ValueError: a fact is missing, or the leak audit of a home is missing or not zero.
    """
    by_name = {config.name: config for config in configs}
    windows = by_name.get("windows")
    recorded = [recorded_facts(home) for home in homes] if windows else []
    texts = [name for name in by_name if name.startswith("text_embeddings_")]
    rows = {config.name: {split: config.rows[split] for split in config.splits()} for config in configs}
    body = render_page(
        "dataset_card.md.jinja",
        repo_id=repo_id,
        title=title(homes),
        homes=[home.facts for home in homes],
        plans=plans(homes, bool(windows)),
        recorded=recorded,
        configs=configs,
        rows=rows,
        texts=texts,
        index=index,
        text_model=_text_model(homes, texts),
    )
    counted = max(config.rows[split] for config in configs for split in config.splits())
    told = DatasetCardData(
        pretty_name=title(homes),
        language="en",
        license="other",
        license_name="terms-of-the-recordings",
        license_link="LICENSE.md",
        task_categories=["feature-extraction", "zero-shot-classification"],
        size_categories=size_category(windows.rows if windows else {"": counted}),
        tags=TAGS,
        configs=[config.data_files() for config in configs],
        dataset_info=[config.info() for config in configs],
    )
    return front_matter(told.to_dict()) + body


def recorded_facts(home: ReleasedHome) -> dict[str, Any]:
    """What the card tells of a recording; `ValueError` when its leak audit is missing or not zero."""
    read, windows = home.summary("read"), home.summary("windows")
    refuse_leaks(windows.get("leak_audit"), f"{home.root}/home.json", f"casita windows {home.root}")
    labels: dict[str, dict[str, int]] = {}
    for split, told in windows["splits"].items():
        for label, count in told["labels"].items():
            labels.setdefault(label, {})[split] = count
    settings = {name: value for name, value in home.stages["windows"]["settings"].items() if name != "layout"}
    return {"name": home.name, "read": read, "windows": windows, "labels": labels, "settings": settings}


def render_embeddings_card(homes: Sequence[ReleasedHome], index: Sequence[Mapping[str, Any]], repo_id: str) -> str:
    """The README.md of a repository of image embeddings."""
    body = render_page(
        "embeddings_card.md.jinja",
        repo_id=repo_id,
        title=title(homes),
        homes=[home.facts for home in homes],
        plans=plans(homes, False),
        index=index,
    )
    # The tables are no rows for `load_dataset`: the viewer would only stumble over them.
    told = DatasetCardData(
        pretty_name=f"{title(homes)}: image embeddings",
        license="apache-2.0",
        task_categories=["feature-extraction"],
        size_categories=size_category({"": sum(entry["rows"] for entry in index)}),
        tags=TAGS,
        viewer=False,
    )
    return front_matter(told.to_dict()) + body


def title(homes: Sequence[ReleasedHome]) -> str:
    """`Casita, milan`, or of many homes their number."""
    names = ", ".join(home.name for home in homes)
    return f"Casita, {names if len(homes) <= 4 else f'{len(homes)} homes'}"


def plans(homes: Sequence[ReleasedHome], recordings: bool) -> list[tuple[str, str]]:
    """The first homes' floor plans that lie in the tree: name and file."""
    shown = [home for home in homes if recordings or "floor_plan" not in home.layout]
    return [(home.name, f"homes/{home.slug}/contact_sheet.png") for home in shown[:4]]


def size_category(rows: Mapping[str, int]) -> str:
    """The Hub's word for so many rows."""
    return next((name for limit, name in SIZES.items() if sum(rows.values()) < limit), "n>10M")


def _text_model(homes: Sequence[ReleasedHome], texts: Sequence[str]) -> dict[str, Any]:
    """Of each config of text embeddings: the model's id, and how its vectors were made."""
    told = {}
    for name in texts:
        style, _, model = name.removeprefix("text_embeddings_").partition("_")
        home = next(home for home in homes if f"embed-text:{style}:{model}" in home.stages)
        told[name] = home.summary(f"embed-text:{style}:{model}")
    return told
