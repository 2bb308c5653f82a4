"""Which rows a training step sees, and their augmented pictures: everything a function of (seed, epoch, sample).

Nothing here keeps a position: a step's rows are computed from its number, so a resumed run goes on exactly where the
unbroken one would be, and identical batches come out whatever prepares them.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np

from fer_lib.datasets.facepack import FacePack
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.faces.augment import augment
from fer_lib.params import AugmentParams

_AHEAD = 4  # batches prepared before they are asked for
_END = object()


def keyed_rng(*key: int | str) -> np.random.Generator:
    """A counter-based generator (Philox) of its own for every key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, np.uint64)))


@lru_cache(maxsize=4 * NUM_CLASSES)
def _permutation(n: int, *key: int | str) -> np.ndarray:
    return keyed_rng(*key).permutation(n)


@dataclass(frozen=True)
class Sampler:
    """Row numbers of each step.  ``balanced``: equal shares of every class in each batch (SPEC 5).

    Each class is walked by a permutation that continues over epochs, so that every row is seen within
    ceil(7 max n_c / N) epochs; batch_size modulo 7 is passed round the classes.
    """

    labels: np.ndarray
    batch_size: int
    balanced: bool
    seed: int

    def __post_init__(self):
        counts = np.bincount(self.labels, minlength=NUM_CLASSES)
        if len(self.labels) == 0:
            raise DataError(
                "no training rows are left: check include_sources, exclude_sources and the manifest's splits"
            )
        if self.balanced and (counts == 0).any():
            empty = ", ".join(e for e, n in zip(EMOTIONS, counts, strict=True) if n == 0)
            raise DataError(
                f"balanced batches need rows of every class, none for: {empty}; use imbalance: none or add data"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Balanced: rounded up, or the classes' walks would fall short of N rows an epoch.  Otherwise whole batches."""
        whole, rest = divmod(len(self.labels), self.batch_size)
        return max(1, whole + (self.balanced and rest > 0))

    @cached_property
    def _members(self) -> list[np.ndarray]:
        """The rows of each class."""
        return [np.flatnonzero(self.labels == c) for c in range(NUM_CLASSES)]

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(row numbers int64 [B], how many full walks came before each, int64 [B]) of global step ``step``."""
        if not self.balanced:
            epoch, index = divmod(step, self.steps_per_epoch)
            order = _permutation(len(self.labels), self.seed, "order", epoch)
            rows = order[index * self.batch_size : (index + 1) * self.batch_size]
            return rows, np.full(len(rows), epoch)
        picked, walks = [], []
        for c in range(NUM_CLASSES):
            members = self._members[c]
            for position in range(self._drawn(c, step), self._drawn(c, step + 1)):
                walk, offset = divmod(position, len(members))
                picked.append(members[_permutation(len(members), self.seed, "class", c, walk)[offset]])
                walks.append(walk)
        return np.asarray(picked), np.asarray(walks)

    def _drawn(self, c: int, steps: int) -> int:
        """How many rows of class ``c`` the first ``steps`` batches took."""
        base, extra = divmod(self.batch_size, NUM_CLASSES)
        return base * steps + (extra * steps + NUM_CLASSES - 1 - c) // NUM_CLASSES


@dataclass(frozen=True)
class Batch:
    rows: np.ndarray  # int64 [B], positions in the pack
    images: np.ndarray  # float32 [B, 3, S, S], normalised
    labels: np.ndarray  # int64 [B]


def train_batches(
    pack: FacePack, sampler: Sampler, augmentation: AugmentParams, first_step: int, last_step: int
) -> Iterator[Batch]:
    """Augmented batches of global steps ``first_step`` to ``last_step`` (exclusive), prepared ahead in a thread."""
    keys = [int(s[:15], 16) for s in pack.manifest.sample_ids]
    contract = pack.contract
    cv2.setNumThreads(1)  # OpenCV's own pool fights with torch's

    def make(step: int) -> Batch:
        rows, walks = sampler.rows(step)
        faces = [
            augment(
                pack.faces[r], keyed_rng(sampler.seed, "augment", int(w), keys[r]), contract.image_size, augmentation
            )
            for r, w in zip(rows, walks, strict=True)
        ]
        return Batch(rows, contract.normalise(np.stack(faces)), sampler.labels[rows])

    yield from _ahead(make, range(first_step, last_step))


def eval_batches(pack: FacePack, batch_size: int, flip: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row numbers, float32 [B, 3, S, S]) of the centre view of every row in order; ``flip`` mirrors it sideways."""
    contract = pack.contract

    def make(start: int):
        rows = np.arange(start, min(start + batch_size, len(pack.faces)))
        faces = contract.centre(np.asarray(pack.faces[rows[0] : rows[-1] + 1]))
        return rows, contract.normalise(np.ascontiguousarray(faces[:, :, ::-1] if flip else faces))

    yield from _ahead(make, range(0, len(pack.faces), batch_size))


def _ahead(make, jobs) -> Iterator:
    """``make(job)`` for each job in order, computed a few ahead in one thread; an error in it is raised here."""
    ready: queue.Queue = queue.Queue(maxsize=_AHEAD)
    stop = threading.Event()

    def put(item) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work():
        try:
            for job in jobs:
                if not put((make(job), None)):
                    return
            put((None, _END))
        except BaseException as error:  # handed to the consumer, who raises it
            put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is _END:
                return
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
        thread.join()
