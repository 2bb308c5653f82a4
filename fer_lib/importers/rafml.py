"""RAF-ML (Li & Deng 2019): a distribution over six emotions per image, which becomes its soft label.

``EmoLabel/distribution.txt`` has name and six shares, ``EmoLabel/partition_label.txt`` name and 0 (train) or 1 (test).
The label is the largest share, the first of equal ones; the soft label is the shares scaled to sum 1, Neutral 0.
"""

from pathlib import Path

from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.importers.builder import BadRecord, ImportBuilder, Source
from fer_lib.importers.image_files import find_folder
from fer_lib.importers.raf_files import add_listed, note_originals
from fer_lib.importers.text_files import file_name, numbers, word_lines

ORDER = tuple(EMOTIONS.index(name) for name in ("Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry"))
DISTRIBUTION, PARTITION = "EmoLabel/distribution.txt", "EmoLabel/partition_label.txt"
SPLITS = {"0": "train", "1": "test"}
TOLERANCE = 0.05  # six shares of two decimals sum to 1 within 0.03


def read(builder: ImportBuilder) -> None:
    folder = find_folder(builder, (DISTRIBUTION, PARTITION))
    splits = read_partition(folder / PARTITION, builder)
    names = set()
    for where, (name, *texts) in word_lines(folder / DISTRIBUTION, 1 + len(ORDER), builder):
        names.add(name)
        with builder.record(where):
            file_name(name)
            shares = numbers(texts, "no distribution")
            if min(shares) < 0 or abs(sum(shares) - 1) > TOLERANCE:
                raise BadRecord("no distribution", f"{' '.join(texts)} should be six shares that sum to 1")
            if name not in splits:
                raise BadRecord("no partition", f"{name} has no line in {PARTITION}")
            soft = [0.0] * NUM_CLASSES
            for i, share in zip(ORDER, shares, strict=True):
                soft[i] = share / sum(shares)
            label = ORDER[shares.index(max(shares))]
            add_listed(name, folder, builder, split=splits[name], label=label, soft_label=soft)
    for name in sorted(set(splits) - names):
        builder.add_bad("partition without a distribution", f"{name} is in {PARTITION} only")
    note_originals(builder)


def read_partition(path: Path, builder: ImportBuilder) -> dict[str, str]:
    """Name -> split."""
    splits, kind = {}, "wrong partition line"
    for where, (name, flag) in word_lines(path, 2, builder, kind):
        with builder.record(where):
            if flag not in SPLITS:
                raise BadRecord(kind, f"{flag!r} is neither 0 (train) nor 1 (test)")
            if name in splits:
                raise BadRecord(kind, f"{name} is listed twice")
            splits[name] = SPLITS[flag]
    return splits


DECLARATIONS = {"rafml_argmax": Source(read)}
