"""Readers of raw datasets: lists, tables, YOLO's files, and a packed folder of photos.

A case reads a prepared tree with one file of it damaged into an :class:`ImportBuilder`, as an import does; the locks
and syncs around it are left out, because they cost more than the reading.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import native_layouts  # noqa: F401  (LAYOUTS knows the layouts that only tests draw)
from fuzzing import write_tree
from reader import Reader

from fer_lib.importers.archives import unpacked
from fer_lib.importers.builder import ImportBuilder
from fer_lib.importers.engine import import_report, load_source
from fer_lib.params import SourceSpec

LISTS = [  # reader, layout, source, file
    ("fer2013.csv", "fer2013_csv", "fer2013", "fer2013.csv"),
    ("fer2013new.csv", "ferplus", "ferplus", "fer2013new.csv"),
    ("FERPlus label.csv", "ferplus_native", "ferplus", "FER2013Train/label.csv"),
    ("RAF-ML distribution.txt", "rafml", "rafml_argmax", "EmoLabel/distribution.txt"),
    ("RAF-ML partition_label.txt", "rafml", "rafml_argmax", "EmoLabel/partition_label.txt"),
    ("RAF-DB list_patition_label.txt", "rafdb_basic", "rafdb_basic", "EmoLabel/list_patition_label.txt"),
    ("RAF-DB attributes", "rafdb_basic", "rafdb_basic", "Annotation/manual/train_00001_manu_attri.txt"),
    ("ExpW label.lst", "expw", "expw_full", "label.lst"),
    ("YOLO data.yaml", "affectnet_yolo", "affectnet_yolo_format", "data.yaml"),
    ("YOLO labels", "affectnet_yolo", "affectnet_yolo_format", "train/labels/image0000000.txt"),
]
ATTRIBUTES = "1.5\t2\n3\t4\n5\t6\n7\t8\n9\t10\n1\n0\n3\n"


def raw_reader(name: str, layout: str, source: str, file: str) -> Reader:
    def prepare(folder: Path) -> bytes:
        write_tree(folder / "raw", layout, faces=1)
        if name == "RAF-DB attributes":
            (folder / "raw" / file).parent.mkdir(parents=True)
            (folder / "raw" / file).write_text(ATTRIBUTES)
        return (folder / "raw" / file).read_bytes()

    def read(folder: Path, content: bytes) -> Any:
        (folder / "raw" / file).write_bytes(content)
        return import_tree(folder / "raw", source, folder / "import")

    return Reader(name, "text", prepare, read, heavy=True)


def import_tree(root: Path, source: str, out: Path, **options: Any) -> Any:
    """The rows and the report of an import; its images are links."""
    shutil.rmtree(out, ignore_errors=True)
    spec = SourceSpec(source=source, root=str(root), mode="link", tolerance=10**6, **options)
    builder = ImportBuilder(spec, source, root, out)
    load_source(source).read(builder)
    builder.check()
    return builder.frame(), import_report(builder, out)


def image_map(folder: Path) -> bytes:
    """The map of votes onto an image tree, beside both."""
    write_tree(folder / "raw", "ferplus", faces=1)
    write_tree(folder / "tree", "fer2013_tree", faces=1)
    images = sorted(path.relative_to(folder / "tree").as_posix() for path in (folder / "tree").rglob("*.jpg"))
    return "\n".join(["row,fer2013_jpg", *(f"{row},{image}" for row, image in enumerate(images))]).encode()


def read_image_map(folder: Path, content: bytes) -> Any:
    (folder / "map.csv").write_bytes(content)
    options = {"images": str(folder / "tree"), "image_map": str(folder / "map.csv")}
    return import_tree(folder / "raw", "ferplus", folder / "import", **options)


def archive(folder: Path) -> bytes:
    import py7zr

    write_tree(folder / "raw", "expw", faces=1)
    with py7zr.SevenZipFile(folder / "origin.7z", "w") as packed:
        packed.writeall(folder / "raw" / "origin", "origin")
    return (folder / "origin.7z").read_bytes()


def unpack(folder: Path, content: bytes) -> Any:
    (folder / "origin.7z").write_bytes(content)
    shutil.rmtree(folder / "mlruns", ignore_errors=True)
    with mock.patch.dict(os.environ, FER_HOME=str(folder)):  # the cache of what was unpacked
        return unpacked([folder / "origin.7z"], "expw")


RAW_READERS: list[Reader] = [
    *(raw_reader(*row) for row in LISTS),
    Reader("FERPlus image_map", "text", image_map, read_image_map, heavy=True),
]
if importlib.util.find_spec("py7zr"):  # of the extra "archives"
    RAW_READERS.append(Reader("origin.7z", "bytes", archive, unpack, heavy=True))
