"""RAF-AU (Yan et al. 2020): refused, with the reason."""

from __future__ import annotations

from pathlib import Path

from fer_lib.errors import DataError
from fer_lib.importers import register
from fer_lib.importers.base import ImportBuilder
from fer_lib.params import SourceSpec


@register("raf_au")
def read(spec: SourceSpec, root: Path, draft: ImportBuilder) -> None:
    """Always raises :class:`DataError`."""
    raise DataError(
        f"{draft.name}: RAF-AU ({root}) labels facial action units, which muscles move, not one of the seven "
        "expressions, and no rule that its authors give turns one into the other: it can't be imported. Leave it out; "
        "RAF-DB's and RAF-ML's labels come in as rafdb_basic, rafdb_compound_mapped and rafml_argmax"
    )
