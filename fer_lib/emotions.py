"""The seven classes in their fixed order (index = class id) and the spellings in datasets."""

import re

EMOTIONS: tuple[str, ...] = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
NUM_CLASSES = len(EMOTIONS)

_SPELLINGS = {
    "Angry": ("angry", "anger", "ang"),
    "Disgust": ("disgust", "disgusted"),
    "Fear": ("fear", "fearful", "afraid"),
    "Happy": ("happy", "happiness", "joy"),
    "Sad": ("sad", "sadness"),
    "Surprise": ("surprise", "suprise", "surprised"),
    "Neutral": ("neutral",),
}
ALIASES: dict[str, int] = {s: EMOTIONS.index(name) for name, group in _SPELLINGS.items() for s in group}


def class_id(name: str) -> int | None:
    """Class id of a dataset's label; None when it is not one of the seven.

    The label is lower-cased and reduced to alphanumerics first, so ``" Happi-ness "`` is 3.
    """
    return ALIASES.get(re.sub(r"[^a-z0-9]", "", str(name).strip().lower()))
