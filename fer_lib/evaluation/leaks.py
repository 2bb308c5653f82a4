"""Rows that are evaluated although they stand in train too: known or not, allowed or not, and said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fer_lib.datasets.build import twins
from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import DataError
from fer_lib.strict import closest


def known_leaks(manifest: Manifest, split: str) -> set[str]:
    """Sample ids of ``split`` known to stand in train too: by their very content, or because an audit found them.

    An audit leaves what it found in the manifest's metadata when its rule kept such rows.
    """
    recorded = manifest.meta.get("audit", {}).get("leaks", {}).get(split, [])
    here = manifest.frame.loc[manifest.frame["split"] == split, "sample_id"]
    return twins(manifest, split) | (set(recorded) & set(here))


def checked_leaks(
    manifest: Manifest, rows: Manifest, split: str, allowed: Sequence[str]
) -> tuple[set[str], dict[str, Any]]:
    """The known leaks among ``rows`` (of ``manifest``), and what a result says of them: rows, by_source, allowed.

    DataError when ``allowed`` names no source of the manifest, or not every source that leaks.
    """
    sources = sorted(set(manifest.frame["source"]))
    for name in allowed:
        if name not in sources:
            where = manifest.path or "the manifest"
            raise DataError(f"allow_leaks: {where} has no source {name!r}{closest(name, sources)}")
    found = known_leaks(manifest, split) & set(rows.sample_ids)
    by_source = rows.frame.loc[rows.frame["sample_id"].isin(found), "source"].value_counts().sort_index()
    counts = {str(source): int(n) for source, n in by_source.items()}
    if forbidden := [source for source in counts if source not in allowed]:
        listed = ", ".join(f"{source} {counts[source]:,}" for source in forbidden)
        raise DataError(
            f"{len(found):,} of the {len(rows):,} {split} rows of {manifest.path or 'the manifest'} are known to stand "
            f"in train too ({listed}), so a score on them is partly memory: take them out of train with an audit phase "
            "before training (kind: audit, or fer data audit), or allow them by name, which the result then says: "
            f"allow_leaks: [{', '.join(forbidden)}]"
        )
    return found, {"rows": len(found), "by_source": counts, "allowed": sorted(set(allowed) & set(counts))}
