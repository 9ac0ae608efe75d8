"""Templates into Markdown: a page is a view of files, and a hole in it is an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from casita import __version__
from casita.results import METHODS, Scores

TAGS = ["casita", "casas", "smart-home", "ambient-sensors", "human-activity-recognition", "sensor-text-alignment"]


def render_page(template: str, **facts: Any) -> str:
    """Return the text of a template; `ValueError` names a fact that it uses and that is missing."""
    try:
        return _ENVIRONMENT.get_template(template).render(**facts)
    except (UndefinedError, KeyError) as error:
        page = template.partition(".")[0].replace("_", " ")
        raise ValueError(f"{page}: a fact is missing ({error}). Give it; a card has no holes.") from None


def front_matter(content: Mapping[str, Any]) -> str:
    """Return the YAML that the Hub reads, with its fences."""
    return f"---\n{yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=120)}---\n"


def percent(share: float) -> str:
    """Write a share as percent with one decimal."""
    return f"{100 * share:.1f}"


def interval(row: Scores, metric: str) -> str:
    """Write a metric in percent, with its interval or else its deviation, where there is one."""
    value = percent(row[metric])
    if f"{metric}_ci" in row:
        low, high = row[f"{metric}_ci"]
        return f"{value} [{percent(low)}, {percent(high)}]"
    return f"{value} ± {percent(row[f'{metric}_sd'])}" if f"{metric}_sd" in row else value


def method_title(method: str) -> str:
    """Return the name of a method; of one that is only compared in a single table, its key in words."""
    return METHODS[method].title if method in METHODS else method.replace("_", " ").capitalize()


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # Markdown, not HTML
)
_ENVIRONMENT.filters |= {"percent": percent, "title": method_title, "thousands": lambda number: f"{number:,}"}
_ENVIRONMENT.globals |= {"interval": interval, "casita_version": __version__}
