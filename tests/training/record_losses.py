"""``python tests/training/record_losses.py`` records the first fifty losses of a small teacher with all options on.

``losses/`` has one file per torch version and CPU capability.  Where both are the same, the losses must be equal to the
bit.  Record them again only after a change that is meant to change them, and say so in the change log.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

LOSSES = Path(__file__).with_name("losses")
STEPS, SEED = 50, 11
FIT = dict(
    backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.3, batch_size=28, accum_steps=2, lr=3e-3,
    warmup_epochs=4.0, clip_grad=1.0, ema_decay=0.9, label_smoothing=0.05, soft_label_weight=0.5, imbalance="both",
    focal_gamma=1.0, mixup=0.2, clahe=True, plain_epochs=5, ramp_end=15, arcface_s=16.0, arcface_m=0.1,
    augment={
        "rotation": 10.0, "erasing": 0.3, "grey": 0.1, "motion_blur": 0.2, "gamma": 0.2, "noise": 8.0, "jpeg": 0.2
    },
    epochs=STEPS, max_train_batches=1, eval_every=STEPS, checkpoint_every=STEPS, onnx="none",
    threads=1, device="cpu", seed=SEED,
)  # fmt: skip


def first_losses(folder: Path, **changes) -> dict:
    """Draw faces and train on them in ``folder``; returns the record: key, two hashes and the losses in hex.

    An epoch has one step, so its mean loss is the loss of that step.  ``changes`` override ``FIT``.
    """
    import torch

    from fer_lib.datasets.build import build_manifest
    from fer_lib.datasets.manifest import Manifest
    from fer_lib.importers import import_all
    from fer_lib.models.bundle import read_bundle
    from fer_lib.params import ManifestParams, SourceSpec, TeacherParams
    from fer_lib.synthetic.dataset import write_raw
    from fer_lib.training.fit_inputs import open_data
    from fer_lib.training.teacher import train_teacher

    raw = write_raw(folder / "raw", "tree", faces=168, seed=SEED, size=32)
    import_all([SourceSpec(source="tree", root=str(raw))], folder / "imports")
    manifest = build_manifest(ManifestParams(val_roles=(0.5, 0.3, 0.2)), folder / "imports", folder / "manifest")
    frame = manifest.frame.copy()  # every third face has votes: six for its label, two each for two others
    votes = [[0.6 * (k == y) + 0.2 * ((k - y) % 7 in (1, 3)) for k in range(7)] for y in frame["label"]]
    frame["soft_label"] = [share if i % 3 == 0 else None for i, share in enumerate(votes)]
    manifest = Manifest(frame, manifest.meta, manifest.path)
    p = TeacherParams(**FIT | changes)
    events = train_teacher(p, manifest, folder / "fit", folder / "cache")
    losses = [event["train"]["loss"] for event in events if event["event"] == "epoch"]
    faces = open_data(manifest, p, folder / "cache").train.faces
    pixels = hashlib.sha256(b"".join(faces[i].tobytes() for i in range(len(faces)))).hexdigest()
    return {
        "torch": torch.__version__, "cpu_capability": torch.backends.cpu.get_cpu_capability(), "seed": SEED,
        "faces_sha256": pixels,
        "weights_sha256": read_bundle(folder / "fit" / "best").weights_sha256,  # the moving average after the last step
        "losses": [loss.hex() for loss in losses],
    }  # fmt: skip


def record_path(torch_version: str, capability: str) -> Path:
    return LOSSES / f"torch-{torch_version}_{capability.replace(' ', '-')}.json"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="fer-losses-") as folder:
        record = first_losses(Path(folder))
    LOSSES.mkdir(exist_ok=True)
    file = record_path(record["torch"], record["cpu_capability"])
    file.write_text(json.dumps(record, indent=1) + "\n")
    first, last = (float.fromhex(record["losses"][i]) for i in (0, -1))
    print(f"{file}: {STEPS} losses, {first:.6f} to {last:.6f}")


if __name__ == "__main__":
    sys.exit(main())
