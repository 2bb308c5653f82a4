"""Sets of a few people in class folders: the split goes by person."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fer_lib.emotions import class_id
from fer_lib.errors import DataError
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.image_files import entries, pictures_of, relative_to, stray
from fer_lib.importers.lists import assign_splits
from fer_lib.params import SourceSpec


@dataclass(frozen=True)
class Shot:
    """A picture of a known person; ``label`` a class id."""

    path: Path
    label: int
    subject: str


def import_by_subject(shots: list[Shot], root: Path, spec: SourceSpec, draft: ImportBuilder) -> None:
    """Rows of ``shots``; all pictures of a person are in one split, dealt by the hash of (``split_seed``, person)."""
    split_of = assign_splits((shot.subject for shot in shots), spec.split_fracs, spec.split_seed)
    for shot in shots:
        relative = relative_to(root, shot.path)
        columns = {"record": relative, "split": split_of[shot.subject], "label": shot.label}
        draft.add_file(shot.path, relative, **columns, subject=shot.subject)
    draft.details = {"subjects": len(split_of), "split_fracs": list(spec.split_fracs), "seed": spec.split_seed}


def class_folders(root: Path, draft: ImportBuilder) -> Iterator[tuple[Path, int]]:
    """(picture, class id) of ``root/<class>/*`` by name; other folders are excluded and counted under ``all``."""
    if not root.is_dir():
        raise DataError(f"{draft.name}: {root} is a file; this layout wants the folder that holds the class folders")
    folders, files = entries(root)
    stray(files, "all", f"loose in {root.name}", draft)
    for folder in folders:
        pictures = pictures_of(folder, "all", draft)
        label = class_id(folder.name)
        if label is None:
            draft.exclude("all", folder.name, len(pictures))
            continue
        for path in pictures:
            yield path, label


def shots(
    found: Iterator[tuple[Path, int]], subject_of: Callable[[str], str | None], draft: ImportBuilder
) -> list[Shot]:
    """Pictures with the person that ``subject_of`` reads out of the file name; None is a problem of the draft."""
    out = []
    for path, label in found:
        subject = subject_of(path.name)
        if subject is None:
            draft.problem("no person in the file name", str(path))
        else:
            out.append(Shot(path, label, subject))
    return out
