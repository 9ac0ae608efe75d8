"""The frozen table: one vector for each sensor state, with all that one must know to make another row of it.

The table is data, not weights: swap it and the same checkpoint reads another home. On disk it is a safetensors file,
the vectors as tensor `embeddings`, the rest as strings in the header; the older NPZ form is read and written too.
Nothing here unpickles.
"""

import difflib
import json
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

NORMALIZATIONS = ("none", "l2", "center")
FORMAT_VERSION = "1.0"
_HEADER = ("keys", "home", "vision_model", "revision", "output", "image_size", "pictures_hash", "normalization")


@dataclass(eq=False)
class SensorEmbeddingTable:
    """Vectors of a home's sensor states: `embeddings` `(N, D)` float32, row i belongs to `keys[i]`.

    Attributes:
        keys: `"M001_ON"`, each once.
        embeddings: all finite.
        home: name of the home whose layout was drawn.
        vision_model: short name, Hub id or folder of the model that saw the pictures.
        revision: commit of the Hub repository, None when unknown (a local folder).
        output: which output of the model was taken, such as `"projected"` or `"cls"`.
        image_size: side of the pictures in pixels.
        pictures_hash: of the folder of pictures.
        normalization: `"none"`; `"l2"`: unit rows; `"center"`: `mean` subtracted, then unit rows.
        mean: `(D,)` float32, the home's mean vector, with `"center"` only.

    Raises:
        ValueError: when these do not fit together.
    """

    keys: list[str]
    embeddings: np.ndarray
    home: str
    vision_model: str
    revision: str | None
    output: str
    image_size: int
    pictures_hash: str
    normalization: str
    mean: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.keys = [str(key) for key in self.keys]
        shape = self.embeddings.shape
        if self.embeddings.dtype != np.float32 or len(shape) != 2 or 0 in shape:
            raise ValueError(
                f"embeddings should be float32 of shape (N, D), found {self.embeddings.dtype} of {shape}."
            )
        if len(self.keys) != shape[0]:
            raise ValueError(f"{len(self.keys)} keys for {shape[0]} rows of embeddings: expected one key a row.")
        if twins := [key for key, count in Counter(self.keys).items() if count > 1]:
            raise ValueError(
                f"key {twins[0]!r} has more than one row ({len(twins)} such keys): expected each key once."
            )
        broken = ~np.isfinite(self.embeddings).all(axis=1)
        if broken.any():
            first = self.keys[int(broken.argmax())]
            raise ValueError(f"{broken.sum()} row(s) hold NaN or infinity, first {first!r}. Embed the pictures anew.")
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization={self.normalization!r} is unknown; known: {', '.join(NORMALIZATIONS)}.")
        if (self.normalization == "center") != (self.mean is not None):
            told = "missing" if self.mean is None else "there"
            raise ValueError(f"the mean vector is {told} with normalization={self.normalization!r}: 'center' has one.")
        if self.mean is not None and self.mean.shape != shape[1:]:
            raise ValueError(f"the mean has shape {self.mean.shape}, rows have {shape[1:]}: expected the same.")

    @property
    def width(self) -> int:
        """D, the length of a vector."""
        return self.embeddings.shape[1]

    def select(self, keys: Sequence[str]) -> "SensorEmbeddingTable":
        """The same table with the rows of `keys`, in their order; `ValueError` names a key that has no row."""
        row_of = {key: row for row, key in enumerate(self.keys)}
        if missing := [key for key in keys if key not in row_of]:
            near = difflib.get_close_matches(missing[0], self.keys, n=3) or self.keys[:3]
            raise ValueError(
                f"{len(missing)} key(s) have no row in the table of home {self.home!r}: {', '.join(missing[:5])}. "
                f"It has {len(self.keys)} keys, nearest: {', '.join(near)}. Draw and embed the home's pictures again."
            )
        return replace(self, keys=list(keys), embeddings=self.embeddings[[row_of[key] for key in keys]])

    def save(self, path: str | os.PathLike) -> None:
        """Write the table, whole or not at all: `.safetensors`, or `.npz` for the older form."""
        path = Path(path)
        _suffix(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
        try:
            self._write(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _write(self, path: Path) -> None:
        header = {
            "format_version": FORMAT_VERSION,
            "keys": json.dumps(self.keys, ensure_ascii=False),
            "home": self.home,
            "vision_model": self.vision_model,
            "revision": self.revision or "",
            "output": self.output,
            "image_size": str(self.image_size),
            "pictures_hash": self.pictures_hash,
            "normalization": self.normalization,
        }
        tensors = {"embeddings": np.ascontiguousarray(self.embeddings)}
        if self.mean is not None:
            tensors["mean"] = np.ascontiguousarray(self.mean, dtype=np.float32)
        if path.suffix == ".safetensors":
            save_file(tensors, path, metadata=header)
            return
        pairs = [key.rpartition("_")[::2] for key in self.keys]
        older = {
            "image_keys": np.array(self.keys),
            "sensor_ids": np.array([sensor for sensor, _ in pairs]),
            "states": np.array([state for _, state in pairs]),
            "embedding_dim": np.array(self.width),
            "model_name": np.array(self.vision_model),
        }
        told = {name: np.array(text) for name, text in header.items() if name != "keys"}
        arrays: dict[str, Any] = {**tensors, **older, **told}
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "SensorEmbeddingTable":
        """Read a table written by `save`, or an older NPZ file that holds `embeddings` and `image_keys` only.

        Raises:
            FileNotFoundError: no such file.
            ValueError: another format, missing metadata, NaN, a key twice, pickled objects; the file is named.
        """
        path = Path(path)
        suffix = _suffix(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such embedding table. Make one: casita embed-images.")
        try:
            return _read_safetensors(path) if suffix == ".safetensors" else _read_npz(path)
        except (ValueError, KeyError, SafetensorError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{path}: no sound embedding table: {error}") from None


def _read_safetensors(path: Path) -> SensorEmbeddingTable:
    with safe_open(path, framework="numpy") as file:
        header = file.metadata() or {}
        names = set(file.keys())
        if missing := [name for name in _HEADER if name not in header] + sorted({"embeddings"} - names):
            raise ValueError(f"it lacks {', '.join(missing)}. Write it with SensorEmbeddingTable.save.")
        embeddings = file.get_tensor("embeddings")
        mean = file.get_tensor("mean") if "mean" in names else None
    return _from_header(header, json.loads(header["keys"]), embeddings, mean)


def _read_npz(path: Path) -> SensorEmbeddingTable:
    with np.load(path, allow_pickle=False) as file:
        if missing := sorted({"embeddings", "image_keys"} - set(file.files)):
            raise ValueError(f"it lacks {', '.join(missing)}; found: {', '.join(file.files)}.")
        header = {name: str(file[name]) for name in (*_HEADER, "model_name") if name in file.files}
        keys = file["image_keys"].tolist()  # this line and the next raise on pickled objects
        embeddings = file["embeddings"].astype(np.float32)
        mean = file["mean"] if "mean" in file.files else None
    unit = np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3)
    header.setdefault("vision_model", header.get("model_name", ""))
    header.setdefault("normalization", "l2" if unit else "none")
    return _from_header(header, keys, embeddings, mean)


def _from_header(
    header: dict[str, str], keys: list[str], embeddings: np.ndarray, mean: np.ndarray | None
) -> SensorEmbeddingTable:
    return SensorEmbeddingTable(
        keys=keys,
        embeddings=embeddings,
        home=header.get("home", ""),
        vision_model=header["vision_model"],
        revision=header.get("revision") or None,
        output=header.get("output", ""),
        image_size=int(header.get("image_size", 0)),
        pictures_hash=header.get("pictures_hash", ""),
        normalization=header["normalization"],
        mean=mean,
    )


def normalize(
    embeddings: np.ndarray, normalization: str, mean: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """`(N, D)` raw vectors to `(N, D)` float32 rows and the mean subtracted from them (None but for `"center"`).

    `mean` `(D,)`: an existing table's, to add rows to it; by default that of these rows. All pictures of a home share
    one floor plan, so raw cosines are all near 1; what tells two apart is left after centring.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization={normalization!r} is unknown; known: {', '.join(NORMALIZATIONS)}.")
    rows = np.asarray(embeddings, np.float64)
    if normalization == "none":
        return rows.astype(np.float32), None
    centre = None
    if normalization == "center":
        centre = rows.mean(axis=0) if mean is None else np.asarray(mean, np.float64)
        rows = rows - centre
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    # relative to the raw length: what float32 cancellation leaves of two equal pictures is no direction
    if (length <= 1e-6 * np.linalg.norm(embeddings, axis=1, keepdims=True)).any():
        raise ValueError(
            f"{normalization!r} leaves nothing of a picture's vector: are all pictures the same? Use 'l2'."
        )
    return (rows / length).astype(np.float32), None if centre is None else centre.astype(np.float32)


def _suffix(path: Path) -> str:
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{path}: an embedding table is a .safetensors file, or an older .npz file.")
    return path.suffix
