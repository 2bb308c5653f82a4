"""The manifest: one row per face, the rows' ids, and the path of each row's image.

A manifest is a Parquet file.  Its schema metadata (key ``fer``) holds the schema version, the root, the creation
parameters and the hash of the rows.  Image paths are relative to the root; absolute and ``..`` paths are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from fer_lib.datasets.parquet_io import COLUMNS, REQUIRED, SCHEMA_VERSION, read_frame, write_frame
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
VAL_ROLES = ("select", "temperature", "conformal")
BOX = ("bbox_top", "bbox_left", "bbox_bottom", "bbox_right")
SHARE_SLACK = 1e-6  # tolerance for the sum of a soft label
_UNSAFE = r"(?s)^$|^/|^.:|\\|\x00|^\.\.$|^\.\./|/\.\.$|/\.\./"  # the rule of safe_path, for a whole column


def content_id(data: bytes, box: Sequence[float] | None = None) -> str:
    """SHA-256 (64 hex) of the source's bytes, or of a CSV row's pixels as bytes, and of the box if there is one."""
    digest = hashlib.sha256(data)
    if box is not None:
        digest.update(("|box:" + ",".join(repr(float(side)) for side in box)).encode())
    return digest.hexdigest()


def sample_id(source: str, record: str, content: str) -> str:
    """The permanent name of a row, 20 hex: a hash of source, the source's record key, and the content."""
    return hashlib.sha256(json.dumps([source, record, content]).encode()).hexdigest()[:20]


def box_of(row: Any) -> tuple[float, float, float, float] | None:
    """(top, left, bottom, right) of a row (a mapping or a Series); None for an image that is the face."""
    box = [row.get(side) for side in BOX]
    return None if any(pd.isna(side) for side in box) else tuple(float(side) for side in box)


class Manifest:
    """The rows and their root.  ``frame`` is never changed after construction; make a new Manifest instead.

    ``image_path`` is relative to ``root``, which ``meta["root"]`` names relative to the manifest file where possible.
    """

    def __init__(self, frame: pd.DataFrame, meta: dict, path: Path | None = None):
        self.frame = tidy(frame, path or "manifest")
        self.meta = dict(meta)
        self.path = Path(path) if path is not None else None

    def __len__(self) -> int:
        return len(self.frame)

    @classmethod
    def read(cls, path: str | Path) -> Manifest:
        """Read and verify; raises :class:`DataError` for a damaged file, an unsafe path or an invalid row."""
        path = Path(path)
        frame, meta = read_frame(path)
        manifest = cls(frame, meta, path)
        if "sha256" not in meta:
            raise DataError(f"{path} holds the rows of an import, not a manifest; build the manifest from it")
        manifest.__dict__["sha256"] = meta["sha256"]  # read_frame has verified the rows by a faster hash
        return manifest

    def write(self, path: str | Path) -> Manifest:
        """Write atomically; returns the manifest as it is read back from ``path``, its root relative to that file."""
        path = Path(path)
        meta = {**self.meta, "schema": SCHEMA_VERSION, "root": relative_root(self.root, path), "sha256": self.sha256}
        write_frame(path, self.frame, meta)
        return Manifest(self.frame, meta, path)

    @cached_property
    def sha256(self) -> str:
        """Hash (64 hex) of the rows' contents, independent of file bytes, root and row order."""
        frame = self.frame.sort_values("sample_id")
        digest = hashlib.sha256()
        for name in frame.columns:
            digest.update(f"|{name}:{len(frame)}|".encode())
            if pa.types.is_list(COLUMNS[name]):
                digest.update(class_columns(frame, name).tobytes())
            elif pa.types.is_string(COLUMNS[name]):
                texts = frame[name].astype(object).where(frame[name].notna(), None)
                digest.update(json.dumps(texts.tolist()).encode())
            else:
                digest.update(np.ascontiguousarray(frame[name].to_numpy(np.float64)).tobytes())
        return digest.hexdigest()

    @property
    def root(self) -> Path:
        """The folder that image paths are relative to."""
        root = Path(self.meta["root"])
        if root.is_absolute():
            return root
        base = self.path.parent if self.path is not None else Path()
        return Path(os.path.normpath(base.absolute() / root))

    def resolve(self, row: Any) -> Path:
        """The image file of a row (anything with ``image_path``) or of a relative path."""
        relative = row if isinstance(row, str) else row["image_path"] if hasattr(row, "keys") else row.image_path
        return self.root / safe_path(relative, self.path or "manifest")

    def rows(
        self,
        split: str | None = None,
        val_role: str | None = None,
        include_sources: Sequence[str] = (),
        exclude_sources: Sequence[str] = (),
    ) -> Manifest:
        """The rows of a split, a val role and some sources.  DataError for an unknown name or when no row is left."""
        frame = select_sources(self.frame, include_sources, exclude_sources, self.path or "manifest")
        for column, wanted, known in (("split", split, SPLITS), ("val_role", val_role, VAL_ROLES)):
            if wanted is None:
                continue
            if wanted not in known:
                raise DataError(f"unknown {column} {wanted!r} for {self.path or 'manifest'}: use {', '.join(known)}")
            frame = frame[frame[column] == wanted]
            if frame.empty:
                raise DataError(
                    f"{self.path or 'manifest'} has no rows with {column} {wanted!r} in the chosen sources, and this "
                    "needs them: name a manifest or sources that have them"
                )
        return Manifest(frame.reset_index(drop=True), self.meta, self.path)

    @property
    def labels(self) -> np.ndarray:
        """Class ids, int64 [N]."""
        return self.frame["label"].to_numpy(np.int64)

    @property
    def soft_labels(self) -> np.ndarray:
        """Targets for training, float64 [N, 7]: each row sums to 1, or is NaN without a soft label.

        They are the shares of the votes after the source's rule, or the shares that the source publishes.
        """
        return class_columns(self.frame, "soft_label")

    @property
    def votes(self) -> tuple[np.ndarray, np.ndarray]:
        """Annotator votes as cast: ``votes`` float64 [N, 7], and ``votes_all`` float64 [N], all votes of a row.

        A row with published shares only (no rule was applied) has them as its votes, and NaN in ``votes_all``.  A row
        without either is NaN in both.
        """
        votes = class_columns(self.frame, "votes")
        if "soft_label" in self.frame:
            ruled = ~np.isnan(_floats(self.frame, "excluded_share"))
            shares = np.where(ruled[:, None], np.nan, self.soft_labels)
            votes = np.where(np.isnan(votes), shares, votes)
        return votes, _floats(self.frame, "votes_all")

    @property
    def weights(self) -> np.ndarray:
        """float64 [N]: the weight of each row's label; 1 by default, 0 for a label that is not trained on."""
        return _floats(self.frame, "weight", 1.0)

    @property
    def negatives(self) -> np.ndarray:
        """int64 [N]: a class that a row does not show, -1 where none is known."""
        return _floats(self.frame, "neg_label", -1.0).astype(np.int64)

    @property
    def sample_ids(self) -> list[str]:
        return self.frame["sample_id"].tolist()


def _floats(frame: pd.DataFrame, name: str, missing: float = np.nan) -> np.ndarray:
    """A new array float64 [N]; ``missing`` where there is no value or no such column."""
    return frame[name].to_numpy(np.float64, na_value=missing) if name in frame else np.full(len(frame), missing)


def class_columns(frame: pd.DataFrame, name: str, where: Any = "manifest") -> np.ndarray:
    """A column of seven numbers per row, float64 [N, 7]; a row without them is NaN.

    Raises :class:`DataError` for a row that holds anything else.
    """
    out = np.full((len(frame), NUM_CLASSES), np.nan)
    if name in frame:
        try:
            lists = pa.array(frame[name], COLUMNS[name], from_pandas=True)
        except pa.ArrowException as error:
            raise DataError(f"{where}: {name} must hold lists of numbers ({error}); import it again") from error
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        _refuse(frame, pd.Series(~np.isin(lengths, (0, NUM_CLASSES))), name, f"must be {NUM_CLASSES} or null", where)
        out[lengths > 0] = pc.list_flatten(lists).to_numpy(zero_copy_only=False).reshape(-1, NUM_CLASSES)
    return out


def count_by(frame: pd.DataFrame, column: str) -> dict[str, int]:
    """The rows with each value of a column, by value."""
    return {str(value): int(n) for value, n in frame[column].value_counts().sort_index().items()}


def select_sources(frame: pd.DataFrame, include: Sequence[str], exclude: Sequence[str], where: Any) -> pd.DataFrame:
    """Rows of the sources in ``include`` (empty: all) that are not in ``exclude``; unknown names are errors."""
    known = sorted(set(frame["source"]))
    for name in (*include, *exclude):
        if name not in known:
            raise DataError(f"unknown source {name!r}: {where} has {', '.join(known) or 'no sources'}")
    sources = [name for name in known if (not include or name in include) and name not in exclude]
    if not sources:
        raise DataError(f"no source of {where} is left after include {list(include)} and exclude {list(exclude)}")
    return frame[frame["source"].isin(sources)]


def relative_root(root: Path, manifest: Path) -> str:
    """``root`` relative to the manifest's folder; absolute where it is on another drive."""
    try:
        return Path(os.path.relpath(root.absolute(), manifest.parent.absolute())).as_posix()
    except ValueError:  # Windows: two drives
        return root.absolute().as_posix()


def safe_path(path: str, where: Any) -> str:
    """``path`` itself.  DataError unless it is relative, has forward slashes and stays below its root."""
    if not path or path[0] == "/" or path[1:2] == ":" or "\\" in path or "\0" in path or ".." in path.split("/"):
        raise DataError(
            f"{where}: image_path {path!r} is absolute or leaves the root; paths must be relative with forward slashes "
            "(old CSVs: fer data import-manifest CSV --rebase OLD=NEW)"
        )
    return path


def tidy(frame: pd.DataFrame, where: Any) -> pd.DataFrame:
    """``frame`` with ordered and typed columns.  Raises :class:`DataError` for an invalid row: file, row and value."""
    missing = [name for name in REQUIRED if name not in frame]
    unknown = [name for name in frame if name not in COLUMNS]
    if missing or unknown:
        raise DataError(f"{where}: columns missing {missing}, columns unknown {unknown}; build the manifest again")
    names = [n for n in COLUMNS if n in REQUIRED or (n in frame and frame[n].notna().any())]
    frame = frame[names].reset_index(drop=True)
    _refuse(frame, ~frame["label"].isin(range(NUM_CLASSES)), "label", f"must be 0..{NUM_CLASSES - 1} {EMOTIONS}", where)
    _refuse(frame, ~frame["split"].isin(SPLITS), "split", f"unknown split: use {', '.join(SPLITS)}", where)
    _refuse(frame, ~frame["val_role"].isin(("", *VAL_ROLES)), "val_role", f"use {', '.join(VAL_ROLES)} or blank", where)
    _refuse(frame, (frame["val_role"] != "") & (frame["split"] != "val"), "val_role", "only val rows have one", where)
    _refuse(frame, frame["source"].isna() | (frame["source"] == ""), "source", "every row names its source", where)
    _refuse(frame, frame["sample_id"].duplicated(), "sample_id", "sample ids must be unique", where)
    unsafe = pc.match_substring_regex(pa.array(frame["image_path"], pa.string()), _UNSAFE).fill_null(True)
    for row in np.flatnonzero(unsafe.to_numpy(zero_copy_only=False))[:1]:
        safe_path(frame["image_path"].iloc[row], f"{where}, row {row}")
    _check_faces(frame, where)
    return frame.astype({"label": np.int64})


def _check_faces(frame: pd.DataFrame, where: Any) -> None:
    """Refuse incomplete and empty boxes, soft labels that are not shares, and votes that are not counts."""
    if sides := [side for side in BOX if side in frame]:
        present = frame[sides].notna().sum(axis=1)
        _refuse(frame, ~present.isin((0, len(BOX))), sides[0], "a box has four sides or none", where)
        empty = (frame["bbox_bottom"] <= frame["bbox_top"]) | (frame["bbox_right"] <= frame["bbox_left"])
        _refuse(frame, empty, "bbox_bottom", "a box has its bottom below its top and its right after its left", where)
    if "soft_label" in frame:
        shares = class_columns(frame, "soft_label", where)
        wrong = ~((shares >= 0).all(axis=1) & (np.abs(shares.sum(axis=1) - 1) < SHARE_SLACK))
        wrong &= ~np.isnan(shares).all(axis=1)
        _refuse(frame, pd.Series(wrong), "soft_label", "must be 7 shares that sum to 1, or null", where)
    if "votes" in frame or "votes_all" in frame:
        votes = class_columns(frame, "votes", where)
        total = _floats(frame, "votes_all")
        absent = np.isnan(votes).all(axis=1) & np.isnan(total)
        valid = (votes >= 0).all(axis=1) & np.isfinite(total) & (votes.sum(axis=1) <= total)
        name = "votes" if "votes" in frame else "votes_all"
        rule = "7 counts with at least their sum in votes_all, or null"
        _refuse(frame, pd.Series(~(valid | absent)), name, rule, where)


def _refuse(frame: pd.DataFrame, bad: pd.Series, column: str, rule: str, where: Any) -> None:
    if bad.any():
        row = int(np.argmax(bad.to_numpy()))
        value = frame[column].iloc[row]
        raise DataError(f"{where}, row {row}: {column} {value!r}: {rule} ({int(bad.sum())} such rows)")
