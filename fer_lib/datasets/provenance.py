"""What a model was trained on, as its bundle records it: the images, and the sources with their rows.

From the images an evaluation on any manifest finds leaked rows; an image is identified by the first 64 bits of its
``content_id``.  Manifests carry ``meta["drawn"]``: source -> whether its faces are drawn (``root: embedded``), where
that is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import DataError
from fer_lib.storage.npz_files import read_npz

EXPOSURE_FILE = "seen.npz"
MAX_TEXT = 500  # characters
Text = Annotated[str, Field(max_length=MAX_TEXT)]


@dataclass(frozen=True)
class TrainingExposure:
    """``trained_on`` and ``selected_on`` uint64, sorted, distinct: images of train, and of val (epoch, temperature).

    ``complete`` is False when a model that this one derives from (starting weights, a teacher) has no such record.
    """

    trained_on: np.ndarray
    selected_on: np.ndarray
    complete: bool = True

    @classmethod
    def of(cls, train: Iterable[str], val: Iterable[str], complete: bool = True) -> TrainingExposure:
        """From the content ids of the rows of train and of val."""
        return cls(np.unique(content_numbers(train)), np.unique(content_numbers(val)), complete)

    def with_ancestors(self, ancestors: Iterable[TrainingExposure | None]) -> TrainingExposure:
        """With the images of the models that this one derives from; None: an ancestor without a record."""
        ancestors = list(ancestors)
        records = [self, *(a for a in ancestors if a is not None)]
        return TrainingExposure(
            np.unique(np.concatenate([r.trained_on for r in records])),
            np.unique(np.concatenate([r.selected_on for r in records])),
            all(r.complete for r in records) and all(a is not None for a in ancestors),
        )

    def write(self, file: Path | BinaryIO) -> None:
        np.savez(file, **{"learned": self.trained_on, "chosen_on": self.selected_on, "whole": self.complete})


def content_numbers(content_ids: Iterable[str]) -> np.ndarray:
    """uint64 [N]: the first 16 hex of each content id."""
    return np.fromiter((int(c[:16], 16) for c in content_ids), np.uint64)


def read_exposure(folder: Path) -> TrainingExposure | None:
    """The record in a bundle's or soft-label folder; None where there is none.  DataError when it can't be read."""
    file = Path(folder) / EXPOSURE_FILE
    if not file.is_file():
        return None
    try:
        stored = read_npz(file)
        images, complete = [stored["learned"], stored["chosen_on"]], stored["whole"]
        if any(array.dtype != np.uint64 or array.ndim != 1 for array in images):
            raise ValueError(f"its image numbers are not uint64 [N]: {[(a.dtype.str, a.shape) for a in images]}")
        if complete.dtype != np.bool_ or complete.ndim:
            raise ValueError(f"whole is {complete.dtype} {list(complete.shape)}, not one bool")
        return TrainingExposure(*images, bool(complete))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{file} is not a training exposure record ({error}): train or export it again") from error


class SourceRows(BaseModel):
    """``rows``: training rows of a source.  ``drawn``: whether its faces are drawn; None where it is not recorded."""

    model_config = ConfigDict(frozen=True)

    rows: int = Field(ge=0)
    drawn: bool | None = None


class StartingWeights(BaseModel):
    """The file or package of weights that a fit started from.  ``terms``: of the images that they were trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Text
    origin: Text = ""
    licence: Text = ""
    terms: Text = ""

    @property
    def text(self) -> str:
        licence = f"licence {self.licence}" if self.licence else "licence not recorded"
        return f"{self.name} ({'; '.join(filter(None, (self.origin, licence, self.terms or 'terms not recorded')))})"


class TrainingData(BaseModel):
    """The training data of the weights and of the model that they started from (``init_from``).

    ``smoke``: part of it was a ``--smoke`` run.  ``complete`` is False when the starting model has no such record.
    ``starting_weights``: the file or package at the beginning of that chain; None for random weights.
    """

    model_config = ConfigDict(frozen=True)

    sources: dict[str, SourceRows]
    smoke: bool = False
    complete: bool = True
    starting_weights: StartingWeights | None = None

    @classmethod
    def of(cls, train: Manifest, smoke: bool, start: StartingWeights | None = None) -> TrainingData:
        """The record of a fit on the rows of ``train`` that began with the weights ``start``."""
        drawn = train.meta.get("drawn") or {}
        counts = train.frame["source"].value_counts().sort_index()
        sources = {s: SourceRows(rows=int(n), drawn=drawn.get(s)) for s, n in counts.items()}
        return cls(sources=sources, smoke=smoke, starting_weights=start)

    def record(self) -> dict[str, Any]:
        """The content of a bundle's ``training_data``; ``starting_weights`` only where there are any."""
        return self.model_dump(exclude=None if self.starting_weights else {"starting_weights"})

    @property
    def drawn(self) -> bool:
        """Whether any source is known to be drawn faces."""
        return any(source.drawn for source in self.sources.values())

    @property
    def rows(self) -> int:
        return sum(source.rows for source in self.sources.values())


def join_training_data(records: Sequence[TrainingData | None]) -> TrainingData | None:
    """The record of several models together, or of a fit and the model that it started from; None where none has one.

    A source of several has the largest number of rows.  Not complete where one has no record.
    """
    known, sources = [record for record in records if record is not None], {}
    if not known:
        return None
    for name in sorted({name for record in known for name in record.sources}):
        parts = [record.sources[name] for record in known if name in record.sources]
        drawn = any_drawn([part.drawn for part in parts])
        sources[name] = SourceRows(rows=max(part.rows for part in parts), drawn=drawn)
    starts = dict.fromkeys(record.starting_weights for record in known if record.starting_weights)
    return TrainingData(
        sources=sources,
        smoke=any(record.smoke for record in known),
        complete=len(known) == len(records) and all(record.complete for record in known),
        starting_weights=_join_starts([*starts]),
    )


def _join_starts(starts: Sequence[StartingWeights]) -> StartingWeights | None:
    """Several starting weights as one record, whose fields list the different values."""
    if not starts:
        return None
    values = {name: [getattr(start, name) for start in starts] for name in StartingWeights.model_fields}
    return StartingWeights(**{k: "; ".join(dict.fromkeys(filter(None, v)))[:MAX_TEXT] for k, v in values.items()})


def join_drawn(manifests: Sequence[Manifest]) -> dict[str, bool]:
    """``meta["drawn"]`` of joined manifests: a source that is drawn in one of them counts as drawn."""
    values: dict[str, list[bool | None]] = {}
    for manifest in manifests:
        for source in set(manifest.frame["source"]):
            values.setdefault(source, []).append((manifest.meta.get("drawn") or {}).get(source))
    joined = {source: any_drawn(drawn) for source, drawn in sorted(values.items())}
    return {source: drawn for source, drawn in joined.items() if drawn is not None}


def any_drawn(values: Sequence[bool | None]) -> bool | None:
    """Whether one of several parts is drawn; None where none is known to be and one is not recorded."""
    return True if any(values) else None if None in values else False


def only_drawn(manifest: Manifest) -> bool:
    """Whether every source of the manifest is known to be drawn faces."""
    drawn = manifest.meta.get("drawn") or {}
    return all(drawn.get(source) for source in set(manifest.frame["source"]))


def not_for_photos(data: TrainingData | None) -> str:
    """Why a model with this record is not for photos; "" where no reason is known."""
    if data is None:
        return ""
    if data.drawn:
        return "a demonstration on drawn faces, not for photos"
    return "a --smoke rehearsal, not for photos" if data.smoke else ""


def training_text(data: TrainingData | None) -> str:
    """The record as text, such as ``trained on 28,709 faces of fer2013``."""
    if data is None:
        return "its bundle does not record what it was trained on"
    if all(source.drawn for source in data.sources.values()):
        faces = f"{data.rows:,} drawn faces"
    else:
        names = (f"{name} (drawn)" if source.drawn else name for name, source in data.sources.items())
        faces = f"{data.rows:,} faces of {', '.join(names)}"
    notes = [not_for_photos(data)]
    if unknown := [name for name, source in data.sources.items() if source.drawn is None]:
        notes.append(f"whether {', '.join(unknown)} is drawn is not recorded")
    if not data.complete:
        notes.append("what its starting model was trained on is not recorded")
    if start := data.starting_weights:
        notes.append(f"started from {start.name} ({start.terms or 'terms not recorded'})")
    return "; ".join([f"trained on {faces}", *filter(None, notes)])
