"""Smart-home sensor encoders. The packages lie beside this folder, linked into it; in a wheel they lie inside it."""

from pathlib import Path

__version__ = "0.1.0"

# A checkout without the links (they are files where git cannot make them) still finds the packages beside this folder.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))
