"""The cards of a dataset repository and of one of image embeddings: from home.json and from what lies in the tree."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from huggingface_hub import DatasetCardData

from casita.datasets_scripts.schema import HomeFolder
from casita.files import slug
from casita.model_cards.homes import home_facts, require_summary
from casita.model_cards.metadata import check_audit
from casita.model_cards.pages import TAGS, front_matter, render_page
from casita.model_cards.shards import DatasetConfig

SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}


class TableEntry(TypedDict):
    """An entry of `image_embeddings/index.json`: the table of a home by a vision model (`name` in file names)."""

    file: str
    home: str
    name: str
    vision_model: str
    revision: str
    output: str
    normalization: str
    image_size: int
    rows: int
    width: int
    pictures_hash: str
    sha256: str


def render_dataset_card(
    homes: Sequence[HomeFolder], configs: Sequence[DatasetConfig], index: Sequence[TableEntry], repo_id: str
) -> str:
    """Return the README.md of a dataset repository, with the YAML by which `load_dataset` finds configs and splits.

    Raises:
        ValueError: a fact is missing, or the leak audit of a home is missing or not zero.
    """
    by_name = {config.name: config for config in configs}
    windows = by_name.get("windows")
    texts = [name for name in by_name if name.startswith("text_embeddings_")]
    rows = {config.name: {split: config.rows[split] for split in config.splits()} for config in configs}
    body = render_page(
        "dataset_card.md.jinja",
        repo_id=repo_id,
        title=title(homes),
        homes=[home_facts(home) for home in homes],
        plans=drawn_plans(homes, bool(windows)),
        recorded=[recording_facts(home) for home in homes] if windows else [],
        configs=configs,
        rows=rows,
        texts=texts,
        index=index,
        text_models={name: _text_model(homes, name) for name in texts},
    )
    most_rows = max(count for counts in rows.values() for count in counts.values())
    metadata = DatasetCardData(
        pretty_name=title(homes),
        language="en",
        license="other",
        license_name="terms-of-the-recordings",
        license_link="LICENSE.md",
        task_categories=["feature-extraction", "zero-shot-classification"],
        size_categories=size_category(sum(windows.rows.values()) if windows else most_rows),
        tags=TAGS,
        configs=[config.data_files() for config in configs],
        dataset_info=[config.info() for config in configs],
    )
    return front_matter(metadata.to_dict()) + body


def recording_facts(home: HomeFolder) -> dict[str, Any]:
    """Return what the card says of a recording; `ValueError` when its leak audit is missing or not zero."""
    read = require_summary(home, "read")
    windows = require_summary(home, "windows")
    check_audit(windows.get("leak_audit"), f"{home.root}/home.json", f"casita windows {home.root}")
    labels: dict[str, dict[str, int]] = {}
    for split, counts in windows["splits"].items():
        for label, count in counts["labels"].items():
            labels.setdefault(label, {})[split] = count
    settings = {name: value for name, value in home.settings("windows").items() if name != "layout"}
    return {"name": home.name, "read": read, "windows": windows, "labels": labels, "settings": settings}


def render_embeddings_card(homes: Sequence[HomeFolder], index: Sequence[TableEntry], repo_id: str) -> str:
    """Return the README.md of a repository of image embeddings."""
    body = render_page(
        "embeddings_card.md.jinja",
        repo_id=repo_id,
        title=title(homes),
        homes=[home_facts(home) for home in homes],
        plans=drawn_plans(homes, False),
        index=index,
    )
    # The tables are no rows for `load_dataset`: the viewer would only stumble over them.
    metadata = DatasetCardData(
        pretty_name=f"{title(homes)}: image embeddings",
        license="apache-2.0",
        task_categories=["feature-extraction"],
        size_categories=size_category(sum(entry["rows"] for entry in index)),
        tags=TAGS,
        viewer=False,
    )
    return front_matter(metadata.to_dict()) + body


def title(homes: Sequence[HomeFolder]) -> str:
    """Return `Casita, milan`, or of many homes their number."""
    names = ", ".join(home.name for home in homes)
    return f"Casita, {names if len(homes) <= 4 else f'{len(homes)} homes'}"


def drawn_plans(homes: Sequence[HomeFolder], recordings: bool) -> list[tuple[str, str]]:
    """Return the first homes' floor plans that lie in the tree: name and file."""
    shown = [home for home in homes if recordings or "floor_plan" not in home.layout]
    return [(home.name, f"homes/{slug(home.name)}/contact_sheet.png") for home in shown[:4]]


def size_category(rows: int) -> str:
    """Return the Hub's word for so many rows."""
    return next((name for limit, name in SIZES.items() if rows < limit), "n>10M")


def _text_model(homes: Sequence[HomeFolder], config: str) -> Mapping[str, Any]:
    """Return the id of the model behind a config of text embeddings, and how its vectors were made."""
    style, _, model = config.removeprefix("text_embeddings_").partition("_")
    summaries = (home.summary(f"embed-text:{style}:{model}") for home in homes)
    return next(summary for summary in summaries if summary)
