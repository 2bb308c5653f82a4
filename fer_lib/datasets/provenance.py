"""Which pictures a model has learned from, and which ones chose its epoch or its temperature.

The record travels in the model's bundle, so that whoever measures the model later, on whatever manifest, can tell what
it may only remember.  Pictures are named by the first 64 bits of their ``content_id``.
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
    """``learned`` and ``chosen_on`` uint64, sorted, distinct: pictures of train, and of val.

    ``whole`` is False when something the model started or learned from (weights, a teacher) left no such record.
    """

    learned: np.ndarray
    chosen_on: np.ndarray
    whole: bool = True

    @classmethod
    def of(cls, train: Iterable[str], val: Iterable[str], whole: bool = True) -> TrainingExposure:
        """From the content ids of the rows of train and of val."""
        return cls(np.unique(numbers(train)), np.unique(numbers(val)), whole)

    def with_ancestors(self, ancestors: Iterable[TrainingExposure | None]) -> TrainingExposure:
        """Also what the models saw that this one comes from; None: an ancestor without a record."""
        found = list(ancestors)
        known = [self, *(a for a in found if a is not None)]
        learned, chosen = (np.unique(np.concatenate([getattr(s, k) for s in known])) for k in ("learned", "chosen_on"))
        return TrainingExposure(learned, chosen, all(s.whole for s in known) and len(known) == 1 + len(found))

    def write(self, file: Path | BinaryIO) -> None:
        np.savez(file, learned=self.learned, chosen_on=self.chosen_on, whole=self.whole)


def numbers(content_ids: Iterable[str]) -> np.ndarray:
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
        raise DataError(
            f"{file} is no record of the pictures a model saw ({error}): train or export it again"
        ) from error
