"""``--smoke``: the changes of parameters with which a phase takes seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def shrink(kind: str, values: dict[str, Any], phases: Iterable[str] = ()) -> dict[str, Any]:
    """The changes with which a phase of this kind takes seconds.  ``phases``: names of the run's phases."""
    if kind in ("teacher", "student"):
        return _shrink_fit(values, phases)
    if kind == "import":
        changes = [{"faces": min(s["faces"], 400)} if s["root"] == "embedded" else {} for s in values["sources"]]
        return {"sources": [source | change for source, change in zip(values["sources"], changes, strict=True)]}
    if kind == "manifest":
        changes: dict[str, Any] = {"max_per_class": min(values["max_per_class"] or 60, 60)}
        if values["val_fraction"]:  # of the few train rows, enough for the three roles of val
            changes["val_fraction"] = max(values["val_fraction"], 0.25)
        if values["manifests"] and not values["curate"]["selection"].startswith("uncleaned_"):  # it keeps all rows
            caps = {"max_per_class_and_source": 60, "cap_splits": ["train", "val", "test"]}
            changes["curate"] = values["curate"] | caps
        return changes
    if kind == "audit":
        return {
            "shown": min(values["shown"], 6),
            "noise_nets": values["noise_nets"] | {"folds": 2, "rounds": 1, "epochs": 1},
        }
    if kind in ("checkpoints", "evaluate", "ablation"):
        return {"resamples": min(values["resamples"], 100)}
    return {"epochs": 1} if kind == "adapt" else {}


def _shrink_fit(values: dict[str, Any], phases: Iterable[str]) -> dict[str, Any]:
    from fer_lib.models.classifier import takes

    cap = {"epochs": 1, "accum_steps": 1}
    if not values["init_from"] or values["init_from"] in phases:  # weights from outside the run fix the width
        cap["embed_dim"] = 64
    if values["image_size"] > 48 and takes(values["backbone"], 48, tuple(values["backbone_args"].items())):
        cap["image_size"] = 48
    caps: dict[str, Any] = {key: min(values[key], most) for key, most in cap.items()}
    if values.get("onnx") == "both":
        caps["onnx"] = "best"
    batches = {"max_train_batches": 4, "max_val_batches": 2}
    caps |= {key: min(values[key] or most, most) for key, most in batches.items()}  # 0 means all
    least = max(7 * values["min_per_class"], 2 * values["processes"])
    caps["batch_size"] = min(values["batch_size"], max(32, least))
    times = {key: values[key] for key in ("warmup_epochs", "plain_epochs", "ramp_end") if values.get(key, 0) >= 1}
    return caps | {key: value / values["epochs"] for key, value in times.items()}  # the same fractions of one epoch
