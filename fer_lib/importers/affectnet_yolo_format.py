"""AffectNet as exported for YOLO: ``data.yaml`` and ``{train,valid,test}/{images,labels}``, one box a line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from fer_lib.datasets.manifest import SPLITS, content_id
from fer_lib.emotions import EMOTIONS, NUM_CLASSES, class_id
from fer_lib.errors import DataError
from fer_lib.importers import register
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.image_files import buried, entries, files_below, pictures_of, relative_to, stray
from fer_lib.importers.lists import listed, numbers, whole, words_of
from fer_lib.importers.photos import Box, photo_size, sides, usable
from fer_lib.importers.tree import SPLIT_NAMES
from fer_lib.params import SourceSpec
from fer_lib.params.strict import parse
from fer_lib.storage.atomic import explained, readable


@dataclass
class _Picture:
    """One picture of a split, its label lines as written, what is left of them, and the picture's own content id."""

    path: Path
    relative: str
    split: str
    lines: list[tuple[str, list[str]]]
    kept: list[str]
    content: str = ""


@register("affectnet_yolo_format")
def read(spec: SourceSpec, root: Path, draft: ImportBuilder) -> None:
    """A row for each line of one of the seven classes; other lines are dropped, counted under their class.

    ``label_lines_kept`` and ``label_lines_dropped`` of the report are together all lines of all label files.

    Boxes are rounded to whole pixels.  A box that then is the whole picture makes the row a face that is cropped
    already.  ``images/`` of the import is itself a YOLO dataset of the seven classes: the pictures that keep a line,
    label files with our class ids, and a ``data.yaml`` with their names.
    """
    draft.layout = "affectnet_yolo_format"
    home = _home(root, draft)
    old = _names(home / "data.yaml")
    new = [class_id(name) for name in old]
    contents: dict[str, dict[str, str]] = defaultdict(dict)
    kept = 0
    for picture in _pictures(home, draft):
        if not picture.lines:
            draft.exclude(picture.split, "no label line")
        _add(picture, old, new, draft)
        kept += len(picture.kept)
        if picture.kept:
            contents[picture.path.stem][picture.split] = picture.content
            _write_text(draft, picture, "\n".join(picture.kept) + "\n")
    if draft.rows:
        _write_yaml(draft)
    ambiguous = sum(len(set(by_split.values())) > 1 for by_split in contents.values())
    if ambiguous:
        draft.notes.append(f"{ambiguous} file stems stand for different pictures in different splits")
    draft.details = {
        "old_names": old,
        "new_names": list(EMOTIONS),
        "mapping": {name: None if i is None else EMOTIONS[i] for name, i in zip(old, new, strict=True)},
        "label_lines_kept": kept,
        "label_lines_dropped": _lines_under(home) - kept,
        "ambiguous_stems": ambiguous,
    }


def _home(root: Path, draft: ImportBuilder) -> Path:
    """The folder that holds ``data.yaml``: ``root`` or one folder in it."""
    if not root.is_dir():
        raise DataError(f"{draft.name}: {root} is a file; this layout wants the folder that holds data.yaml")
    found = [folder for folder in (root, *entries(root)[0]) if (folder / "data.yaml").is_file()]
    if not found or (len(found) > 1 and found[0] != root):
        raise DataError(f"{draft.name}: {len(found)} data.yaml in {root} and its folders: name the folder that has it")
    return found[0]


def _names(path: Path) -> list[str]:
    """Class names in the order of their ids; ``names`` may be a list or a mapping {id: name}."""
    try:
        with readable(path):
            content = parse(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no readable YAML ({error}): repair it") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: names must be a list, or a mapping from 0, 1, ... to names, got {str(names)[:200]}")
    if content.get("nc", len(names)) != len(names):
        raise DataError(f"{path}: nc is {content['nc']!r} but there are {len(names)} names; repair one of them")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: a class name stands there twice: {', '.join(names)}")
    return names


def _pictures(home: Path, draft: ImportBuilder) -> Iterator[_Picture]:
    """Every picture with its label file, split by split; what has no partner is a problem of the draft."""
    tops, files = entries(home)
    stray([path for path in files if path.name != "data.yaml"], "all", f"loose in {home.name}", draft)
    for top in tops:
        split = SPLIT_NAMES.get(top.name.lower())
        if split is None or not (top / "images").is_dir():
            buried(top, "all", draft, "no split with an images folder")
            continue
        for folder in (folder for folder in entries(top)[0] if folder.name not in ("images", "labels")):
            buried(folder, split, draft, "neither images nor labels")
        stray(entries(top)[1], split, "beside images/", draft)
        labels = {path.stem: path for path in _label_files(top / "labels", draft)}
        seen: set[str] = set()
        for path in pictures_of(top / "images", split, draft):
            if path.stem in seen:
                draft.problem("two pictures of one stem", f"{path}: which of them is {path.stem}.txt about?")
            elif path.stem not in labels:
                draft.problem("missing label file", str(path))
            else:
                lines = list(listed(labels[path.stem], 5, draft))
                yield _Picture(path, relative_to(home, path), split, lines, [])
            seen.add(path.stem)
        for stem in sorted(set(labels) - seen):
            draft.missing_images += 1
            draft.problem("missing image", f"{labels[stem]} has no picture in {top / 'images'}")


def _label_files(folder: Path, draft: ImportBuilder) -> list[Path]:
    files = entries(folder)[1] if folder.is_dir() else []
    labels = [path for path in files if _is_label(path)]
    draft.ignored_files += len(files) - len(labels)
    return labels


def _is_label(path: Path) -> bool:
    return path.suffix == ".txt" and path.name != "classes.txt"


def _lines_under(home: Path) -> int:
    """The lines of all label files, also of those in folders that are not read, but for blank ones."""
    folders = (top / "labels" for top in entries(home)[0] if (top / "labels").is_dir())
    files = (path for folder in folders for path in files_below(folder) if _is_label(path))
    return sum(1 for path in files for _ in words_of(path))


def _add(picture: _Picture, old: list[str], new: list[int | None], draft: ImportBuilder) -> None:
    for where, (cls, *texts) in picture.lines:
        number, shares = whole(cls, range(len(old))), numbers(texts)
        if number is None:
            draft.problem("class id out of range", f"{where}: {cls!r} is not 0..{len(old) - 1}")
            continue
        label = new[number]
        if label is None:
            draft.exclude(picture.split, old[number])
            continue
        if shares is None:
            draft.problem("wrong box", f"{where}: {' '.join(texts)!r} are not four numbers")
            continue
        data = draft.read(picture.path, where)
        size = photo_size(data, where, draft) if data is not None else None
        box = _pixels(shares, size) if size else None
        if box and usable(box, size, where, draft) and _add_face(picture, box, size, label, draft):
            picture.kept.append(" ".join((str(label), *texts)))
            picture.content = content_id(data)


def _add_face(picture: _Picture, box: Box, size: tuple[int, int], label: int, draft: ImportBuilder) -> bool:
    columns = {"split": picture.split, "label": label}
    if box == (0, 0, *size):
        return draft.add_file(picture.path, picture.relative, record=picture.relative, **columns)
    # lines have no number of their own: the box tells the faces of a picture apart, in whatever order they stand
    record = f"{picture.relative}#" + ",".join(f"{side:g}" for side in box)
    columns |= sides(box) | {"orig_image": picture.relative}
    return draft.add_file(picture.path, picture.relative, record=record, **columns)


def _pixels(shares: list[float], size: tuple[int, int]) -> Box:
    """Centre and extent as shares of the picture -> top, left, bottom, right in whole pixels."""
    (x, y, w, h), (height, width) = shares, size
    edges = ((y - h / 2) * height, (x - w / 2) * width, (y + h / 2) * height, (x + w / 2) * width)
    return tuple(float(round(edge)) for edge in edges)


def _write_text(draft: ImportBuilder, picture: _Picture, text: str) -> None:
    relative = Path(picture.relative)
    target = draft.folder / "images" / relative.parent.parent / "labels" / f"{relative.stem}.txt"
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def _write_yaml(draft: ImportBuilder) -> None:
    folders: dict[str, list[str]] = {}
    for split, folder in sorted({(row["split"], row["image_path"].split("/")[2]) for row in draft.rows}):
        folders.setdefault(split, []).append(f"{folder}/images")
    content = {split: folders[split] for split in SPLITS if split in folders}
    content |= {"nc": NUM_CLASSES, "names": list(EMOTIONS)}
    target = draft.folder / "images" / "data.yaml"
    with explained(target):
        target.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
