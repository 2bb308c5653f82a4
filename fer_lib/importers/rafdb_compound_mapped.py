"""RAF-DB, compound set (Li, Deng & Du 2017): eleven pairs of emotions, each mapped onto the one that leads it."""

from __future__ import annotations

from pathlib import Path

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.importers import register
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.raf import LABELS, highest_label, import_rafdb, label_folder
from fer_lib.params import SourceSpec

# the eleven compounds in the list's order: happily, sadly, fearfully, angrily ..., disgustedly surprised
LEADING = ("Happy",) * 2 + ("Sad",) * 4 + ("Fear",) * 2 + ("Angry",) * 2 + ("Disgust",)


@register("rafdb_compound_mapped")
def read(spec: SourceSpec, root: Path, draft: ImportBuilder) -> None:
    """The basic set's layout with labels 1..11: 1, 2 Happy; 3-6 Sad; 7, 8 Fear; 9, 10 Angry; 11 Disgust.

    A list without any label above 7 is the basic set's and refused: its numbers mean something else.
    """
    draft.layout = "rafdb_compound_mapped"
    folder = label_folder(root, (LABELS,), ("compound", "basic"), draft)
    highest = highest_label(folder)
    if 0 < highest <= 7:
        raise DataError(
            f"{draft.name}: {folder / 'EmoLabel' / LABELS} has labels up to {highest}: that is RAF-DB's basic set, "
            "whose list has the same file name; import it as source rafdb_basic, or give the compound set's root"
        )
    import_rafdb(folder, lambda number: EMOTIONS.index(LEADING[number - 1]), len(LEADING), draft)
