"""RAF-DB, compound set (Li, Deng & Du 2017): each of eleven pairs of emotions becomes the leading one.

The layout is the basic set's.  A list without a label above 7 is the basic set's and refused.
"""

from fer_lib.errors import DataError
from fer_lib.importers.builder import ImportBuilder, Source
from fer_lib.importers.raf import LABEL_LIST, highest_label, label_folder, read_rafdb

# labels 1..11: happily, sadly, fearfully, angrily ..., disgustedly surprised
CLASSES = ("Happy",) * 2 + ("Sad",) * 4 + ("Fear",) * 2 + ("Angry",) * 2 + ("Disgust",)


def read(builder: ImportBuilder) -> None:
    folder = label_folder(builder, (LABEL_LIST,), ("compound", "basic"))
    highest = highest_label(folder)
    if 0 < highest <= 7:
        raise DataError(
            f"{builder.name}: {folder / 'EmoLabel' / LABEL_LIST} has labels up to {highest}: that is RAF-DB's basic "
            "set, whose list has the same file name; import it as source rafdb_basic, or give the compound set's root"
        )
    read_rafdb(builder, folder, CLASSES)


SOURCE = Source(read)
