"""RAF-ML (Li & Deng 2019): a distribution over six emotions a picture, kept as its soft label."""

from __future__ import annotations

from pathlib import Path

from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.importers import register
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.lists import listed, numbers, plain
from fer_lib.importers.raf import Pictures, label_folder
from fer_lib.params import SourceSpec

ORDER = tuple(EMOTIONS.index(name) for name in ("Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry"))
FILES = ("distribution.txt", "partition_label.txt")
_FLAGS = {"0": "train", "1": "test"}
_WRONG = "wrong partition line"
_SLACK = 0.05  # six shares printed with two decimals sum to 1 within 0.03


@register("rafml_argmax")
def read(spec: SourceSpec, root: Path, draft: ImportBuilder) -> None:
    """``EmoLabel/distribution.txt`` (name, six shares) and ``EmoLabel/partition_label.txt`` (name, 1 = test).

    Each line of the first is a row or a problem; each of the second belongs to one of these, or is a problem.
    The label is the largest share, the first of equal ones; the shares, summing to 1, are the soft label (Neutral 0).
    """
    draft.layout = "rafml_argmax"
    folder = label_folder(root, FILES, (), draft)
    pictures = Pictures(folder)
    splits = _partition(folder / "EmoLabel" / FILES[1], draft)
    named: set[str] = set()
    for where, (name, *texts) in listed(folder / "EmoLabel" / FILES[0], 1 + len(ORDER), draft):
        named.add(name)
        shares = numbers(texts)
        if not plain(name, where, draft):
            continue
        if shares is None or min(shares) < 0 or abs(sum(shares) - 1) > _SLACK:
            draft.problem("no distribution", f"{where}: {' '.join(texts)} should be six shares that sum to 1")
        elif name not in splits:
            draft.problem("no partition", f"{where}: {name} has no line in {FILES[1]}")
        else:
            soft = [0.0] * NUM_CLASSES
            for i, share in zip(ORDER, shares, strict=True):
                soft[i] = share / sum(shares)
            label = ORDER[shares.index(max(shares))]
            pictures.add(name, draft, split=splits[name], label=label, soft_label=soft)
    for name in sorted(set(splits) - named):
        draft.problem("partition without a distribution", f"{name} stands in {FILES[1]} only")
    pictures.tell(draft)


def _partition(path: Path, draft: ImportBuilder) -> dict[str, str]:
    splits: dict[str, str] = {}
    for where, (name, flag) in listed(path, 2, draft, _WRONG):
        if flag not in _FLAGS:
            draft.problem(_WRONG, f"{where}: {flag!r} is neither 0 (train) nor 1 (test)")
        elif name in splits:
            draft.problem(_WRONG, f"{where}: {name} stands there twice")
        else:
            splits[name] = _FLAGS[flag]
    return splits
