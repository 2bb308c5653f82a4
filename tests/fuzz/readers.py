"""Every reader of a file that someone else may have written, with a sound file of it and what may be wrong with it.

A reader ends in a value or in a :class:`FerError`; anything else is a defect.  Formats with checksums are sealed again
after the damage, so that what lies behind the checksum is reached.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from raw_readers import RAW_READERS
from reader import Reader, file_reader, folder_reader
from store_readers import STORE_READERS

from fer_lib.adapt.buffer import read_report
from fer_lib.calibration.bias import read_logit_bias
from fer_lib.calibration.temperature import Temperature
from fer_lib.cli.predict import _prior
from fer_lib.datasets.facepack_writer import Entry, _line, valid_chunks
from fer_lib.datasets.interchange import write_csv
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import EXPOSURE_FILE, TrainingExposure, read_exposure
from fer_lib.deploy.onnx_file import export_onnx
from fer_lib.faces.contract import FaceContract
from fer_lib.faces.decode import decode
from fer_lib.importers.csv_import import read_rows
from fer_lib.live.score import read_truth
from fer_lib.live.session_files import read_faces, read_frames, read_session
from fer_lib.live.web.server import _parse_command
from fer_lib.models import bundle_format
from fer_lib.models.bundle import Bundle, derive_bundle, read_bundle, write_bundle
from fer_lib.models.classifier import build_classifier
from fer_lib.models.logits import logits_function
from fer_lib.models.softlabels_format import read_softlabels, write_softlabels
from fer_lib.params.adapt import read_gates
from fer_lib.pipeline.runfile import load_run
from fer_lib.training import checkpoint
from fer_lib.training.progress import Progress

REPO = Path(__file__).resolve().parents[2]
FACES = np.zeros((2, 3, 32, 32), np.float32)
CONFIG = dict(backbone="test_byobnet", image_size=32, embed_dim=8, dropout=0.0, head="linear", s=1.0)


def rows(folder: Path) -> Manifest:
    """Forty rows of a manifest in ``folder``, without their images."""
    table = [
        {"sample_id": f"s{i}", "content_id": f"{i:032x}", "source": "ab"[i % 2], "record": f"r{i}", "label": i % 7,
         "image_path": f"x/{i}.png", "split": "train", "val_role": "", "confidence": i / 2}
        for i in range(40)
    ]  # fmt: skip
    path = folder / "manifest.parquet"
    return Manifest(pd.DataFrame(table), {"root": str(folder), "tolerance": 0}).write(path)


# -- run files, lists and tables -------------------------------------------------------------------------------


def manifest_csv(folder: Path) -> bytes:
    return write_csv(rows(folder), folder / "full.csv").read_bytes()


def session(folder: Path) -> None:
    """The files of a short session."""
    from session_factory import simulate, write_session

    shutil.rmtree(folder)
    write_session(folder, *simulate(seconds=8))


def session_file(name: str) -> Callable[[Path], bytes]:
    def prepare(folder: Path) -> bytes:
        session(folder)
        file = folder / name
        return file.read_bytes() if file.is_file() else b"start_frame,end_frame,label\n0,20,Sad\n30,40,\n"

    return prepare


# Files beside the damaged one that are read once per folder.
_frames_of = lru_cache(maxsize=1)(read_frames)
_manifest_in = lru_cache(maxsize=1)(lambda folder: Manifest.read(folder / "manifest.parquet"))


def corrections(folder: Path, content: bytes) -> Any:
    (folder / "corrections.csv").write_bytes(content)
    return read_truth(folder, _frames_of(folder))


# -- bundles, checkpoints, soft labels -------------------------------------------------------------------------


def bundle(folder: Path, onnx: bool = False) -> Path:
    """A bundle of an untrained net, below ``folder``."""
    torch.manual_seed(1)
    made = write_bundle(
        folder / "torch", name="tiny", kind="student", model_config=CONFIG,
        state_dict=build_classifier(CONFIG).state_dict(), contract=FaceContract(image_size=32),
        temperature=Temperature(mode="global", global_temperature=1.5), training_prior=[1 / 7] * 7, ids={}, metrics={},
        logit_bias=[0.0] * 7, abstention=[0.1] * 7,
        training_data={"sources": {"a": {"rows": 5, "drawn": True}}, "smoke": False, "complete": True},
    )  # fmt: skip
    if onnx:
        made = derive_bundle(made, folder / "onnx", extra_files={"model.onnx": export_onnx(made, folder / "m.onnx")})
    return made.path


def sealed(folder: Path, meta: Any) -> None:
    """Write ``bundle.json`` with a checksum that fits."""
    if isinstance(meta, dict):
        meta = meta | {"checksum": bundle_format.checksum(meta)}
    (folder / "bundle.json").write_text(json.dumps(meta))


def bundle_meta(folder: Path, content: bytes) -> Any:
    sealed(folder / "torch", json.loads(content))
    return read_bundle(folder / "torch")


def with_file(path: Path, name: str, content: bytes) -> Bundle:
    """The bundle in ``path`` with one file replaced and sealed again."""
    (path / name).write_bytes(content)
    meta = json.loads((path / "bundle.json").read_text())
    meta["files"][name] = hashlib.sha256(content).hexdigest()
    sealed(path, meta)
    return read_bundle(path)


def bundle_onnx(folder: Path, content: bytes) -> Any:
    return logits_function(with_file(folder / "onnx", "model.onnx", content), "onnx")(FACES)


def bundle_weights(folder: Path, content: bytes) -> Any:
    return with_file(folder / "torch", "model.safetensors", content).model()


def fit_checkpoint(folder: Path) -> Path:
    net = torch.nn.Linear(3, 2)
    described = {
        "name": "a", "kind": "teacher", "model_config": CONFIG, "contract": {"image_size": 32},
        "training_prior": [1 / 7] * 7, "ids": {},
    }  # fmt: skip
    meta = {**Progress().__dict__, "fit_key": "k", "numerics": {}, "epoch": 1.0, "bundle": described}
    checkpoint.save_checkpoint(folder / checkpoint.LAST, {f"model.{k}": v for k, v in net.state_dict().items()}, meta)
    return folder / checkpoint.LAST


def checkpoint_meta(folder: Path, content: bytes) -> Any:
    path, meta = folder / checkpoint.LAST, json.loads(content)
    if isinstance(meta, dict):
        meta.pop("checksum", None)
        meta["checksum"] = checkpoint.checksum(meta)
    (path / checkpoint.META).write_text(json.dumps(meta))
    return checkpoint.checkpoint_weights(path)


def checkpoint_state(folder: Path, content: bytes) -> Any:
    path = folder / checkpoint.LAST
    (path / checkpoint.STATE).write_bytes(content)
    meta = json.loads((path / checkpoint.META).read_text())
    del meta["checksum"]
    meta["sha256"] = hashlib.sha256(content).hexdigest()
    (path / checkpoint.META).write_text(json.dumps(meta | {"checksum": checkpoint.checksum(meta)}))
    return checkpoint.load_checkpoint(path)


def soft_labels(folder: Path) -> Path:
    manifest, out = rows(folder), folder / "soft"
    out.mkdir(exist_ok=True)
    contract = FaceContract(image_size=32)
    teacher = {
        "uri": "../teacher", "model": "t", "backbone": "b", "weight": 1.0, "weights_sha256": "0" * 64,
        "face_contract_id": contract.id, "face_contract": contract.model_dump(mode="json"),
    }  # fmt: skip
    record = {"rows": len(manifest), "ensemble_space": "logit", "teachers": [teacher]}
    logits = np.random.default_rng(0).normal(size=(len(manifest), 7))
    write_softlabels(out, logits, manifest, record, {}, TrainingExposure.of((), ()))
    return out


def soft_label_file(name: str) -> tuple[Callable[[Path], bytes], Callable[[Path, bytes], Any]]:
    def read(folder: Path, content: bytes) -> Any:
        path = folder / "soft"
        (path / name).write_bytes(content)
        hashes = json.loads((path / "hash_manifest.json").read_text())
        if name != "hash_manifest.json":
            hashes[name] = hashlib.sha256(content).hexdigest()
            (path / "hash_manifest.json").write_text(json.dumps(hashes))
        return read_softlabels(path, _manifest_in(folder), FaceContract(image_size=32))

    return lambda folder: (soft_labels(folder) / name).read_bytes(), read


def exposure(folder: Path) -> bytes:
    stream = io.BytesIO()
    TrainingExposure.of([f"{i:032x}" for i in range(9)], ["ab" * 16]).write(stream)
    return stream.getvalue()


def pack_index(folder: Path) -> bytes:
    return b"".join(_line([Entry(1, i, [[0.5, 0.5]] * 5, ""), Entry(0, 0, None, "gone")]) for i in range(5))


# -- images ----------------------------------------------------------------------------------------------------


def image_file(form: str) -> Callable[[Path], bytes]:
    def prepare(folder: Path) -> bytes:
        stream = io.BytesIO()
        pixels = np.random.default_rng(2).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, form)
        return stream.getvalue()

    return prepare


def _readers() -> list[Reader]:
    soft = {name: soft_label_file(name) for name in
            ("softlabels.npz", "softlabels_index.jsonl", "classorder.json", "alignmentreport.json")}  # fmt: skip
    quickstart = (REPO / "params" / "quickstart.yaml").read_bytes()
    gates = (REPO / "params" / "gates.yaml").read_bytes()
    buffer = {"session": "../s", "session_sha256": "0" * 64, "counts": {"positive": {"Sad": 3}}}
    command = b'{"label": 3, "smoothing": {"ema_alpha": 0.5}}'
    bias = json.dumps([0.1] * 7).encode()
    return [
        Reader("run file", "text", lambda folder: quickstart, file_reader("run.yaml", load_run)),
        Reader("gates", "text", lambda folder: gates, file_reader("g.yaml", lambda file: read_gates(file, "adapt"))),
        Reader("manifest CSV", "text", manifest_csv, lambda folder, content: file_reader(
            "m.csv", lambda file: read_rows(file, folder))(folder, content)),
        Reader("session.json", "json", session_file("session.json"), folder_reader("session.json", read_session)),
        Reader("per_frame.csv", "text", session_file("per_frame.csv"), folder_reader("per_frame.csv", read_frames)),
        Reader("faces.csv", "text", session_file("faces.csv"), folder_reader("faces.csv", read_faces)),
        Reader("corrections.csv", "text", session_file("corrections.csv"), corrections),
        Reader("buffer.json", "json", lambda folder: json.dumps(buffer).encode(), folder_reader(
            "buffer.json", read_report)),
        Reader("logit bias", "json", lambda folder: bias, file_reader("bias.json", read_logit_bias)),
        Reader("--prior", "text", lambda folder: b"0.1,0.1,0.2,0.2,0.2,0.1,0.1", lambda folder, content: _prior(
            content.decode("utf-8", "replace"))),
        Reader("live command", "json", lambda folder: command, lambda folder, content: _parse_command(
            content.decode("utf-8", "replace"))),
        Reader("bundle.json", "json", lambda folder: (bundle(folder) / "bundle.json").read_bytes(), bundle_meta),
        Reader("state.json", "json", lambda folder: (fit_checkpoint(folder) / checkpoint.META).read_bytes(),
               checkpoint_meta),
        Reader("alignmentreport.json", "json", *soft["alignmentreport.json"]),
        Reader("classorder.json", "json", *soft["classorder.json"]),
        Reader("softlabels_index.jsonl", "text", *soft["softlabels_index.jsonl"]),
        Reader("face pack index", "text", pack_index, lambda folder, content: list(
            valid_chunks(content.splitlines(keepends=True)))),
        Reader("softlabels.npz", "bytes", *soft["softlabels.npz"], heavy=True),
        Reader("seen.npz", "bytes", exposure, folder_reader(EXPOSURE_FILE, read_exposure), heavy=True),
        Reader("manifest.parquet", "bytes", lambda folder: rows(folder).path.read_bytes(), file_reader(
            "damaged.parquet", Manifest.read), heavy=True),
        Reader("state.safetensors", "bytes", lambda folder: (fit_checkpoint(folder) / checkpoint.STATE).read_bytes(),
               checkpoint_state, heavy=True),
        Reader("model.safetensors", "bytes", lambda folder: (bundle(folder) / "model.safetensors").read_bytes(),
               bundle_weights, heavy=True),
        Reader("model.onnx", "bytes", lambda folder: (bundle(folder, onnx=True) / "model.onnx").read_bytes(),
               bundle_onnx, heavy=True),
        *(Reader(f"image {form}", "bytes", image_file(form), lambda folder, content: decode(content), heavy=True)
          for form in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")),
    ]  # fmt: skip


READERS = {reader.name: reader for reader in [*_readers(), *RAW_READERS, *STORE_READERS]}
