"""Drawn faces in the native layouts, where the run files under params/ look for the real datasets."""

from __future__ import annotations

from pathlib import Path

FOLDERS = {  # folder below the home -> (layout, faces)
    "data/ferplus": ("ferplus", 280),
    "data/rafdb_basic": ("rafdb_basic", 280),
    "data/affectnet_full_balanced": ("tree", 280),
    "data/expw": ("expw", 280),
    "data/rafml": ("rafml", 140),
    "data/rafdb_compound": ("rafdb_compound", 140),
}


def draw_raw_trees(home: Path, *names: str) -> None:
    """Write the raw folders whose last part is in ``names`` (none: all of them) below ``home``."""
    from fer_lib.synthetic.dataset import write_raw

    for seed, (folder, (layout, faces)) in enumerate(FOLDERS.items()):
        if not names or Path(folder).name in names:
            write_raw(home / folder, layout, faces=faces, seed=seed, size=48 if layout != "ferplus" else None)
