"""The code blocks of a Markdown page, so that a test can run what a reader would."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def snippets(page: str, language: str) -> list[str]:
    """The blocks of `page` (relative to the repository) in ```language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)
