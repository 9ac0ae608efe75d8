"""The code blocks of a Markdown page, so that a test can run what a reader would."""

import re
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT


def snippets(page: str, language: str) -> list[str]:
    """The blocks of `page` (relative to the repository) in ```language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)


def run_page(page: str, folder: Path) -> dict[str, Any]:
    """Run the Python blocks of `page` one after the other in `folder`; the names that they leave behind."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for snippet in snippets(page, "python"):
            exec(compile(snippet, page, "exec"), names)
    return names
