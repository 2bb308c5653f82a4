"""The rows of each training step and their augmented images, as a function of (seed, epoch, sample).

A step's rows are computed from its number, without a stored position.  So a resumed run has the batches of an
uninterrupted one, and any number of workers gives identical batches.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.random.bit_generator import ISeedSequence

from fer_lib.datasets.facepack import FacePack
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.faces.augment import augment
from fer_lib.params import AugmentParams

_AHEAD = 3  # batches in preparation besides one per worker


class _Words(ISeedSequence):
    """Philox's key.  ``Philox(key=...)`` gives the same stream, but first reads a seed from the system: 4 us."""

    def __init__(self, words: np.ndarray):
        self.words = words

    def generate_state(self, n_words: int, dtype: type = np.uint32) -> np.ndarray:
        return self.words


def keyed_rng(*key: int | str) -> np.random.Generator:
    """A counter-based generator (Philox) with a separate stream for every key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(_Words(np.frombuffer(digest, np.uint64))))


@dataclass(frozen=True)
class Sampler:
    """Row numbers of each step.

    ``balanced``: equal shares of every class in each batch.  ``sources`` (str [N], the source of each row): equal
    shares of every source, when ``balanced`` among the sources of each class.

    Each class, or each source (of each class), has permutations that continue over epochs.  So every row is drawn
    within ceil(7 max n_c / N) epochs when classes are balanced, within ceil(S max n_s / N) when S sources are, within
    ceil(7 S max n_cs / N) when both are.  The remainder of batch_size modulo 7 rotates over the classes; the sources
    take turns.  Raises DataError without rows, and for balanced batches without rows of a class.
    """

    labels: np.ndarray
    batch_size: int
    balanced: bool
    seed: int
    sources: np.ndarray | None = None

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
        """Balanced: rounded up, for at least N rows per epoch.  Otherwise whole batches only."""
        whole, rest = divmod(len(self.labels), self.batch_size)
        return max(1, whole + (self._continues and rest > 0))

    @property
    def _continues(self) -> bool:
        """Whether permutations of parts of the rows continue over epochs."""
        return self.balanced or self.sources is not None

    @cached_property
    def _parts(self) -> list[list[tuple[tuple[int | str, ...], np.ndarray]]]:
        """For each class, or once for all: (random key, rows) of each of its sources, or of all."""
        classes = [(("class", c), self.labels == c) for c in range(NUM_CLASSES)] if self.balanced else [((), True)]
        if self.sources is None:
            return [[(key, np.flatnonzero(among))] for key, among in classes]
        named = [(str(name), self.sources == name) for name in np.unique(self.sources)]
        parts = [[((*key, "source", n), np.flatnonzero(among & own)) for n, own in named] for key, among in classes]
        return [[part for part in of_class if len(part[1])] for of_class in parts]

    @cached_property
    def _permutation(self) -> Callable[..., np.ndarray]:
        """Permutation of (n, *key), cached for about four of each part."""
        return lru_cache(4 * sum(map(len, self._parts)))(lambda n, *key: keyed_rng(*key).permutation(n))

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(row numbers int64 [B], number of earlier full permutations int64 [B]) of global step ``step``."""
        if not self._continues:
            epoch, index = divmod(step, self.steps_per_epoch)
            order = self._permutation(len(self.labels), self.seed, "order", epoch)
            rows = order[index * self.batch_size : (index + 1) * self.batch_size]
            return rows, np.full(len(rows), epoch)
        rows, walks = [], []
        for c, parts in enumerate(self._parts):
            first, last = self._draws(c, step), self._draws(c, step + 1)
            for turn, (key, members) in enumerate(parts):  # draw number d is the turn of part d modulo their number
                for draw in range(first + (turn - first) % len(parts), last, len(parts)):
                    walk, offset = divmod(draw // len(parts), len(members))
                    rows.append(members[self._permutation(len(members), self.seed, *key, walk)[offset]])
                    walks.append(walk)
        return np.asarray(rows), np.asarray(walks)

    def _draws(self, c: int, steps: int) -> int:
        """Number of rows of class ``c`` (0: of all, where classes are not balanced) in the first ``steps`` batches."""
        n = len(self._parts)
        base, extra = divmod(self.batch_size, n)
        return base * steps + (extra * steps + n - 1 - c) // n


@dataclass(frozen=True)
class Batch:
    rows: np.ndarray  # int64 [B], positions in the pack
    images: np.ndarray  # float32 [B, 3, S, S], normalised, channels last in memory
    labels: np.ndarray  # int64 [B]
    step_rows: np.ndarray  # int64, the rows of the whole step; ``rows`` may be one process' share


def train_batches(
    pack: FacePack,
    sampler: Sampler,
    augmentation: AugmentParams,
    first_step: int,
    last_step: int,
    workers: int = 1,
    share: tuple[int, int] = (0, 1),
    empty: Callable[[tuple[int, ...]], np.ndarray] = lambda shape: np.empty(shape, np.float32),
) -> Iterator[Batch]:
    """Augmented batches of global steps ``first_step`` to ``last_step`` (exclusive), made ahead by ``workers`` threads.

    Threads suffice because OpenCV and NumPy release the GIL.  With 0 workers the caller's thread makes each batch.
    ``share`` (r, n): every n-th row from the r-th on, for one of n processes.  ``empty(shape)``: float32 memory
    for a batch (pinned for a GPU).
    """
    keys = [int(s[:15], 16) for s in pack.manifest.sample_ids]
    contract, size = pack.contract, pack.contract.image_size

    def make(step: int) -> Batch:
        step_rows, walks = sampler.rows(step)
        rows, walks = step_rows[share[0] :: share[1]], walks[share[0] :: share[1]]
        images = empty((len(rows), size, size, 3))
        for image, row, walk in zip(images, rows.tolist(), walks.tolist(), strict=True):
            rng = keyed_rng(sampler.seed, "augment", walk, keys[row])
            contract.channels_last(augment(pack.faces.compact(row), rng, size, augmentation), image)
        return Batch(rows, images.transpose(0, 3, 1, 2), sampler.labels[rows], step_rows)

    yield from _ahead(make, range(first_step, last_step), workers)


def eval_batches(
    pack: FacePack, batch_size: int, flip: bool = False, workers: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row numbers, float32 [B, 3, S, S]) of each row's centre crop, in order; ``flip`` mirrors it."""
    contract = pack.contract

    def make(start: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(start, min(start + batch_size, len(pack.faces)))
        faces = contract.centre(pack.faces[rows])
        return rows, contract.channels_last(faces[:, :, ::-1] if flip else faces).transpose(0, 3, 1, 2)

    yield from _ahead(make, range(0, len(pack.faces), batch_size), workers)


def _ahead(make: Callable[[int], Any], jobs: Iterable[int], workers: int) -> Iterator[Any]:
    """``make(job)`` for each job in order, some ahead in threads; an error is raised when its job is due."""
    cv2.setNumThreads(1)  # OpenCV's thread pool competes with torch's and with these threads
    if workers == 0:
        for job in jobs:  # map() would end at a StopIteration in make
            yield make(job)
        return
    jobs, waiting = iter(jobs), deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fer-batches")
    try:
        for job in jobs:
            waiting.append(pool.submit(make, job))
            if len(waiting) >= workers + _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
