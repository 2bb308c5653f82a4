"""CK+ (Lucey et al. 2010) in class folders, ``<class>/S010_004_00000017.png``."""

from __future__ import annotations

import re
from pathlib import Path

from fer_lib.importers import register
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.subjects import class_folders, import_by_subject, shots
from fer_lib.params import SourceSpec

_SUBJECT = re.compile(r"S\d{3}(?=_)")


@register("ckplus", reads=("split_seed", "split_fracs"))
def read(spec: SourceSpec, root: Path, draft: ImportBuilder) -> None:
    """The person is the first four characters of the name, S and three digits; the split goes by person."""
    draft.layout = "ckplus"
    found = shots(class_folders(root, draft), _subject, draft)
    import_by_subject(found, root, spec, draft)


def _subject(name: str) -> str | None:
    match = _SUBJECT.match(name)
    return match.group() if match else None
