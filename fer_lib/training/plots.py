"""Figures of a fit: its training curves, and a batch as the loader makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fer_lib.calibration.plot_style import BLUE, GREY, ORANGE, RED, themed
from fer_lib.datasets.batches import train_batches
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.sheets import tile_page
from fer_lib.emotions import EMOTIONS
from fer_lib.params import FitParams
from fer_lib.storage.json_files import flatten
from fer_lib.training.fit_inputs import open_data

_PANELS = {  # label -> key of each curve in a row of history.json
    "loss": {"train": "train.loss", "val": "val.nll"},
    "val/select": {"accuracy": "val.accuracy", "macro-F1": "val.macro_f1", "ECE": "val.ece"},
    "schedule": {"lr": "lr"},
}
_LINES = ((BLUE, "", "o"), (ORANGE, (4, 1.5), "s"), (RED, (1, 1), "D"))  # colour, dashes, marker


@themed
def training_curves(history: list[dict[str, Any]], best_epoch: int, title: str) -> Figure:
    """Loss, val scores and learning rate over epochs, with a line at the best epoch."""
    import seaborn

    figure, rows = Figure(figsize=(12, 3.8)), [flatten(row) for row in history]
    figure.suptitle(title)
    for axes, (name, curves) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
        for (label, key), (colour, dashes, marker) in zip(curves.items(), _LINES, strict=False):
            points = [(row["epoch"] + 1, row[key]) for row in rows if row.get(key) is not None]
            if points:
                x, y = zip(*points, strict=True)
                seaborn.lineplot(x=x, y=y, ax=axes, label=label, color=colour, dashes=dashes, marker=marker)
        axes.axvline(best_epoch + 1, color=GREY, linestyle=":", label="best epoch")
        axes.set(xlabel="epoch", title=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    return figure


def augmented_batch(p: FitParams, manifest: Manifest, cache_dir: Path, shown: int = 16) -> Figure:
    """About ``shown`` faces of the first training batch, each as it is packed and, below, as the loader augments it.

    The loader draws by (seed, epoch, sample), so the fit saw these very faces.
    Raises DataError as :func:`open_data` does.
    """
    data = open_data(manifest, p, cache_dir)
    contract, share = data.contract, (0, max(1, -(-p.batch_size // shown)))
    [batch] = train_batches(data.train, data.sampler, p.augment, 0, 1, workers=0, share=share)
    mean, std = (np.asarray(values).reshape(3, 1, 1) for values in (contract.mean, contract.std))
    made = np.rint(255 * (batch.images * std + mean)).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    packed = contract.centre(data.train.faces[batch.rows])
    names = [EMOTIONS[label] for label in batch.labels]
    lines = []
    for start in range(0, len(names), 8):
        some = slice(start, start + 8)
        lines.append(("packed", [(tile, "") for tile in packed[some]]))
        lines.append(("augmented", list(zip(made[some], names[some], strict=True))))
    title = (
        f"{len(names)} of {len(batch.step_rows)} faces of the first training batch, {contract.image_size} pixels a side"
    )
    return tile_page(lines, title, size=96)
