"""ExpW, every face: a row per line of ``label.lst``, with its photo, linked once, and its box."""

from functools import partial

from fer_lib.importers.builder import ImportBuilder, Source
from fer_lib.importers.expw import add_faces, add_photo_face
from fer_lib.importers.splits import OPTIONS


def read(builder: ImportBuilder) -> None:
    add_faces(builder, partial(add_photo_face, builder=builder))


SOURCE = Source(read, OPTIONS)
