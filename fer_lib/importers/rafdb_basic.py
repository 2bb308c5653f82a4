"""RAF-DB, basic set (Li, Deng & Du 2017): one of seven emotions a picture."""

from __future__ import annotations

from pathlib import Path

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.importers import register
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.raf import LABELS, highest_label, import_rafdb, label_folder
from fer_lib.params import SourceSpec

NUMBERED = ("Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry", "Neutral")  # RAF-DB's 1..7


@register("rafdb_basic")
def read(spec: SourceSpec, root: Path, draft: ImportBuilder) -> None:
    """``EmoLabel/list_patition_label.txt``, lines ``train_00001.jpg 5``; the aligned picture, else the original.

    Gender, race and age of ``Annotation/manual/<stem>_manu_attri.txt`` become ``group_`` columns where that is there.
    RAF-DB's compound set ships a list of the very same name with labels up to 11: it is refused by name.
    """
    draft.layout = "rafdb_basic"
    folder = label_folder(root, (LABELS,), ("basic", "compound"), draft)
    highest = highest_label(folder)
    if highest > len(NUMBERED):
        raise DataError(
            f"{draft.name}: {folder / 'EmoLabel' / LABELS} has labels up to {highest}: that is RAF-DB's compound set, "
            "whose list has the same file name; import it as source rafdb_compound_mapped, or give the basic set's root"
        )
    import_rafdb(folder, lambda number: EMOTIONS.index(NUMBERED[number - 1]), len(NUMBERED), draft)
