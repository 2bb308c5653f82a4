"""What a raw layout is declared with, and the builder that takes its rows, images, bad records and exclusions."""

from __future__ import annotations

import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from fer_lib.datasets.import_folder import utf8_text
from fer_lib.datasets.manifest import BOX, content_id, safe_path, sample_id, tidy
from fer_lib.emotions import EMOTIONS, class_id
from fer_lib.errors import DataError
from fer_lib.faces.contract import MAX_BOX_OVER_PICTURE
from fer_lib.faces.decode import FORMATS, open_file
from fer_lib.params import SourceSpec
from fer_lib.storage.atomic import explained
from fer_lib.storage.progress import Step

MAX_LISTED = 10  # bad records in an error message
NOT_ASKED = "not asked for"  # in the report: rows of the splits that ``spec.splits`` leaves out
Box = tuple[float, float, float, float]  # top, left, bottom, right in pixels
_EXIF_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)


class Source(NamedTuple):
    """The declaration of a source: ``read`` adds its rows to a builder.

    ``options``: the fields of :class:`SourceSpec` that it reads besides source, root, name, mode and tolerance.
    """

    read: Callable[[ImportBuilder], None]
    options: Iterable[str] = ()


class BadRecord(DataError):
    """A record that cannot be used: ``kind`` is its key in the report's ``bad_records``."""

    def __init__(self, kind: str, reason: str):
        super().__init__(f"{kind}: {reason}")
        self.kind, self.reason = kind, reason


def leaves_photo(box: Box, size: tuple[int, int]) -> bool:
    """Whether ``box`` leaves a photo of ``size`` (height, width) on a side; the face contract then repeats its edge.

    BadRecord unless the box covers a part of the photo.
    """
    (top, left, bottom, right), (height, width) = box, size
    text = f"top {top:g}, left {left:g}, bottom {bottom:g}, right {right:g} in a {width} x {height} photo"
    if bottom <= top or right <= left:
        raise BadRecord("empty box", text)
    if bottom <= 0 or right <= 0 or top >= height or left >= width:
        raise BadRecord("box outside the photo", text)
    if max(bottom - top, right - left) > MAX_BOX_OVER_PICTURE * max(size):
        raise BadRecord("box far larger than the photo", text)
    return top < 0 or left < 0 or bottom > height or right > width


@dataclass(kw_only=True)
class RecordCounts:
    """What an import leaves out: ``bad`` records as (kind, where and why), and ``excluded``: split -> name -> rows."""

    bad: list[tuple[str, str]] = field(default_factory=list)
    excluded: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))

    @contextmanager
    def record(self, where: str = "") -> Iterator[None]:
        """Count a :class:`BadRecord` of the block as a bad record at ``where`` and go on after the block."""
        try:
            yield
        except BadRecord as error:
            self.add_bad(error.kind, f"{where}: {error.reason}" if where else error.reason)

    def add_bad(self, kind: str, where: str) -> None:
        """Count a bad record; with more of them than the tolerance the import fails."""
        self.bad.append((kind, where))

    def bad_list(self) -> str:
        """The first bad records, a line each."""
        lines = "".join(f"\n  {kind}: {utf8_text(where)}" for kind, where in self.bad[:MAX_LISTED])
        return lines + (f"\n  and {len(self.bad) - MAX_LISTED} more" if len(self.bad) > MAX_LISTED else "")

    def check_bad(self, source: str, tolerance: int) -> None:
        """Raise :class:`DataError` for more bad records than ``tolerance``."""
        if len(self.bad) > tolerance:
            raise DataError(
                f"{source}: {len(self.bad)} bad records, tolerance {tolerance}:{self.bad_list()}\n"
                "repair them, or set tolerance to go on without them (the report counts them)"
            )


@dataclass
class ImportBuilder(RecordCounts):
    """One import while it runs: rows and images, and a count of everything that is left out.

    ``folder`` is the temporary folder that becomes ``<out>/<place>``; images go to ``folder/images``.
    """

    spec: SourceSpec
    name: str
    root: Path
    folder: Path
    counter: Step | None = None  # counts rows
    limit: int = 0  # rows per class and split, the first in the raw data's order; 0: all
    place: str = ""  # by default the name
    other_parts: Collection[str] = ()  # sample ids of the source's earlier parts
    layout: str = ""  # by default the source's name
    rows: list[dict] = field(default_factory=list)
    skipped: int = 0  # rows beyond the limit
    ignored_files: int = 0
    boxes_outside: int = 0
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)  # keys of the report that only one layout has
    _stored: set[Path] = field(default_factory=set)
    _records: set[str] = field(default_factory=set)
    _last_image: tuple[Path, bytes] | None = None
    _counts: Counter = field(default_factory=Counter)  # rows by (split, class id)

    def exclude(self, split: str, name: str, count: int = 1) -> None:
        """Count rows of ``split`` that are left out under ``name``: the dataset's class, or a reason."""
        self.excluded[split][name if self.asked_for(split) else NOT_ASKED] += count

    def asked_for(self, split: str) -> bool:
        """Whether rows of ``split`` are imported; ``all`` is what lies in no split."""
        return not self.spec.splits or split in self.spec.splits or split == "all"

    def wanted(self, split: str, label: int | str) -> int | None:
        """The class id of a row that is imported; None for another split or class or beyond the limit, and counted.

        ``label``: a class id, or a name; rows of no class are excluded under it.  A source asks before it reads pixels.
        """
        number = class_id(label) if isinstance(label, str) else label
        if number is None or not self.asked_for(split):
            self.exclude(split, str(label))
            return None
        if 0 < self.limit <= self._counts[split, number]:
            self.skipped += 1
            return None
        return number

    def image_bytes(self, path: Path) -> bytes:
        """The bytes of an image file; BadRecord when it is missing or unreadable.

        The last file is cached, so the faces of one photo read it once.
        """
        if self._last_image is None or self._last_image[0] != path:
            try:
                with open_file(path) as file:
                    self._last_image = path, file.read()
            except FileNotFoundError:
                raise BadRecord("missing image", str(path)) from None
            except OSError as error:
                raise BadRecord("unreadable image", f"{path}: {error.strerror}") from error
        return self._last_image[1]

    def photo_size(self, path: Path) -> tuple[int, int]:
        """(height, width) of the decoded image, from its header; BadRecord when the header cannot be read."""
        data = self.image_bytes(path)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                sideways = image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
        except Exception as error:  # Pillow's readers raise almost anything on a damaged file
            raise BadRecord("unreadable image", f"{path} has no readable header ({error})") from error
        return (width, height) if sideways else (height, width)

    def add_image(
        self,
        image: Path | bytes,
        relative: str = "",
        *,
        split: str,
        label: int | str,
        box: Box | None = None,
        content: str = "",
        **columns: Any,
    ) -> None:
        """Add a row, if it is :meth:`wanted`, of an image file or of an encoded image with the content id ``content``.

        A file is linked or copied, an encoded image is written, to ``images/<relative>``, by default the file's path
        below the root.  ``columns``: ``record``, the dataset's own name of the face, by default ``relative``, and other
        columns of the manifest.  A photo with several faces is added once per face, with the same ``relative`` and its
        ``box``, which is checked and enters the content id.  Raises BadRecord.
        """
        if (label := self.wanted(split, label)) is None:
            return
        origin, data = (image, self.image_bytes(image)) if isinstance(image, Path) else (None, image)
        if box is not None:
            self.boxes_outside += leaves_photo(box, self.photo_size(image))
            columns |= zip(BOX, map(float, box), strict=True)
        relative = relative or image.relative_to(self.root).as_posix()
        content, record = content or content_id(data, box), columns.setdefault("record", relative)
        if utf8_text(record + relative) != record + relative:
            raise BadRecord("file name is no UTF-8 text", record)
        if record in self._records:
            raise BadRecord("record stands there twice", record)
        if (row_id := sample_id(self.name, record, content)) in self.other_parts:
            raise BadRecord("row is in an earlier part of the source", record)
        self._records.add(record)
        self._store(data, relative, origin)
        row = {
            "sample_id": row_id,
            "content_id": content,
            "source": self.name,
            "image_path": f"{self.place or self.name}/images/{relative}",
            "label": label,
            "split": split,
            "val_role": "",
        }
        self.rows.append(row | columns)
        self._counts[split, label] += 1
        if self.counter is not None:
            self.counter.update(len(self.rows))

    def add_text(self, relative: str, text: str) -> None:
        """Write a text file, which belongs to no row, to ``images/<relative>``."""
        self._store(text.encode(), relative)

    def check(self) -> None:
        """Raise :class:`DataError` for more bad records than ``spec.tolerance``, and when there is no row."""
        self.check_bad(f"{self.name} in {self.root}", self.spec.tolerance)
        if not self.rows:
            names = sum(self.excluded.values(), Counter())
            counts = [f"{names.total()} excluded, {self.ignored_files} other files"]
            counts += [f"{n} {name}" for name, n in names.most_common(MAX_LISTED)]
            warnings = "".join(f"\n  {warning}" for warning in self.warnings[:MAX_LISTED])
            raise DataError(
                f"{self.name}: no image of the seven classes under {self.root} ({'; '.join(counts)})"
                f"{self.bad_list()}{warnings}\n"
                f"check that root is the folder that source {self.spec.source} reads, the names of its classes, and "
                "splits"
            )
        if self.skipped:
            self.warnings.append(f"{self.name}: smoke: {len(self.rows)} of {len(self.rows) + self.skipped} rows")
        for split, counts in self.class_counts().items():
            if absent := [name for name, n in counts.items() if n == 0]:
                self.warnings.append(f"{self.name}: split {split} has no {', '.join(absent)}")

    def frame(self) -> pd.DataFrame:
        """The rows, sorted by record: equal raw data gives equal rows, in whatever order the disk lists its files."""
        return tidy(pd.DataFrame(self.rows).sort_values("record", kind="stable"), self.name)

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Rows by split and class name."""
        splits = sorted({split for split, _ in self._counts})
        return {split: {name: self._counts[split, i] for i, name in enumerate(EMOTIONS)} for split in splits}

    def _store(self, data: bytes, relative: str, origin: Path | None = None) -> None:
        """Write ``data`` to ``images/<relative>`` once, as a link to ``origin`` where that is wanted and possible."""
        target = self.folder / "images" / safe_path(relative, self.name)
        if origin and target in self._stored:
            return
        with explained(target):
            if target.parent not in self._stored:
                target.parent.mkdir(parents=True, exist_ok=True)
            self._stored |= {target, target.parent}
            if not (origin and self.spec.mode == "link" and self._link(origin, target)):
                self._write(data, target)

    def _link(self, origin: Path, target: Path) -> bool:
        try:
            os.link(origin.resolve() if origin.is_symlink() else origin, target)  # link(2) does not follow links
        except FileExistsError:
            raise
        except OSError as error:  # another file system, one without hard links, a full or forbidding one
            note = f"some files could not be linked to the raw data ({error.strerror}) and were copied"
            self.notes += [note] if note not in self.notes else []
            return False
        return True

    @staticmethod
    def _write(data: bytes, target: Path) -> None:
        with open(target, "xb") as file:
            file.write(data)
