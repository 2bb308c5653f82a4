"""Checks of a manifest: every image decoded, every box compared with its photo, contents compared over splits."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from fer_lib.datasets.build import SHOWN, check_images, check_report, row_report
from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import EMOTIONS

PROBLEMS = {
    "missing": "images that are not on the disk",
    "undecodable": "images that can't be decoded",
    "boxes_outside": "boxes that extend beyond their photo",
    "boxes_beyond": "boxes without a pixel of their photo",
    "across_splits": "contents that stand in more than one split",
    "conflicting_labels": "contents with more than one label",
}
"""The kinds of findings, by the name that allows them."""
HARMLESS = frozenset({"boxes_outside"})
"""Kinds that are counted but not wrong: the face contract repeats the photo's edge, and imports accept such boxes."""


@dataclass(frozen=True)
class Finding:
    """``count`` of ``kind`` (a key of PROBLEMS), and the first few of them."""

    kind: str
    count: int
    examples: tuple[str, ...]


def validate(manifest: Manifest) -> tuple[dict, list[Finding]]:
    """A report with the keys of ``manifest_validation.json``, and one finding per kind of problem that occurs.

    :meth:`Manifest.read` has checked ids, labels, splits and paths.
    """
    frame = manifest.frame
    checked = check_images(frame, manifest.root)
    missing, paths = checked["missing"], frame["image_path"]
    report = {
        "manifest": str(manifest.path) if manifest.path else None,
        "root": str(manifest.root),
        "manifest_sha256": manifest.sha256,
        "bad_labels": manifest.meta.get("bad_labels"),  # left out by the import; null when unknown
        **check_report(frame, checked),
        **row_report(frame),
    }
    texts = {
        "missing": paths[missing],
        "undecodable": checked["problem"][(checked["problem"] != "") & ~missing],
        "boxes_outside": paths[checked["outside"]],
        "boxes_beyond": paths[checked["beyond"]],
    }
    findings = [Finding(kind, len(rows), tuple(rows.head(SHOWN))) for kind, rows in texts.items()]
    for kind, column in (("across_splits", "split"), ("conflicting_labels", "label")):
        values = frame.groupby("content_id")[column].nunique()
        contents = values.index[values > 1]
        examples = (_example(frame[frame["content_id"] == content], column) for content in contents[:SHOWN])
        findings.append(Finding(kind, len(contents), tuple(examples)))
    return report, [finding for finding in findings if finding.count]


def _example(rows: pd.DataFrame, column: str) -> str:
    """The first two rows of a content that differ in a column."""
    rows = rows.drop_duplicates(column).head(2)
    return " = ".join(f"{row.image_path} ({row.split}, {EMOTIONS[row.label]})" for row in rows.itertuples())
