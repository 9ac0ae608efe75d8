"""The frozen table: one vector for each sensor state, with the settings by which another row of it is made.

The table is data, not weights: swap it and the same checkpoint reads another home.
"""

import difflib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from .published_tables import find_published
from .table_files import FILE_NAME, find_table, read_table, write_table

NORMALIZATIONS = ("none", "l2", "center", "whiten")
HAS_MEAN = ("center", "whiten")  # the normalisations that subtract one
WHITENING_FLOOR = 0.1  # see `whitening_of`
NOISE = 1e-6  # relative to the raw length: what float32 cancellation leaves of two equal pictures is no direction
KIND = ("width", "vision_model", "revision", "output", "image_size", "normalization")  # what rows must share


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
        normalization: `"none"`; `"l2"`: unit rows; `"center"`: `mean` subtracted, then unit rows; `"whiten"`: `mean`
            subtracted, times `whitening`, then unit rows.
        mean: `(D,)` float32, the home's mean vector, with `"center"` and `"whiten"` only; `(H, D)` with several homes.
        whitening: `(R, D)` float32 A, with `"whiten"` only: a centred row x becomes x A^T A, of R <= D directions;
            `(H, R, D)` with several homes, of which one with fewer directions ends with rows of zeros.
        homes: names of the H homes whose tables were put together (`concatenate`): keys then read `"milan/M001_ON"`.
            Empty: one home.

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
    whitening: np.ndarray | None = None
    homes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys = [str(key) for key in self.keys]
        shape = self.embeddings.shape
        if self.embeddings.dtype != np.float32 or len(shape) != 2 or 0 in shape:
            raise ValueError(
                f"embeddings should be float32 of shape (N, D), found {self.embeddings.dtype} of {shape}."
            )
        if len(self.keys) != shape[0]:
            raise ValueError(f"{len(self.keys)} keys for {shape[0]} rows of embeddings: expected one key a row.")
        if duplicates := [key for key, count in Counter(self.keys).items() if count > 1]:
            raise ValueError(
                f"key {duplicates[0]!r} has more than one row ({len(duplicates)} such keys): expected each key once."
            )
        broken = ~np.isfinite(self.embeddings).all(axis=1)
        if broken.any():
            first = self.keys[int(broken.argmax())]
            raise ValueError(f"{broken.sum()} row(s) hold NaN or infinity, first {first!r}. Embed the pictures anew.")
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization={self.normalization!r} is unknown; known: {', '.join(NORMALIZATIONS)}.")
        self._check_statistics()
        if lost := [key for key in self.keys if self.homes and key.partition("/")[0] not in self.homes]:
            raise ValueError(f"key {lost[0]!r} is of none of the homes {', '.join(self.homes)}: expected home/key.")

    def _check_statistics(self) -> None:
        """Raise `ValueError` unless `mean` and `whitening` are there where the normalisation has them, and fit."""
        for name, array, having in (("mean vector", self.mean, HAS_MEAN), ("whitening", self.whitening, ("whiten",))):
            if (self.normalization in having) != (array is not None):
                state = "missing" if array is None else "there"
                known = " or ".join(map(repr, having))
                raise ValueError(f"the {name} is {state} with normalization={self.normalization!r}: {known} has one.")
            if array is not None and not (array.dtype.kind == "f" and np.isfinite(array).all()):
                raise ValueError(f"the {name} ({array.dtype}) should hold finite numbers. Embed the pictures anew.")
        homes = (len(self.homes),) if self.homes else ()
        expected = (*homes, self.width)
        if self.mean is not None and self.mean.shape != expected:
            raise ValueError(f"the mean has shape {self.mean.shape}, expected {expected}: one vector a home.")
        if self.whitening is not None:
            shape = self.whitening.shape
            if len(shape) < 2 or (*shape[:-2], shape[-1]) != expected or not shape[-2]:
                names = ", ".join(map(str, (*homes, "R", self.width)))
                raise ValueError(f"the whitening has shape {shape}, expected ({names}): R directions, one at least.")

    @property
    def width(self) -> int:
        """Return D, the length of a vector."""
        return self.embeddings.shape[1]

    def select(self, keys: Sequence[str]) -> "SensorEmbeddingTable":
        """Return the same table with the rows of `keys`, in their order; `ValueError` names a key without a row."""
        row_of = {key: row for row, key in enumerate(self.keys)}
        if missing := [key for key in keys if key not in row_of]:
            near = difflib.get_close_matches(missing[0], self.keys, n=3) or self.keys[:3]
            raise ValueError(
                f"{len(missing)} key(s) have no row in the table of home {self.home!r}: {', '.join(missing[:5])}. "
                f"It has {len(self.keys)} keys, nearest: {', '.join(near)}. Draw and embed the home's pictures again."
            )
        return replace(self, keys=list(keys), embeddings=self.embeddings[[row_of[key] for key in keys]])

    @classmethod
    def build(
        cls,
        keys: Sequence[str],
        vectors: np.ndarray,
        *,
        home: str,
        vision_model: str,
        output: str,
        normalization: str = "center",
        revision: str | None = None,
        image_size: int = 0,
        pictures_hash: str = "",
    ) -> "SensorEmbeddingTable":
        """Make a table of `(N, D)` raw vectors as the vision model gave them; they are normalised here."""
        rows, mean, whitening = normalize(vectors, normalization)
        return cls(
            list(keys),
            rows,
            home,
            vision_model,
            revision,
            output,
            image_size,
            pictures_hash,
            normalization,
            mean,
            whitening,
        )

    @classmethod
    def concatenate(cls, tables: Sequence["SensorEmbeddingTable"]) -> "SensorEmbeddingTable":
        """Join the tables of several homes into one, whose keys carry the home's name: `"milan/M001_ON"`.

        Raises:
            ValueError: a home twice, a name with "/", or rows of another kind; the difference is spelled out.
        """
        parts = [part for table in tables for part in table.split()]
        names = [part.home for part in parts]
        if not parts or len(set(names)) < len(names) or any("/" in name or not name for name in names):
            raise ValueError(f"homes {names}: expected at least one, each with a name of its own and no '/' in it.")
        for part in parts[1:]:
            if differences := list(_differences(parts[0], part, KIND)):
                raise ValueError(
                    f"the tables of {names[0]!r} and {part.home!r} do not fit together: {'; '.join(differences)}. "
                    "Draw and embed both homes' pictures in the same way."
                )
        means = [part.mean for part in parts if part.mean is not None]
        whitenings = [part.whitening for part in parts if part.whitening is not None]
        return replace(
            parts[0],
            keys=[f"{part.home}/{key}" for part in parts for key in part.keys],
            embeddings=np.concatenate([part.embeddings for part in parts]),
            home="+".join(names),
            pictures_hash=" ".join(part.pictures_hash for part in parts),
            mean=np.stack(means) if means else None,
            whitening=_stacked(whitenings) if whitenings else None,
            homes=names,
        )

    def split(self) -> "list[SensorEmbeddingTable]":
        """Return the table of each home that has rows, as before `concatenate`; of one home, the table itself."""
        if not self.homes:
            return [self]
        tables = []
        for i, (home, pictures_hash) in enumerate(zip(self.homes, self.pictures_hash.split(" "), strict=True)):
            rows = [row for row, key in enumerate(self.keys) if key.partition("/")[0] == home]
            if rows:
                table = replace(
                    self,
                    keys=[self.keys[row].partition("/")[2] for row in rows],
                    home=home,
                    homes=[],
                    embeddings=self.embeddings[rows],
                    mean=None if self.mean is None else self.mean[i],
                    whitening=None if self.whitening is None else _without_zeros(self.whitening[i]),
                    pictures_hash=pictures_hash,
                )
                tables.append(table)
        return tables

    def compare(self, other: "SensorEmbeddingTable") -> list[str]:
        """List what differs between this table and another, a line each; no lines for equal tables."""
        lines = list(_differences(self, other, (*KIND, "home", "pictures_hash")))
        keys = set(self.keys)
        other_keys = set(other.keys)
        for which, lone_keys in (("first", keys - other_keys), ("second", other_keys - keys)):
            if lone_keys:
                few = ", ".join(sorted(lone_keys)[:5])
                lines.append(
                    f"{len(lone_keys)} keys only in the {which}: {few}{', ...' if len(lone_keys) > 5 else ''}"
                )
        shared = [key for key in self.keys if key in other_keys]
        if shared != [key for key in other.keys if key in keys]:
            lines.append(f"the {len(shared)} shared keys stand in another order")
        if shared and self.width == other.width:
            lines += _cosines(shared, self.select(shared).embeddings, other.select(shared).embeddings)
        return lines

    def save(self, path: str | os.PathLike) -> None:
        """Write the table, whole or not at all: `.safetensors`, or `.npz` for the older form.

        Into a model directory it goes as `sensor_embeddings.safetensors`. Equal tables give equal bytes.
        """
        path = Path(path)
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        write_table(path / FILE_NAME if path.is_dir() else path, content)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        *,
        home: str | None = None,
        vision_model: str | None = None,
        revision: str | None = None,
    ) -> "SensorEmbeddingTable":
        """Load the table of a home from a data set, or a model, on the Hub or in a folder.

        Args:
            source: id of the repository, or a folder with its files.
            home: whose table; may be left out where there is one home.
            vision_model: short name (`"clip"`) or Hub id; may be left out where there is one.
            revision: branch, tag or commit.

        Raises:
            FileNotFoundError: no such repository or folder. ValueError: no such table, several, or a damaged one.
        """
        path = find_published(source, home, vision_model, revision)
        table = cls.load(path)
        if home is not None and home not in (table.home, *table.homes):
            raise ValueError(f"{path}: the table of home {table.home!r}, not of {home!r}.")
        # by its short name where it lies in a data set, which names its files so
        short = None if path.name == FILE_NAME else path.stem
        if vision_model not in (None, table.vision_model, short):
            raise ValueError(f"{path}: rows by vision model {table.vision_model!r}, not by {vision_model!r}.")
        return table

    @classmethod
    def load(cls, source: str | os.PathLike, revision: str | None = None) -> "SensorEmbeddingTable":
        """Read a table.

        Args:
            source: a file written by `save`, an older NPZ file (`embeddings` and `image_keys` suffice), a model
                directory, or the id of a Hub repository.
            revision: branch, tag or commit of the repository.

        Raises:
            FileNotFoundError: no such file, folder or repository.
            ValueError: another format, missing metadata, NaN, a key twice, pickled objects; the file is named.
        """
        path = find_table(source, revision)
        content = read_table(path)
        try:
            return cls(**content)
        except ValueError as error:
            raise ValueError(f"{path}: no sound embedding table: {error}") from None


def _stacked(whitenings: Sequence[np.ndarray]) -> np.ndarray:
    """Stack `(R, D)` of each home to `(H, most R, D)`; rows of zeros below change nothing of A^T A."""
    most = max(map(len, whitenings))
    return np.stack([np.pad(whitening, ((0, most - len(whitening)), (0, 0))) for whitening in whitenings])


def _without_zeros(whitening: np.ndarray) -> np.ndarray:
    return whitening[whitening.any(axis=1)]


def _differences(one: SensorEmbeddingTable, other: SensorEmbeddingTable, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        first = getattr(one, name)
        second = getattr(other, name)
        if first != second:
            yield f"{name}: {first or 'not given'}, {second or 'not given'}"


def _cosines(keys: Sequence[str], one: np.ndarray, other: np.ndarray) -> Iterator[str]:
    """Yield a line on how far the same keys' vectors `(N, D)` lie apart, where they do."""
    if np.array_equal(one, other):
        return
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = (one * other).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    low = int(cosine.argmin())
    yield (
        f"cosine of the {len(keys)} shared keys: mean {cosine.mean():.4f}, lowest {cosine[low]:.4f} ({keys[low]}), "
        f"highest {cosine.max():.4f}"
    )


def normalize(
    embeddings: np.ndarray, normalization: str, mean: np.ndarray | None = None, whitening: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Normalise `(N, D)` raw vectors to float32 rows; and the mean and whitening they went through, None without.

    `mean` `(D,)` and `whitening` `(R, D)`: an existing table's, to add rows to it; by default those of these rows. All
    pictures of a home share one floor plan, so raw cosines are all near 1; their differences are left after
    centring.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization={normalization!r} is unknown; known: {', '.join(NORMALIZATIONS)}.")
    if normalization == "whiten" and (mean is None) != (whitening is None):
        lost = "mean" if mean is None else "whitening"
        raise ValueError(
            f"normalization='whiten': the table's {lost} is missing; give mean and whitening, or neither."
        )
    rows = np.asarray(embeddings, np.float64)
    if normalization == "none":
        return rows.astype(np.float32), None, None
    raw_length = np.linalg.norm(rows, axis=1)
    centre = root = None
    if normalization in HAS_MEAN:
        centre = rows.mean(axis=0) if mean is None else np.asarray(mean, np.float64)
        rows = rows - centre
    _refuse_nothing(rows, raw_length, normalization)
    if normalization == "whiten":
        root = whitening_of(rows) if whitening is None else _without_zeros(np.asarray(whitening, np.float64))
        directions = root / np.linalg.norm(root, axis=1, keepdims=True)
        _refuse_nothing(rows @ directions.T, raw_length, normalization)  # an added row may lie across all of them
        rows = rows @ root.T @ root
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return (
        rows.astype(np.float32),
        None if centre is None else centre.astype(np.float32),
        None if root is None else root.astype(np.float32),
    )


def whitening_of(centred: np.ndarray) -> np.ndarray:
    """Return A `(R, D)` of `(N, D)` rows of mean 0: A^T A = V diag(1 / sqrt(l + floor)) V^T whitens them (ZCA).

    l `(R,)` are the variances along the directions V that have any, the floor is WHITENING_FLOOR times their mean. Of
    all whitenings ZCA leaves the rows nearest to what they were (Kessy, Lewin and Strimmer 2018, "Optimal whitening
    and decorrelation"). The floor keeps the many directions of small variance, mostly noise, from being blown up to
    the size of the others: the UFLDL tutorial (Ng and others, "Whitening") takes 0.01 or 0.1, for data of scale 1.
    Here the larger: N pictures in N - 1 directions or more, whitened without a floor, are all equally far apart.
    """
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    kept = lengths > NOISE * lengths[0]
    variance = np.square(lengths[kept]) / len(centred)
    return directions[kept] * ((variance + WHITENING_FLOOR * variance.mean()) ** -0.25)[:, None]


def _refuse_nothing(rows: np.ndarray, raw_length: np.ndarray, normalization: str) -> None:
    """Raise `ValueError` when hardly anything of `raw_length` `(N,)` is left in a row of `rows` `(N, ...)`."""
    if (np.linalg.norm(rows, axis=1) <= NOISE * raw_length).any():
        raise ValueError(
            f"{normalization!r} leaves nothing of a picture's vector: are all pictures the same? Use 'l2'."
        )
