"""Readers of what phases and sessions leave on the disk: packs, caches, records, notebooks and videos."""

from __future__ import annotations

import io
import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from reader import Reader, file_reader, folder_reader

from fer_lib.audit.hashes import cache_file, cached_hashes
from fer_lib.datasets import facepack_writer
from fer_lib.datasets.facepack import FacePack, open_or_build
from fer_lib.datasets.import_folder import REPORT, ROWS, write_clean_report
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.openings import OPENINGS, opening_count
from fer_lib.faces.contract import FaceContract
from fer_lib.live.recording import VideoFile, recorded_frames
from fer_lib.live.session_files import RAW_VIDEO, RECORDED, read_recorded, write_session
from fer_lib.live.web.browser_camera import BrowserSource
from fer_lib.models.cache import cached_array
from fer_lib.models.classifier import build_classifier
from fer_lib.models.weights import load_pretrained
from fer_lib.params import TeacherParams
from fer_lib.pipeline.cache_key import notebook_code
from fer_lib.report.render import damage_as_message, read_results, readme_section, render_page
from fer_lib.training.fit import _recorded_weights

REPO = Path(__file__).resolve().parents[2]
SIDE = 32
CONFIG = dict(backbone="test_byobnet", image_size=SIDE, embed_dim=8, dropout=0.0, head="linear", s=1.0)


@lru_cache(maxsize=1)
def faces(folder: Path, count: int = 6) -> Manifest:
    """Rows with their images, in ``folder``, made once."""
    images = np.random.default_rng(3).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    table = [
        {"sample_id": f"s{i}", "content_id": f"{i:032x}", "source": "a", "record": f"r{i}", "label": i % 7,
         "image_path": f"{i}.png", "split": "train", "val_role": ""}
        for i in range(count)
    ]  # fmt: skip
    return Manifest(pd.DataFrame(table), {"root": str(folder), "tolerance": 0})


# -- packs -----------------------------------------------------------------------------------------------------


def open_pack(folder: Path, kind: str) -> FacePack:
    return open_or_build(faces(folder), FaceContract(image_size=SIDE), folder / "packs", kind=kind)


def pack_entries(kind: str):
    """The entries of a finished pack's index, whose checksum fits again."""

    def prepare(folder: Path) -> bytes:
        open_pack(folder, kind)
        [index] = folder.glob("packs/*/faces.jsonl")
        return json.dumps(json.loads(index.read_bytes())[1]).encode()

    def read(folder: Path, content: bytes) -> Any:
        [index] = folder.glob("packs/*/faces.jsonl")
        index.write_bytes(facepack_writer._line(json.loads(content)))
        return open_pack(folder, kind).faces[:]

    return prepare, read


def unfinished_entries(folder: Path, content: bytes) -> Any:
    """The same entries in a pack whose build was interrupted; the build continues."""
    [pack] = [path for path in folder.glob("packs/pack-*") if path.is_dir()]
    partial = pack if pack.suffix else pack.rename(facepack_writer.partial_folder(pack))
    (partial / "faces.jsonl").write_bytes(facepack_writer._line(json.loads(content)))
    return open_pack(folder, "faces").faces[:]


def pack_file(name: str):
    def prepare(folder: Path) -> bytes:
        open_pack(folder, "faces")
        return next(folder.glob(f"packs/*/{name}")).read_bytes()

    def read(folder: Path, content: bytes) -> Any:
        next(folder.glob(f"packs/*/{name}")).write_bytes(content)
        return open_pack(folder, "faces").faces[:]

    return prepare, read


# -- caches and records ----------------------------------------------------------------------------------------


def hashes(folder: Path) -> bytes:
    manifest = faces(folder)
    cached_hashes(manifest, folder)
    return cache_file(manifest, folder).read_bytes()


def read_hashes(folder: Path, content: bytes) -> Any:
    manifest = faces(folder)
    cache_file(manifest, folder).write_bytes(content)
    return cached_hashes(manifest, folder)


def array(folder: Path) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, array=np.arange(35.0).reshape(5, 7))
    return stream.getvalue()


def read_array(folder: Path, content: bytes) -> Any:
    (folder / "a.npz").write_bytes(content)
    return cached_array(folder / "a.npz", lambda: np.zeros(3))


IMPORT = {
    "dataset": "a", "source": "/raw", "mode": "link", "warnings": ["w"], "bad_records": {"missing image": 2},
    "splits": {"train": {"Angry": 3, "Sad": 0}}, "drawn": False,
}  # fmt: skip
WEIGHTS = {"source": "none", "origin": "", "weights_sha256": ""}


def import_report(folder: Path, content: bytes) -> Any:
    (folder / "imports" / "a").mkdir(parents=True, exist_ok=True)
    (folder / "imports" / "a" / ROWS).touch()
    (folder / "imports" / "a" / REPORT).write_bytes(content)
    return write_clean_report(folder / "imports")


def openings(folder: Path) -> Any:
    (folder / "cache").mkdir(exist_ok=True)
    return opening_count(folder, folder / "cache")


def exported_run(folder: Path) -> bytes:
    """A committed run with one of its models."""
    results = json.loads((REPO / "docs" / "results" / "unified_pilot.json").read_text())
    for part in (results["fits"], results["evaluation"]["models"]):
        for name in list(part)[1:]:
            del part[name]
    return json.dumps(results).encode()


def render_text(path: Path) -> None:
    """What is written of an exported run, without its figures, which take a second."""
    results = read_results(path)
    with damage_as_message(path):
        render_page(results, dict.fromkeys(("reliability", "per_class", "confusion", "sources", "curves"), {}), "r")
        readme_section(results)


def weights(name: str) -> bytes:
    from safetensors.torch import save

    torch.manual_seed(0)
    state = build_classifier(CONFIG).backbone.state_dict()
    stream = io.BytesIO()
    torch.save(state, stream)
    return save(state) if name.endswith("safetensors") else stream.getvalue()


def weights_reader(name: str) -> Reader:
    return Reader(f"pretrained {name}", "bytes", lambda folder: weights(name), file_reader(
        name, lambda file: load_pretrained(build_classifier(CONFIG), str(file))), heavy=True)  # fmt: skip


# -- images and videos -----------------------------------------------------------------------------------------


def video(folder: Path) -> bytes:
    shutil.rmtree(folder)
    folder.mkdir()
    write_session(folder, {"size": [31, 24]})
    film = VideoFile(folder, RAW_VIDEO, (31, 24), 25.0, lossless=True)
    for i, image in enumerate(np.random.default_rng(1).integers(0, 256, (6, 24, 31, 3), dtype=np.uint8)):
        film.add(i, image)
    film.close()
    return (folder / RAW_VIDEO).read_bytes()


def play(folder: Path) -> Any:
    return sum(1 for _ in recorded_frames(folder))


def jpeg(folder: Path) -> bytes:
    image = np.random.default_rng(2).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


NOTEBOOK = sorted((REPO / "notebooks").glob("*.ipynb"))[0]
STORE_READERS = [
    Reader("face pack entries", "json", *pack_entries("faces"), heavy=True),
    Reader("face pack entries, no pixels", "json", *pack_entries("none"), heavy=True),
    Reader("unfinished face pack", "json", pack_entries("faces")[0], unfinished_entries, heavy=True),
    Reader("faces.u8", "bytes", *pack_file("faces.u8"), heavy=True),
    Reader("faces.jsonl", "text", *pack_file("faces.jsonl"), heavy=True),
    Reader("image hashes", "bytes", hashes, read_hashes, heavy=True),
    Reader("cached array", "bytes", array, read_array),
    Reader("import report", "json", lambda folder: json.dumps(IMPORT).encode(), import_report, heavy=True),
    Reader("test_openings.jsonl", "text", lambda folder: b'{"evalset_id": "e"}\n' * 3,
           folder_reader(OPENINGS, openings)),
    Reader("starting_weights.json", "json", lambda folder: json.dumps(WEIGHTS).encode(), file_reader(
        "w.json", lambda file: _recorded_weights(file, TeacherParams(pretrained="none"), ""))),
    Reader("exported run", "json", exported_run, file_reader("run.json", render_text), heavy=True),
    Reader("notebook", "json", lambda folder: NOTEBOOK.read_bytes(), file_reader("a.ipynb", notebook_code)),
    Reader("recorded.csv", "text", lambda folder: b"frame_index\n0\n1\n2\n", folder_reader(RECORDED, read_recorded)),
    weights_reader("w.safetensors"),
    weights_reader("w.pt"),
    Reader("raw.mkv", "bytes", video, folder_reader(RAW_VIDEO, play), heavy=True),
    Reader("image of a page", "bytes", jpeg, lambda folder, content: BrowserSource().feed(content, 0.0), heavy=True),
]  # fmt: skip
