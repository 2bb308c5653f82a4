"""Which images a model was trained on, and which ones selected its epoch or its temperature.

The record is part of the model's bundle.  An evaluation on any manifest can then find leaked rows.  An image is
identified by the first 64 bits of its ``content_id``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile

import numpy as np

from fer_lib.errors import DataError

EXPOSURE_FILE = "seen.npz"


@dataclass(frozen=True)
class TrainingExposure:
    """``trained_on`` and ``selected_on`` uint64, sorted, distinct: images of train, and of val.

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
        with np.load(file) as stored:
            return TrainingExposure(stored["learned"], stored["chosen_on"], bool(stored["whole"]))
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise DataError(f"{file} is not a training exposure record ({error}): train or export it again") from error
