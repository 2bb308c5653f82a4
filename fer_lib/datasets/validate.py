"""Checks of a manifest: every image decoded, every box compared with its photo, contents compared over splits."""

from __future__ import annotations

from dataclasses import dataclass

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
    groups = frame.groupby("content_id")[["split", "label"]].nunique()
    report = {
        "manifest": str(manifest.path) if manifest.path else None,
        "root": str(manifest.root),
        "manifest_sha256": manifest.sha256,
        "bad_labels": manifest.meta.get("bad_labels"),  # left out by the import; null when unknown
        **check_report(frame, checked),
        **row_report(frame),
    }
    findings = [
        _row_finding("missing", paths[missing]),
        _row_finding("undecodable", checked["problem"][(checked["problem"] != "") & ~missing]),
        _row_finding("boxes_outside", paths[checked["outside"]]),
        _row_finding("boxes_beyond", paths[checked["beyond"]]),
        _content_finding("across_splits", frame, groups.index[groups["split"] > 1]),
        _content_finding("conflicting_labels", frame, groups.index[groups["label"] > 1]),
    ]
    return report, [finding for finding in findings if finding.count]


def _row_finding(kind: str, texts) -> Finding:
    return Finding(kind, len(texts), tuple(texts.head(SHOWN)))


def _content_finding(kind: str, frame, contents) -> Finding:
    """One example per content: its first two rows that differ in the finding's column."""
    column = "split" if kind == "across_splits" else "label"
    examples = []
    for content in contents[:SHOWN]:
        rows = frame[frame["content_id"] == content].drop_duplicates(column)
        texts = (f"{row.image_path} ({row.split}, {EMOTIONS[row.label]})" for row in rows.head(2).itertuples())
        examples.append(" = ".join(texts))
    return Finding(kind, len(contents), tuple(examples))
