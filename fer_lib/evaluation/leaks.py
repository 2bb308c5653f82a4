"""Rows that are evaluated although a model may remember them: known or not, allowed or not, and said.

A row leaks when its picture, identical or in a near copy that an audit found, stands in train (or, for test rows, in
val, where epochs and temperatures are chosen), be it in the manifest at hand or in what a model has seen elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import TrainingExposure, numbers
from fer_lib.errors import DataError
from fer_lib.params.strict import closest


@dataclass(frozen=True)
class Leaks:
    """Sample ids of evaluated rows: those ``learned`` from, and those only ``chosen_on``."""

    learned: frozenset[str]
    chosen_on: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        return self.learned | self.chosen_on


def known_leaks(manifest: Manifest, split: str, seen: Sequence[TrainingExposure] = ()) -> Leaks:
    """The leaks among the rows of ``split`` (test or val), into the manifest's own splits and into what was ``seen``.

    For val rows nothing is ``chosen_on``: choosing is what they are for.
    """
    train, val = (manifest.frame.loc[manifest.frame["split"] == name, "content_id"] for name in ("train", "val"))
    earlier = [TrainingExposure.of(train, val), *seen]
    rows = manifest.frame.loc[manifest.frame["split"] == split, ["sample_id", "content_id"]]
    twins = manifest.meta.get("twins", {})
    pictures = [[content, *twins.get(row, ())] for row, content in rows.itertuples(index=False)]
    owner = np.repeat(np.arange(len(rows)), [len(p) for p in pictures])
    number = numbers(content for p in pictures for content in p)

    def there(part: str) -> frozenset[str]:
        found = np.isin(number, np.concatenate([getattr(s, part) for s in earlier]))
        return frozenset(rows["sample_id"].iloc[np.unique(owner[found])])

    learned = there("learned")
    return Leaks(learned, there("chosen_on") - learned if split == "test" else frozenset())


def checked_leaks(
    manifest: Manifest,
    rows: Manifest,
    split: str,
    allowed: Sequence[str],
    models: Mapping[str, TrainingExposure | None],
) -> tuple[Leaks, dict[str, Any]]:
    """The known leaks among ``rows`` (of ``manifest``), and what a result says of them.

    ``models``: what each model has seen, None where it left no record.  The result: ``rows`` learned from and their
    counts ``by_source``, rows only ``chosen_on``, the sources ``allowed``, and the models of which what they saw is not
    (wholly) known, ``unrecorded``.
    DataError when ``allowed`` names no source of the manifest, or not every source that leaks.
    """
    sources = sorted(set(manifest.frame["source"]))
    for name in allowed:
        if name not in sources:
            where = manifest.path or "the manifest"
            raise DataError(f"allow_leaks: {where} has no source {name!r}{closest(name, sources)}")
    here = frozenset(rows.sample_ids)
    found = known_leaks(manifest, split, [s for s in models.values() if s is not None])
    found = Leaks(found.learned & here, found.chosen_on & here)
    counts, either = _by_source(rows, found.learned), _by_source(rows, found.all)
    if forbidden := [source for source in either if source not in allowed]:
        listed = ", ".join(f"{source} {either[source]:,}" for source in forbidden)
        val = f" and {len(found.chosen_on):,} to stand in val" if found.chosen_on else ""
        raise DataError(
            f"{len(found.learned):,} of the {len(rows):,} {split} rows of {manifest.path or 'the manifest'} are known "
            f"to stand in train too{val}, here or where a model was trained ({listed}), so a score on them is partly "
            "memory: take them out with an audit phase (kind: audit, or fer data audit) before training, and train and "
            f"evaluate on what it leaves; or allow them by name, which the result then says: "
            f"allow_leaks: [{', '.join(forbidden)}]"
        )
    return found, {
        "rows": len(found.learned),
        "by_source": counts,
        "chosen_on": len(found.chosen_on),
        "allowed": sorted(set(allowed) & set(either)),
        "unrecorded": sorted(name for name, seen in models.items() if seen is None or not seen.whole),
    }


def sentences(evaluation: dict[str, Any]) -> list[str]:
    """What is to be said of rows that a model may remember and that no table leaves out; none where nothing is."""
    known = evaluation.get("leaks") or {}  # files of an earlier form have none
    said = []
    if known.get("rows") and "leak_free" not in evaluation["sets"]:
        said.append(f"{known['rows']:,} of these rows are known to stand in train too; no figure here leaves them out.")
    if known.get("chosen_on"):
        said.append(
            f"{known['chosen_on']:,} of these rows are known to stand among the val rows that epochs and temperatures "
            "were chosen on; every figure here has them."
        )
    if unrecorded := known.get("unrecorded"):
        said.append(f"Not known is which pictures were seen in training by {', '.join(f'`{n}`' for n in unrecorded)}.")
    return said


def _by_source(rows: Manifest, ids: frozenset[str]) -> dict[str, int]:
    counts = rows.frame.loc[rows.frame["sample_id"].isin(ids), "source"].value_counts().sort_index()
    return {str(source): int(n) for source, n in counts.items()}
