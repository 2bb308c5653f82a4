"""RAF-DB (Li, Deng & Du 2017): the basic set's seven emotions, and the compound set's eleven pairs of emotions.

``EmoLabel/list_patition_label.txt`` has lines ``train_00001.jpg 5``.  A compound becomes its leading emotion.  Gender,
race and age in ``Annotation/manual`` become ``group_`` columns.  Both sets name their list alike, so the labels tell
them apart and each source refuses the other's list.
"""

import re
from functools import partial

from fer_lib.errors import DataError
from fer_lib.importers.builder import BadRecord, ImportBuilder, Source
from fer_lib.importers.image_files import find_folder
from fer_lib.importers.raf_files import add_listed, note_attributes, note_originals, read_attributes
from fer_lib.importers.text_files import file_name, whole_number, word_lines

LABEL_LIST = "EmoLabel/list_patition_label.txt"  # as RAF-DB spells it
BASIC = ("Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry", "Neutral")  # labels 1..7
# labels 1..11: happily, sadly, fearfully, angrily ..., disgustedly surprised
COMPOUND = ("Happy",) * 2 + ("Sad",) * 4 + ("Fear",) * 2 + ("Angry",) * 2 + ("Disgust",)


def read(builder: ImportBuilder, classes: tuple[str, ...], folders: tuple[str, ...], other: str) -> None:
    """Rows of a list whose labels count ``classes`` from 1; ``other`` is the source of the other set."""
    folder = find_folder(builder, (LABEL_LIST,), ("", *folders))
    path = folder / LABEL_LIST
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    highest = max(map(int, re.findall(r"\s([0-9]{1,2})\s*$", text, re.M)), default=0)
    if highest and (highest > len(BASIC)) != (classes == COMPOUND):
        raise DataError(
            f"{builder.name}: {path} has labels up to {highest}: that is RAF-DB's {folders[1]} set, whose list has the "
            f"same file name; import it as source {other}, or give the {folders[0]} set's root"
        )
    for where, (name, text) in word_lines(path, 2, builder):
        with builder.record(where):
            label = classes[whole_number(text, range(1, len(classes) + 1)) - 1]
            split = file_name(name).partition("_")[0]
            if split not in ("train", "test"):
                raise BadRecord("neither train_ nor test_ in the file name", repr(name))
            if builder.wanted(split, label) is not None:
                add_listed(name, folder, builder, split=split, label=label, **read_attributes(name, folder, builder))
    note_originals(builder)
    note_attributes(folder, builder)


def refuse_action_units(builder: ImportBuilder) -> None:
    raise DataError(
        f"{builder.name}: RAF-AU ({builder.root}, Yan et al. 2020) labels facial action units, not one of the seven "
        "expressions, and its authors give no rule that maps one to the other: it can't be imported. Leave it out; "
        "RAF-DB and RAF-ML are imported as rafdb_basic, rafdb_compound_mapped and rafml_argmax"
    )


DECLARATIONS = {
    "raf_au": Source(refuse_action_units),
    "rafdb_basic": Source(partial(read, classes=BASIC, folders=("basic", "compound"), other="rafdb_compound_mapped")),
    "rafdb_compound_mapped": Source(
        partial(read, classes=COMPOUND, folders=("compound", "basic"), other="rafdb_basic")
    ),
}
