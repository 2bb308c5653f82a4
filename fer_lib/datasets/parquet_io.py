"""Read and write the Parquet file of a manifest's or import's rows: columns, types, and a hash of the table."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_lib.errors import DataError
from fer_lib.storage.atomic import fresh_file

SCHEMA_VERSION = 2  # a new optional column needs no new version
_META_KEY = b"fer"

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
    "soft_label": pa.list_(pa.float64()),  # 7 per row; Parquet does not read fixed-size lists back beside nulls
    "excluded_share": pa.float64(),  # share of the remaining votes outside the seven classes
    "votes": pa.list_(pa.float64()),  # annotator votes for each class as cast, before any rule
    "votes_all": pa.float64(),  # all annotator votes, those for other classes included
    "group": pa.string(),  # one name for the rows that show one image
    # the person as annotators describe them: groups to compare scores over
    **dict.fromkeys(("group_gender", "group_race", "group_age"), pa.string()),
}
COLUMNS = {**REQUIRED, **OPTIONAL}


def write_frame(path: Path, frame: pd.DataFrame, meta: dict) -> None:
    """Write rows and metadata as Parquet, atomically; the same input gives the same bytes."""
    schema = pa.schema([(name, COLUMNS[name]) for name in frame.columns])
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    meta = meta | {"table_sha256": _table_sha256(table, meta)}
    table = table.replace_schema_metadata({_META_KEY: json.dumps(meta, sort_keys=True).encode()})
    with fresh_file(path) as work:
        pq.write_table(table, work, compression="zstd")


def read_frame(path: Path) -> tuple[pd.DataFrame, dict]:
    """Rows and metadata of a Parquet file of :func:`write_frame`.  DataError when it is missing, damaged or changed."""
    if not path.is_file():
        raise DataError(f"{path} is missing: import the datasets and build the manifest first")
    try:
        table = pq.read_table(path)
        meta = json.loads((table.schema.metadata or {}).get(_META_KEY, b"{}"))
        types = dict(zip(table.schema.names, table.schema.types, strict=True))
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:  # names or metadata: no UTF-8, no JSON
        raise DataError(f"{path} is not a readable Parquet file ({error}); build it again") from error
    schema = meta.get("schema") if isinstance(meta, dict) else None
    if schema != SCHEMA_VERSION:
        raise DataError(f"{path} has manifest schema {schema!r}, this version reads {SCHEMA_VERSION}; build it again")
    unknown = len(types) < table.num_columns or any(kind != COLUMNS.get(name) for name, kind in types.items())
    if unknown or meta.get("table_sha256") != _table_sha256(table, meta):
        raise DataError(f"{path}: its rows do not match the hash stored with them; build the manifest again")
    return table.replace_schema_metadata(None).to_pandas(), meta


def _table_sha256(table: pa.Table, meta: dict) -> str:
    """Hash (64 hex) of table and metadata in file order; faster than :attr:`Manifest.sha256`, which sorts rows."""
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
