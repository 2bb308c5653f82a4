"""Is a manifest what it says?  Every picture decoded, every box laid on its photo, contents compared over splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fer_lib.datasets.build import SHOWN, check_pictures, duplicates, nested_counts
from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import EMOTIONS

PROBLEMS = {
    "missing": "pictures that are not on the disk",
    "undecodable": "pictures that can't be decoded",
    "boxes_outside": "boxes that leave their photo on a side",
    "boxes_beyond": "boxes without a pixel of their photo",
    "across_splits": "contents that stand in more than one split",
    "conflicting_labels": "contents with more than one label",
}
"""What is looked for in a manifest, by the name under which it may be allowed."""
NOTED = frozenset({"boxes_outside"})
"""What is counted but not wrong: the face contract repeats the photo's edge there, and imports keep such boxes too."""


@dataclass(frozen=True)
class Finding:
    """``count`` of ``kind`` (a key of PROBLEMS), and the first few of them."""

    kind: str
    count: int
    examples: tuple[str, ...]


def validate(manifest: Manifest, progress: Callable[[int, int], None] | None = None) -> tuple[dict, list[Finding]]:
    """The report with the keys of ``manifest_validation.json``, and a finding for each problem that there is.

    Ids, labels, splits and paths were checked when the manifest was read.  ``progress(done, total)`` counts pictures.
    """
    frame = manifest.frame
    checked = check_pictures(frame, manifest.root, progress)
    failed, missing = checked["problem"] != "", checked["missing"]
    undecodable, paths = failed & ~missing, frame["image_path"]
    groups = frame.groupby("content_id")[["split", "label"]].nunique()
    report = {
        "manifest": str(manifest.path) if manifest.path else None,
        "root": str(manifest.root),
        "manifest_sha256": manifest.sha256,
        "rows_total": len(frame),
        "rows_valid": int((~failed).sum()),
        "bad_labels": manifest.meta.get("bad_labels"),  # left out by the import; null where that is not known
        "missing_paths": int(missing.sum()),
        "decode": {
            "attempted": int(paths[~missing].nunique()),
            "ok": int(paths[~failed].nunique()),
            "fail": int(paths[undecodable].nunique()),
        },
        "boxes_outside": int(checked["outside"].sum()),
        "duplicates": duplicates(frame),
        "counts": {
            "by_source": {s: int(n) for s, n in frame["source"].value_counts().sort_index().items()},
            "by_source_split_label": nested_counts(frame),
        },
        "canonical": list(EMOTIONS),
    }
    found = [
        _rows("missing", paths[missing]),
        _rows("undecodable", checked["problem"][undecodable]),
        _rows("boxes_outside", paths[checked["outside"]]),
        _rows("boxes_beyond", paths[checked["beyond"]]),
        _contents("across_splits", frame, groups.index[groups["split"] > 1]),
        _contents("conflicting_labels", frame, groups.index[groups["label"] > 1]),
    ]
    return report, [finding for finding in found if finding.count]


def _rows(kind: str, texts) -> Finding:
    return Finding(kind, len(texts), tuple(texts.head(SHOWN)))


def _contents(kind: str, frame, contents) -> Finding:
    """One example a content: its first two rows that differ in what the finding is about."""
    column = "split" if kind == "across_splits" else "label"
    shown = []
    for content in contents[:SHOWN]:
        rows = frame[frame["content_id"] == content].drop_duplicates(column)
        said = (f"{row.image_path} ({row.split}, {EMOTIONS[row.label]})" for row in rows.head(2).itertuples())
        shown.append(" = ".join(said))
    return Finding(kind, len(contents), tuple(shown))
