"""The manifest: one row a face, its ids, and the only way from a row to its picture.

A manifest is a Parquet file whose schema metadata (key ``fer``) carries schema version, root, creation parameters and
the hash of its rows.  Paths are relative to the root; absolute and ``..`` paths are refused on reading.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_lib.atomic import fresh_file
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError

SCHEMA_VERSION = 2
SPLITS = ("train", "val", "test")
VAL_ROLES = ("select", "temperature", "conformal")
BOX = ("bbox_top", "bbox_left", "bbox_bottom", "bbox_right")
_META_KEY = b"fer"
_UNSAFE = r"(?s)^$|^/|^.:|\\|\x00|^\.\.$|^\.\./|/\.\.$|/\.\./"  # what safe_path refuses, for a whole column at once

REQUIRED: dict[str, pa.DataType] = {
    **dict.fromkeys(("sample_id", "content_id", "source", "record", "image_path"), pa.string()),
    "label": pa.int64(),
    "split": pa.string(),
    "val_role": pa.string(),
}
OPTIONAL: dict[str, pa.DataType] = {
    "confidence": pa.float64(),
    "orig_image": pa.string(),
    "face_id": pa.string(),
    **dict.fromkeys(("bbox_top", "bbox_left", "bbox_right", "bbox_bottom"), pa.float64()),
    "subject": pa.string(),
    "weight": pa.float64(),
    "neg_label": pa.float64(),
    "soft_label": pa.list_(pa.float64()),  # 7 a row; Parquet cannot read fixed-size lists back beside nulls
    "excluded_share": pa.float64(),  # share of the surviving votes that fell outside the seven classes
    "group": pa.string(),
}
COLUMNS = {**REQUIRED, **OPTIONAL}


def content_id(data: bytes, box: Sequence[float] | None = None) -> str:
    """SHA-256 (64 hex) of the raw source bytes, or of a CSV row's pixels as bytes, and of the box if there is one."""
    digest = hashlib.sha256(data)
    if box is not None:
        digest.update(("|box:" + ",".join(repr(float(side)) for side in box)).encode())
    return digest.hexdigest()


def sample_id(source: str, record: str, content: str) -> str:
    """20 hex that name one row for ever: a hash of source, the source's own record key, and the content."""
    return hashlib.sha256(json.dumps([source, record, content]).encode()).hexdigest()[:20]


def evalset_id(sample_ids: Sequence[str], labels: Iterable[int], split: str, tolerance: int) -> str:
    """12 hex; equal ids are the condition of comparing two numbers.  Row order does not matter."""
    from fer_lib.calibration.scores import METRIC_VERSION

    labels = [int(label) for label in labels]
    if len(labels) != len(sample_ids):
        raise DataError(f"evalset_id: {len(sample_ids)} sample ids but {len(labels)} labels; pass one label a row")
    rows = sorted(zip(sample_ids, labels, strict=True))
    text = json.dumps([rows, split, int(tolerance), str(METRIC_VERSION)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def protocol_id(evalset: str, contract: Any, view: str) -> str:
    """12 hex over the evaluation set, the preprocessing (``contract.id``) and the test-time view."""
    return hashlib.sha256(json.dumps([evalset, contract.id, view]).encode()).hexdigest()[:12]


class Manifest:
    """Rows and where they lie.  ``frame`` is never changed after construction; make a new Manifest instead.

    ``root`` is the folder that ``image_path`` is relative to; it lives in ``meta["root"]``, relative to the manifest
    file where that is possible, so that a moved checkout still opens.
    """

    def __init__(self, frame: pd.DataFrame, meta: dict, path: Path | None = None):
        self.frame = tidy(frame, path or "manifest")
        self.meta = dict(meta)
        self.path = Path(path) if path is not None else None

    def __len__(self) -> int:
        return len(self.frame)

    @classmethod
    def read(cls, path: str | Path) -> Manifest:
        """Read and verify; raises :class:`DataError` for a file, a path or a row that can't be trusted."""
        path = Path(path)
        frame, meta = read_frame(path)
        manifest = cls(frame, meta, path)
        if "sha256" not in meta:
            raise DataError(f"{path} holds the rows of an import, not a manifest; build the manifest from it")
        manifest.__dict__["sha256"] = meta["sha256"]  # read_frame found the rows to be those that it was computed from
        return manifest

    def write(self, path: str | Path) -> Manifest:
        """Write atomically and return the manifest as it reads back from ``path`` (its root rewritten for there)."""
        path = Path(path)
        meta = {**self.meta, "schema": SCHEMA_VERSION, "root": relative_root(self.root, path), "sha256": self.sha256}
        write_frame(path, self.frame, meta)
        return Manifest(self.frame, meta, path)

    @cached_property
    def sha256(self) -> str:
        """Hash (64 hex) of the rows' contents; neither file bytes, nor root, nor row order enter it."""
        frame = self.frame.sort_values("sample_id")
        digest = hashlib.sha256()
        for name in frame.columns:
            digest.update(f"|{name}:{len(frame)}|".encode())
            if name == "soft_label":
                digest.update(_soft(frame).tobytes())
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
        """The picture of a row (anything with ``image_path``) or of a relative path."""
        relative = row if isinstance(row, str) else row["image_path"] if hasattr(row, "keys") else row.image_path
        return self.root / safe_path(relative, self.path or "manifest")

    def rows(
        self,
        split: str | None = None,
        val_role: str | None = None,
        include_sources: Sequence[str] = (),
        exclude_sources: Sequence[str] = (),
    ) -> Manifest:
        """The rows of a split, a val role and some sources; an unknown or empty choice is a :class:`DataError`."""
        frame = select_sources(self.frame, include_sources, exclude_sources, self.path or "manifest")
        for column, wanted, known in (("split", split, SPLITS), ("val_role", val_role, VAL_ROLES)):
            if wanted is None:
                continue
            if wanted not in known:
                raise DataError(f"unknown {column} {wanted!r} for {self.path or 'manifest'}: use {', '.join(known)}")
            frame = frame[frame[column] == wanted]
            if frame.empty:
                raise DataError(f"{self.path or 'manifest'} has no rows with {column} {wanted!r} in the chosen sources")
        return Manifest(frame.reset_index(drop=True), self.meta, self.path)

    @property
    def labels(self) -> np.ndarray:
        """Class ids, int64 [N]."""
        return self.frame["label"].to_numpy(np.int64)

    @property
    def soft_labels(self) -> np.ndarray:
        """Annotators' votes, float64 [N, 7], each row summing to 1; NaN rows where a row has none."""
        return _soft(self.frame)

    @property
    def sample_ids(self) -> list[str]:
        return self.frame["sample_id"].tolist()


def _soft(frame: pd.DataFrame) -> np.ndarray:
    out = np.full((len(frame), NUM_CLASSES), np.nan)
    given = frame["soft_label"].notna().to_numpy() if "soft_label" in frame else np.zeros(len(frame), bool)
    if given.any():
        out[given] = np.stack(frame["soft_label"].to_numpy()[given])
    return out


def select_sources(frame: pd.DataFrame, include: Sequence[str], exclude: Sequence[str], where: Any) -> pd.DataFrame:
    """Rows of the sources in ``include`` (empty: all) that are not in ``exclude``; unknown names are errors."""
    known = sorted(set(frame["source"]))
    for name in (*include, *exclude):
        if name not in known:
            raise DataError(f"unknown source {name!r}: {where} has {', '.join(known) or 'no sources'}")
    kept = [name for name in known if (not include or name in include) and name not in exclude]
    if not kept:
        raise DataError(f"no source of {where} is left after include {list(include)} and exclude {list(exclude)}")
    return frame[frame["source"].isin(kept)]


def relative_root(root: Path, manifest: Path) -> str:
    """``root`` as seen from the manifest's folder; absolute only where no relative way exists (another drive)."""
    try:
        return Path(os.path.relpath(root.absolute(), manifest.parent.absolute())).as_posix()
    except ValueError:  # Windows: two drives
        return root.absolute().as_posix()


def safe_path(path: str, where: Any) -> str:
    """``path`` itself when it is relative, POSIX and stays under its root; else a :class:`DataError`."""
    if not path or path[0] == "/" or path[1:2] == ":" or "\\" in path or "\0" in path or ".." in path.split("/"):
        raise DataError(
            f"{where}: image_path {path!r} is absolute or leaves the root; paths must be relative with forward slashes "
            "(old CSVs: fer data import-manifest CSV --rebase OLD=NEW)"
        )
    return path


def tidy(frame: pd.DataFrame, where: Any) -> pd.DataFrame:
    """Columns checked, ordered and typed; rows checked.  Raises :class:`DataError` naming file, row and value."""
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
    refused = pc.match_substring_regex(pa.array(frame["image_path"], pa.string()), _UNSAFE).fill_null(True)
    for row in np.flatnonzero(refused.to_numpy(zero_copy_only=False))[:1]:
        safe_path(frame["image_path"].iloc[row], f"{where}, row {row}")
    if "soft_label" in frame:
        lengths = frame["soft_label"].map(lambda votes: np.size(votes) if isinstance(votes, list | np.ndarray) else 0)
        _refuse(frame, ~lengths.isin((0, NUM_CLASSES)), "soft_label", f"must be {NUM_CLASSES} shares or null", where)
    return frame.astype({"label": np.int64})


def _refuse(frame: pd.DataFrame, bad: pd.Series, column: str, rule: str, where: Any) -> None:
    if bad.any():
        row = int(np.argmax(bad.to_numpy()))
        value = frame[column].iloc[row]
        raise DataError(f"{where}, row {row}: {column} {value!r}: {rule} ({int(bad.sum())} such rows)")


def write_frame(path: Path, frame: pd.DataFrame, meta: dict) -> None:
    """Rows and metadata as Parquet, whole or not at all; the same input gives the same bytes."""
    schema = pa.schema([(name, COLUMNS[name]) for name in frame.columns])
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    meta = meta | {"table_sha256": _table_sha256(table, meta)}
    table = table.replace_schema_metadata({_META_KEY: json.dumps(meta, sort_keys=True).encode()})
    with fresh_file(path) as work:
        pq.write_table(table, work, compression="zstd")


def read_frame(path: Path) -> tuple[pd.DataFrame, dict]:
    """Rows and metadata of a Parquet file written by :func:`write_frame`."""
    if not path.is_file():
        raise DataError(f"{path} is missing: import the datasets and build the manifest first")
    try:
        table = pq.read_table(path)
        meta = json.loads((table.schema.metadata or {}).get(_META_KEY, b"{}"))
        types = dict(zip(table.schema.names, table.schema.types, strict=True))
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names or metadata that are no UTF-8 or JSON
        raise DataError(f"{path} is not a readable Parquet file ({error}); build it again") from error
    schema = meta.get("schema") if isinstance(meta, dict) else None
    if schema != SCHEMA_VERSION:
        raise DataError(f"{path} has manifest schema {schema!r}, this version reads {SCHEMA_VERSION}; build it again")
    strange = len(types) < table.num_columns or any(kind != COLUMNS.get(name) for name, kind in types.items())
    if strange or meta.get("table_sha256") != _table_sha256(table, meta):
        raise DataError(f"{path}: its rows do not match the hash stored with them; build the manifest again")
    return table.replace_schema_metadata(None).to_pandas(), meta


def _table_sha256(table: pa.Table, meta: dict) -> str:
    """Hash (64 hex) of table and metadata as they stand in the file: fast, where :attr:`Manifest.sha256` sorts rows."""
    digest = hashlib.sha256(json.dumps({**meta, "table_sha256": ""}, sort_keys=True).encode())
    for name in table.column_names:
        column = table[name].combine_chunks()
        digest.update(f"|{name}:{len(column)}|".encode())
        digest.update(np.packbits(pc.is_valid(column).to_numpy(zero_copy_only=False)))
        if pa.types.is_list(column.type):
            digest.update(np.diff(column.offsets.to_numpy()))
            column = column.flatten()
        if not len(column):
            continue
        if pa.types.is_string(column.type):
            _, offsets, text = column.buffers()
            ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
            digest.update(np.diff(ends))
            digest.update(memoryview(text or b"")[ends[0] : ends[-1]])
        else:
            digest.update(np.ascontiguousarray(pc.fill_null(column, 0).to_numpy(zero_copy_only=False)))
    return digest.hexdigest()
