"""RAF-DB, basic set (Li, Deng & Du 2017): one of seven emotions per image.

``EmoLabel/list_patition_label.txt`` has the lines ``train_00001.jpg 5``.  ``Annotation/manual`` gives gender, race and
age as ``group_`` columns where it exists.  The compound set has a list of the same name: it is refused.
"""

from fer_lib.errors import DataError
from fer_lib.importers.builder import ImportBuilder, Source
from fer_lib.importers.raf import LABEL_LIST, highest_label, label_folder, read_rafdb

CLASSES = ("Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry", "Neutral")  # labels 1..7


def read(builder: ImportBuilder) -> None:
    folder = label_folder(builder, (LABEL_LIST,), ("basic", "compound"))
    highest = highest_label(folder)
    if highest > len(CLASSES):
        raise DataError(
            f"{builder.name}: {folder / 'EmoLabel' / LABEL_LIST} has labels up to {highest}: that is RAF-DB's compound "
            "set, whose list has the same file name; import it as source rafdb_compound_mapped, or give the basic "
            "set's root"
        )
    read_rafdb(builder, folder, CLASSES)


SOURCE = Source(read)
