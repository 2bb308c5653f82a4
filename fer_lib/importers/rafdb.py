"""RAF-DB (Li, Deng & Du 2017): the basic set's seven emotions, and the compound set's eleven pairs of emotions.

``EmoLabel/list_patition_label.txt`` has lines ``train_00001.jpg 5``.  A compound becomes its leading emotion.  Gender,
race and age in ``Annotation/manual`` become ``group_`` columns.  Both sets name their list alike, so the labels tell
them apart and each source refuses the other's list.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.importers.builder import BadRecord, ImportBuilder, Source
from fer_lib.importers.text_files import file_name, whole_number, word_lines

LABEL_LIST = "list_patition_label.txt"  # as RAF-DB spells it
BASIC = ("Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry", "Neutral")  # labels 1..7
# labels 1..11: happily, sadly, fearfully, angrily ..., disgustedly surprised
COMPOUND = ("Happy",) * 2 + ("Sad",) * 4 + ("Fear",) * 2 + ("Angry",) * 2 + ("Disgust",)
_IMAGES = (  # the first that exists is the row's image
    "Image/aligned/aligned/{stem}_aligned.jpg",
    "Image/aligned/{stem}_aligned.jpg",
    "Image/original/original/{name}",
    "Image/original/{name}",
)
_MANUAL = ("Annotation/manual/manual", "Annotation/manual")
_ATTRIBUTES = {  # manifest column -> RAF-DB's 0, 1, ..., in the order of the attribute file's last three lines
    "group_gender": ("male", "female", "unsure"),
    "group_race": ("Caucasian", "African-American", "Asian"),
    "group_age": ("0-3", "4-19", "20-39", "40-69", "70+"),
}
_ATTRIBUTE_WORDS = [2] * 5 + [1] * len(_ATTRIBUTES)  # words per line: five landmarks, then the attributes


def add_image(name: str, folder: Path, builder: ImportBuilder, **columns) -> None:
    """Add a row with the record ``name``: its aligned image where that exists, else the original."""
    places = [place.format(stem=Path(name).stem, name=name) for place in _IMAGES]
    place = next((place for place in places if (folder / place).is_file()), places[-1])
    builder.add_file(folder / place, place, record=name, **columns)


def note_originals(builder: ImportBuilder) -> None:
    """Note how many rows are not of an aligned image."""
    if originals := sum("/images/Image/original/" in row["image_path"] for row in builder.rows):
        builder.notes.append(f"{originals} images exist as originals only, not aligned")


def label_folder(builder: ImportBuilder, files: tuple[str, ...], names: tuple[str, ...] = ()) -> Path:
    """The RAF folder, the root or the first of its folders ``names``, whose ``EmoLabel`` holds ``files``."""
    root = builder.root
    for folder in (root, *(root / name for name in names)):
        if all((folder / "EmoLabel" / name).is_file() for name in files):
            return folder
    raise DataError(f"{builder.name}: {root} has no {' and '.join(f'EmoLabel/{name}' for name in files)}: check root")


def read(builder: ImportBuilder, classes: tuple[str, ...], folders: tuple[str, ...], other: str) -> None:
    """Rows of a list whose labels count ``classes`` from 1; ``other`` is the source of the other set."""
    folder = label_folder(builder, (LABEL_LIST,), folders)
    path = folder / "EmoLabel" / LABEL_LIST
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    highest = max(map(int, re.findall(r"\s([0-9]{1,2})\s*$", text, re.M)), default=0)
    is_other_set = highest > len(BASIC) if classes == BASIC else 0 < highest <= len(BASIC)
    if is_other_set:
        raise DataError(
            f"{builder.name}: {path} has labels up to {highest}: that is RAF-DB's "
            f"{folders[1]} set, whose list has the same file name; import it as source {other}, or give the "
            f"{folders[0]} set's root"
        )
    manual = next((folder / name for name in _MANUAL if (folder / name).is_dir()), None)
    for where, (name, text) in word_lines(path, 2, builder):
        with builder.record(where):
            label = EMOTIONS.index(classes[whole_number(text, range(1, len(classes) + 1)) - 1])
            split = file_name(name).partition("_")[0]
            if split not in ("train", "test"):
                raise BadRecord("neither train_ nor test_ in the file name", repr(name))
            if not builder.skip(split, label):
                add_image(name, folder, builder, split=split, label=label, **read_attributes(manual, name, builder))
    note_originals(builder)
    if manual:
        count = sum(row.keys() >= _ATTRIBUTES.keys() for row in builder.rows)
        missing = len(builder.rows) - count
        builder.details["attributes"] = {"rows": count, "rows_without": missing}
        if missing:
            builder.notes.append(f"{missing} images have no gender, race and age in Annotation/manual")


def read_attributes(folder: Path | None, name: str, builder: ImportBuilder) -> dict[str, str]:
    """Column -> gender, race or age from ``<stem>_manu_attri.txt``; {} without the file, and for a bad record."""
    path = folder and folder / f"{Path(name).stem}_manu_attri.txt"
    if path is None or not path.is_file():
        return {}
    with builder.record(str(path)):
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = [words for words in map(str.split, text.splitlines()) if words]
        if [len(words) for words in lines] != _ATTRIBUTE_WORDS:
            raise BadRecord("wrong attributes", "not five landmarks, then gender 0-2, race 0-2 and age 0-4")
        codes = zip(_ATTRIBUTES.items(), lines[-len(_ATTRIBUTES) :], strict=True)
        return {
            column: values[whole_number(code, range(len(values)), "wrong attributes")]
            for (column, values), (code,) in codes
        }
    return {}


def refuse_action_units(builder: ImportBuilder) -> None:
    raise DataError(
        f"{builder.name}: RAF-AU ({builder.root}, Yan et al. 2020) labels facial action units, not one of the seven "
        "expressions, and its authors give no rule that maps one to the other: it can't be imported. Leave it out; "
        "RAF-DB and RAF-ML are imported as rafdb_basic, rafdb_compound_mapped and rafml_argmax"
    )


_read_basic = partial(read, classes=BASIC, folders=("basic", "compound"), other="rafdb_compound_mapped")
_read_compound = partial(read, classes=COMPOUND, folders=("compound", "basic"), other="rafdb_basic")
DECLARATIONS = {
    "raf_au": Source(refuse_action_units),
    "rafdb_basic": Source(_read_basic),
    "rafdb_compound_mapped": Source(_read_compound),
}
