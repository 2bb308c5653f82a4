"""What every raw layout shares: the draft of an import."""

from __future__ import annotations

import errno
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from fer_lib.datasets.import_folder import printable
from fer_lib.datasets.manifest import BOX, content_id, safe_path, sample_id, tidy
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.params import SourceSpec
from fer_lib.storage.atomic import explained

SHOWN = 10  # how many bad records an error lists
Progress = Callable[[int], None]


@dataclass
class ImportBuilder:
    """An import under way: rows, pictures and everything that was left out, each with its count.

    ``folder`` is the temporary folder that becomes ``<out>/<name>``; pictures go under ``folder/images``.
    """

    spec: SourceSpec
    name: str
    folder: Path
    progress: Progress | None = None
    layout: str = ""
    rows: list[dict] = field(default_factory=list)
    excluded: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    bad: list[tuple[str, str]] = field(default_factory=list)
    missing_images: int = 0
    ignored_files: int = 0
    boxes_outside: int = 0
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)  # keys of the report that only one layout has
    _linking: bool = True
    _made: set[Path] = field(default_factory=set)
    _placed: set[Path] = field(default_factory=set)
    _records: set[str] = field(default_factory=set)
    _last: tuple[Path, bytes] | None = None

    def read(self, path: Path, record: str) -> bytes | None:
        """The bytes of a picture; None, with the problem counted, when it is missing or can't be read.

        The newest one is remembered, so that the faces of a photo, asked for one after the other, read it once.
        """
        if self._last is None or self._last[0] != path:
            try:
                self._last = path, path.read_bytes()
            except FileNotFoundError:
                self.missing_images += 1
                self.problem("missing image", f"{path} ({record})")
                return None
            except OSError as error:
                self.problem("unreadable image", f"{path}: {error.strerror} ({record})")
                return None
        return self._last[1]

    def add_file(self, path: Path, relative: str, *, record: str, split: str, label: int, **more: Any) -> bool:
        """A picture file, linked (or copied) unchanged to ``images/<relative>``; a box in ``more`` enters its id.

        A photo with several faces comes once a face, with the same ``relative``.  False: no row, but a problem.
        """
        data = self.read(path, record) if self._written(record, relative) else None
        if data is None or self._again(record):
            return False
        target = self._target(relative)
        if target not in self._placed:
            with explained(target):
                self._place(path, data, target)
            self._placed.add(target)
        box = [more[side] for side in BOX] if BOX[0] in more else None
        self._row(content_id(data, box), relative, record, split, label, more)
        return True

    def add_bytes(
        self, data: bytes, relative: str, content: str, *, record: str, split: str, label: int, **more: Any
    ) -> None:
        """A picture made by the import, as encoded ``data``; ``content`` is the id of what it was made from."""
        if not self._written(record, relative) or self._again(record):
            return
        target = self._target(relative)
        with explained(target):
            self._write(data, target, record)
        self._row(content, relative, record, split, label, more)

    def add_pixels(
        self, pixels: np.ndarray, relative: str, *, record: str, split: str, label: int, **more: Any
    ) -> None:
        """Grey pixels uint8 [H, W] out of a CSV row, written as a lossless PNG to ``images/<relative>``."""
        done, png = cv2.imencode(".png", pixels)
        if not done:
            raise DataError(f"{self.name}, {record}: OpenCV could not encode its {pixels.shape} pixels as PNG")
        content = content_id(pixels.tobytes())
        self.add_bytes(png.tobytes(), relative, content, record=record, split=split, label=label, **more)

    def exclude(self, split: str, name: str, count: int = 1) -> None:
        """Rows of ``split`` that are none of the seven classes, under the dataset's own word for them."""
        self.excluded[split][name] += count

    def problem(self, kind: str, where: str) -> None:
        """A record that can't be used; more of them than ``spec.tolerance`` and the import fails."""
        self.bad.append((kind, where))

    def check(self, raw: Path) -> None:
        """Raise :class:`DataError` when too much was wrong, or when nothing at all was found."""
        if len(self.bad) > self.spec.tolerance:
            raise DataError(
                f"{self.name}: {len(self.bad)} bad records in {raw}, tolerance {self.spec.tolerance}:{self._shown()}\n"
                "repair them, or set tolerance to go on without them (they are counted in the report)"
            )
        if not self.rows:
            names = Counter()
            for counts in self.excluded.values():
                names.update(counts)
            left_out = f"{names.total()} excluded, {self.ignored_files} other files" + "".join(
                f"; {n} {name}" for name, n in names.most_common(SHOWN)
            )
            warned = "".join(f"\n  {warning}" for warning in self.warnings[:SHOWN])
            raise DataError(
                f"{self.name}: no picture of the seven classes under {raw} ({left_out}){self._shown()}{warned}\n"
                f"check that root is the folder that source {self.spec.source} reads, and what its classes are called"
            )
        absent = {s: [e for i, e in enumerate(EMOTIONS) if i not in have] for s, have in self._labels().items()}
        self.warnings += [f"{self.name}: split {s} has no {', '.join(e)}" for s, e in sorted(absent.items()) if e]

    def frame(self) -> pd.DataFrame:
        """The rows, sorted by record: the same raw data gives the same rows, whatever order the disk listed."""
        frame = pd.DataFrame(self.rows).sort_values("record", kind="stable")
        return tidy(frame, self.name)

    def report(self, raw: Path, out: Path) -> dict:
        """One entry of ``clean_report.json``'s ``reports``."""
        splits: dict[str, dict[str, int]] = {}
        for split in sorted({row["split"] for row in self.rows}):
            counts = Counter(row["label"] for row in self.rows if row["split"] == split)
            splits[split] = {name: counts[i] for i, name in enumerate(EMOTIONS)}
        told = {
            "type": self.layout,
            "dataset": self.name,
            "source": str(raw),
            "output": str(out),
            "splits": splits,
            "excluded": {split: dict(sorted(counts.items())) for split, counts in sorted(self.excluded.items())},
            "missing_images": self.missing_images,
            "bad_records": dict(sorted(Counter(kind for kind, _ in self.bad).items())),
            "boxes_outside": self.boxes_outside,
            "ignored_files": self.ignored_files,
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "mode": self.spec.mode,
            "drawn": self.spec.root == "embedded",
            **self.details,
        }
        return writable(told)

    def _shown(self) -> str:
        """The first bad records, a line each."""
        shown = "".join(f"\n  {kind}: {printable(where)}" for kind, where in self.bad[:SHOWN])
        return shown + (f"\n  and {len(self.bad) - SHOWN} more" if len(self.bad) > SHOWN else "")

    def _labels(self) -> dict[str, set[int]]:
        have: dict[str, set[int]] = defaultdict(set)
        for row in self.rows:
            have[row["split"]].add(row["label"])
        return have

    def _written(self, record: str, relative: str) -> bool:
        """Whether a manifest can name them; a file name that is no UTF-8 text is a problem."""
        name = record + relative
        if printable(name) == name:
            return True
        self.problem("file name is no UTF-8 text", record)
        return False

    def _again(self, record: str) -> bool:
        """Whether the source has named this record before: only its first stands, the rest are problems."""
        if record in self._records:
            self.problem("record stands there twice", record)
            return True
        self._records.add(record)
        return False

    def _row(self, content: str, relative: str, record: str, split: str, label: int, more: dict) -> None:
        row = {
            "sample_id": sample_id(self.name, record, content),
            "content_id": content,
            "source": self.name,
            "record": record,
            "image_path": f"{self.name}/images/{relative}",
            "label": label,
            "split": split,
            "val_role": "",
        }
        self.rows.append(row | more)
        if self.progress is not None:
            self.progress(len(self.rows))

    def _target(self, relative: str) -> Path:
        target = self.folder / "images" / safe_path(relative, self.name)
        if target.parent not in self._made:
            with explained(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(target.parent)
        return target

    def _place(self, path: Path, data: bytes, target: Path) -> None:
        if self.spec.mode == "link" and self._linking:
            try:
                # link(2) would link a symbolic link itself, so that one is followed first
                os.link(path.resolve() if path.is_symlink() else path, target)
                return
            except FileExistsError:
                pass  # told below, as for a copy
            except OSError as error:  # another file system, one without hard links, a full or forbidding one: copies
                self._linking = error.errno == errno.EMLINK  # that is about this file alone
                note = f"some files could not be linked to the raw data ({error.strerror}) and were copied"
                self.notes += [note] if note not in self.notes else []
        self._write(data, target, path)

    def _write(self, data: bytes, target: Path, origin: Path | str) -> None:
        try:
            with open(target, "xb") as handle:
                handle.write(data)
        except FileExistsError as error:
            raise DataError(
                f"{self.name}: {origin} and another picture would both be {target.name} in the import: this disk takes "
                "upper and lower case for one; choose an output folder on another disk"
            ) from error


def writable(value: Any) -> Any:
    """``value``, of dicts, lists and plain values, with every text as any file takes it (see :func:`printable`)."""
    if isinstance(value, dict):
        return {printable(key): writable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [writable(item) for item in value]
    return printable(value) if isinstance(value, str) else value
