"""ExpW (Zhang et al. 2018): ``label.lst`` and photos, in ``origin/`` or in their 7z archive.

``expw_full`` has every face as photo and box; ``expw_hq`` the faces of confidence >= ``min_confidence``, by default as
JPEG crops with the content id of photo and box.  Both have the same split, made per photo.
"""

from collections.abc import Iterator
from pathlib import Path

from fer_lib.emotions import NUM_CLASSES
from fer_lib.importers import crops, subject_splits
from fer_lib.importers.archives import photo_folder
from fer_lib.importers.builder import ImportBuilder, Source
from fer_lib.importers.image_files import find_folder
from fer_lib.importers.text_files import file_name, numbers, whole_number, word_lines

LISTS = ("", "label", "data/label")  # as unpacked, and as in the folders of the original archive
PHOTOS = "origin/origin origin Images image/origin data/image/origin origin/image image data/image".split()


def read(builder: ImportBuilder) -> None:
    spec, is_hq = builder.spec, builder.spec.source == "expw_hq"
    path = find_folder(builder, ("label.lst",), LISTS) / "label.lst"
    # a stable sort: of two lines of one face the first comes first
    faces = sorted(listed_faces(path, builder), key=lambda face: (face[1]["orig_image"], int(face[1]["face_id"])))
    folder = photo_folder(builder, PHOTOS, "origin.7z")
    builder.details = {
        "images_dir": str(folder),
        "label_file": str(path),
        "min_confidence": spec.min_confidence if is_hq else None,
        "write_crops": is_hq and spec.crop,
        "rows_total": len(faces) + len(builder.bad),
        "bad_label": sum(kind == "label out of range" for kind, _ in builder.bad),
    }
    split_of = subject_splits.split_photos([(row["orig_image"], row["label"]) for _, row in faces], builder)
    for where, row in faces:
        photo, split = row["orig_image"], split_of[row["orig_image"]]
        with builder.record(where):
            if is_hq and row["confidence"] < spec.min_confidence:
                builder.exclude(split, f"confidence below {spec.min_confidence:g}")
            elif is_hq and spec.crop:
                crops.add_crop(folder / photo, f"{photo}-{row['face_id']}.jpg", builder, split=split, **row)
            else:
                builder.add_image(folder / photo, photo, split=split, **row)
    counts = {f"{split}|{name}": n for split, of in builder.class_counts().items() for name, n in of.items() if n}
    builder.details |= {"rows_kept": len(builder.rows), "counts": counts}


def listed_faces(path: Path, builder: ImportBuilder) -> Iterator[tuple[str, dict]]:
    """(place, row without its split) of the lines ``photo face top left right bottom confidence label``."""
    for where, (photo, face, *texts, text) in word_lines(path, 8, builder):
        with builder.record(where):
            number, label = whole_number(face, range(10**9), "wrong face id"), whole_number(text, range(NUM_CLASSES))
            top, left, right, bottom, confidence = numbers(texts, "wrong box")
            row = {"orig_image": file_name(photo), "face_id": str(number), "record": f"{photo}#{number}"}
            yield where, row | {"label": label, "confidence": confidence, "box": (top, left, bottom, right)}


HQ_OPTIONS = ("min_confidence", *crops.OPTIONS, *subject_splits.OPTIONS)
DECLARATIONS = {"expw_full": Source(read, subject_splits.OPTIONS), "expw_hq": Source(read, HQ_OPTIONS)}
