"""FER2013 (Goodfellow et al. 2013): ``fer2013.csv``, or the tree of JPEGs whose names carry the official split.

``votes`` adds FERPlus' surviving votes as soft labels (the label stays FER2013's): by row for the CSV, through
``image_map`` for the tree ``<any>/<class>/<Usage>_*``.
"""

import re
from collections import defaultdict

from fer_lib.errors import DataError
from fer_lib.importers.builder import BadRecord, ImportBuilder, Source
from fer_lib.importers.image_files import image_folders, images_in
from fer_lib.importers.pixel_rows import add_pixel_rows
from fer_lib.importers.votes import USAGE, Votes, label_votes, read_image_map, read_votes
from fer_lib.storage.paths import external

USAGE_IN_NAME = re.compile("|".join(USAGE))


def read(builder: ImportBuilder) -> None:
    file = builder.root if builder.root.is_file() else builder.root / "fer2013.csv"
    votes = read_votes(external(builder.spec.votes), builder) if builder.spec.votes else None
    if file.is_file():
        builder.layout = "fer2013_csv"
        add_pixel_rows(file, votes, builder)
    else:
        builder.layout = "fer2013_tree"
        read_tree(vote_columns(votes, builder) if votes else None, builder)


def read_tree(columns: dict[str, dict] | None, builder: ImportBuilder) -> None:
    """Rows of ``<any>/<class>/*``; ``columns``: image -> manifest columns of its votes."""
    for folder, split in image_folders(builder, 2):
        for path in images_in(folder, split, builder):
            with builder.record():
                if (usage := USAGE_IN_NAME.search(path.name)) is None:
                    raise BadRecord("no Training, PublicTest or PrivateTest in the file name", str(path))
                voted = (columns or {}).get(path.relative_to(builder.root).as_posix(), {})
                builder.add_image(path, split=USAGE[usage.group()], label=folder.name, **voted)
    if columns is not None:
        mapped = sum(row["record"] in columns for row in builder.rows)
        soft = sum("soft_label" in row for row in builder.rows)
        if not mapped:
            raise DataError(f"{builder.name}: {builder.spec.image_map} names no image under {builder.root}; check both")
        builder.notes.append(f"{mapped} of {len(builder.rows)} rows are in the image_map, {soft} got a soft label")


def vote_columns(votes: Votes, builder: ImportBuilder) -> dict[str, dict]:
    """Image -> manifest columns of its votes; the vote rows of one image are added up."""
    counts = defaultdict(list)
    for row, image in read_image_map(votes, builder).items():
        counts[image].append(votes.rows[row].counts)
    return {image: label_votes(list(map(sum, zip(*rows, strict=True))))[1] for image, rows in counts.items()}


DECLARATIONS = {"fer2013": Source(read, ("votes", "image_map"))}
