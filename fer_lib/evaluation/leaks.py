"""Leaks: evaluated rows whose image is also in training data.

A row leaks when its image, or a near-duplicate that an audit found, is in the training split, or for test rows in val,
where epochs and temperatures are chosen.  The manifest itself and each model's training exposure are checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import TrainingExposure, content_numbers
from fer_lib.errors import DataError
from fer_lib.params.strict import closest


@dataclass(frozen=True)
class Leaks:
    """Sample ids of leaked rows: ``trained_on``, and ``selected_on`` (in val only)."""

    trained_on: frozenset[str]
    selected_on: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        return self.trained_on | self.selected_on


def known_leaks(manifest: Manifest, split: str, exposures: Sequence[TrainingExposure] = ()) -> Leaks:
    """The leaks among the rows of ``split`` (test or val), from the manifest's own splits and from ``exposures``.

    Val rows are never ``selected_on``: they exist for selection.
    """
    train, val = (manifest.frame.loc[manifest.frame["split"] == name, "content_id"] for name in ("train", "val"))
    sources = [TrainingExposure.of(train, val), *exposures]
    rows = manifest.frame.loc[manifest.frame["split"] == split, ["sample_id", "content_id"]]
    near_duplicates = manifest.meta.get("twins", {})
    images = [[content, *near_duplicates.get(row, ())] for row, content in rows.itertuples(index=False)]
    owner = np.repeat(np.arange(len(rows)), [len(contents) for contents in images])
    image_numbers = content_numbers(content for contents in images for content in contents)

    def leaked(exposed: list[np.ndarray]) -> frozenset[str]:
        matches = np.isin(image_numbers, np.concatenate(exposed))
        return frozenset(rows["sample_id"].iloc[np.unique(owner[matches])])

    trained_on = leaked([s.trained_on for s in sources])
    selected_on = leaked([s.selected_on for s in sources]) - trained_on if split == "test" else frozenset()
    return Leaks(trained_on, selected_on)


def checked_leaks(
    manifest: Manifest,
    rows: Manifest,
    split: str,
    allowed: Sequence[str],
    models: Mapping[str, TrainingExposure | None],
) -> tuple[Leaks, dict[str, Any]]:
    """The known leaks among ``rows`` (of ``manifest``), and their summary for a result.

    ``models``: each model's training exposure, None without a record.  The summary: the count of leaked ``rows``, their
    counts ``by_source``, the count only ``chosen_on``, the sources ``allowed``, and the models without a complete
    record, ``unrecorded``.
    Raises DataError when ``allowed`` names an unknown source, or misses a source that leaks.
    """
    sources = sorted(set(manifest.frame["source"]))
    for name in allowed:
        if name not in sources:
            where = manifest.path or "the manifest"
            raise DataError(f"allow_leaks: {where} has no source {name!r}{closest(name, sources)}")
    here = frozenset(rows.sample_ids)
    known = known_leaks(manifest, split, [s for s in models.values() if s is not None])
    leaks = Leaks(known.trained_on & here, known.selected_on & here)
    counts, either = _by_source(rows, leaks.trained_on), _by_source(rows, leaks.all)
    if forbidden := [source for source in either if source not in allowed]:
        listed = ", ".join(f"{source} {either[source]:,}" for source in forbidden)
        val = f" and {len(leaks.selected_on):,} in val" if leaks.selected_on else ""
        raise DataError(
            f"{len(leaks.trained_on):,} of the {len(rows):,} {split} rows of {manifest.path or 'the manifest'} are "
            f"known to be in train too{val}, here or where a model was trained ({listed}), so a score on them is "
            "partly memory: remove them with an audit phase (kind: audit, or fer data audit), then train and evaluate "
            f"on its manifest; or allow them by name, which the result records: allow_leaks: [{', '.join(forbidden)}]"
        )
    return leaks, {
        "rows": len(leaks.trained_on),
        "by_source": counts,
        "chosen_on": len(leaks.selected_on),
        "allowed": sorted(set(allowed) & set(either)),
        "unrecorded": sorted(name for name, record in models.items() if record is None or not record.complete),
    }


def leak_warnings(evaluation: dict[str, Any]) -> list[str]:
    """Warnings about leaked rows that are still included in the tables, one sentence each."""
    leaks = evaluation.get("leaks") or {}  # files of older versions have none
    warnings = []
    if leaks.get("rows") and "leak_free" not in evaluation["sets"]:
        warnings.append(f"{leaks['rows']:,} of these rows are known to be in train too; every figure includes them.")
    if leaks.get("chosen_on"):
        warnings.append(
            f"{leaks['chosen_on']:,} of these rows are known to be among the val rows that epochs and temperatures "
            "were chosen on; every figure includes them."
        )
    if unrecorded := leaks.get("unrecorded"):
        names = ", ".join(f"`{name}`" for name in unrecorded)
        warnings.append(f"The training images of {names} are not known, so leaks from there would go unnoticed.")
    return warnings


def _by_source(rows: Manifest, ids: frozenset[str]) -> dict[str, int]:
    counts = rows.frame.loc[rows.frame["sample_id"].isin(ids), "source"].value_counts().sort_index()
    return {str(source): int(n) for source, n in counts.items()}
