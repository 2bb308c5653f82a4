"""What every raw layout shares: the draft of an import, and walking folders of pictures."""

from __future__ import annotations

import errno
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import pandas as pd

from fer_lib.atomic import explained, readable
from fer_lib.datasets.manifest import BOX, content_id, safe_path, sample_id, tidy
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.params import SourceSpec

PICTURES = frozenset(".jpg .jpeg .png .bmp .webp .tif .tiff .gif .ppm .pgm".split())
SHOWN = 10  # how many bad records an error lists
Progress = Callable[[int], None]


@dataclass
class Draft:
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
        data = self.read(path, record)
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
        if self._again(record):
            return
        target = self._target(relative)
        with explained(target):
            target.write_bytes(data)
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
            shown = "".join(f"\n  {kind}: {where}" for kind, where in self.bad[:SHOWN])
            more = f"\n  and {len(self.bad) - SHOWN} more" if len(self.bad) > SHOWN else ""
            raise DataError(
                f"{self.name}: {len(self.bad)} bad records in {raw}, tolerance {self.spec.tolerance}:{shown}{more}\n"
                "repair them, or set tolerance to go on without them (they are counted in the report)"
            )
        if not self.rows:
            left_out = sum(sum(counts.values()) for counts in self.excluded.values())
            raise DataError(f"{self.name}: no picture of the seven classes under {raw} ({left_out} excluded)")
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
        return {
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
            **self.details,
        }

    def _labels(self) -> dict[str, set[int]]:
        have: dict[str, set[int]] = defaultdict(set)
        for row in self.rows:
            have[row["split"]].add(row["label"])
        return have

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
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                    raise
                self._linking = False  # another file system, or one without hard links: copies from here on
                self.notes.append("hard links are not possible between the raw data and the output: files were copied")
        target.write_bytes(data)


def walk(root: Path, draft: Draft) -> Iterator[tuple[str, str, list[Path]]]:
    """``<top>/<class>/*`` under ``root`` in name order: (top, class folder, its pictures).

    Anything that is no picture, or lies elsewhere in the tree, is counted in ``draft.ignored_files``.
    """
    tops, loose = entries(root)
    draft.ignored_files += len(loose)
    for top in tops:
        classes, loose = entries(top)
        draft.ignored_files += len(loose)
        stray = [path for path in loose if path.suffix.lower() in PICTURES]
        if stray:
            draft.warnings.append(f"{draft.name}: {len(stray)} pictures in {top} lie in no class folder: not imported")
        for folder in classes:
            nested, files = entries(folder)
            if nested:
                draft.warnings.append(f"{draft.name}: folders inside {folder} are not read: {nested[0].name}")
            pictures = [path for path in files if path.suffix.lower() in PICTURES]
            draft.ignored_files += len(files) - len(pictures)
            yield top.name, folder.name, pictures


def entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Sub-folders and files by name; hidden entries and the Mac's ``__MACOSX`` are no data."""
    with readable(folder), os.scandir(folder) as entries:
        found = sorted((e.name, e.is_dir()) for e in entries if not e.name.startswith(".") and e.name != "__MACOSX")
    return [folder / n for n, is_dir in found if is_dir], [folder / n for n, is_dir in found if not is_dir]


def relative_to(root: Path, path: Path) -> str:
    """``path`` under ``root`` with forward slashes."""
    return str(PurePosixPath(path.relative_to(root)))
