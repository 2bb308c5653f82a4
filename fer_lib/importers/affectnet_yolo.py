"""AffectNet as exported for YOLO: ``data.yaml`` and ``{train,valid,test}/{images,labels}``, one box per line.

Lines whose class is none of the seven emotions are dropped and counted.  Boxes are rounded to whole pixels.  A row
whose box covers the whole image is stored without a box, as a face that is cropped already.  The folder ``images/``
that the import writes is itself a YOLO dataset: ``data.yaml`` and label files, renumbered to the seven classes.
"""

from collections import defaultdict

from fer_lib.datasets.manifest import content_id
from fer_lib.emotions import EMOTIONS, class_id
from fer_lib.importers import yolo_format
from fer_lib.importers.builder import ImportBuilder, Source
from fer_lib.importers.text_files import whole_number, word_lines


def read(builder: ImportBuilder) -> None:
    root = yolo_format.dataset_folder(builder)
    names = yolo_format.class_names(root / "data.yaml")
    contents, view = defaultdict(dict), defaultdict(list)
    for split, image, label_file in yolo_format.labelled_images(root, builder):
        relative, lines = image.relative_to(root), list(word_lines(label_file, 5, builder))
        if not lines:
            builder.exclude(split, "no label line")
        for where, (number, *sides) in lines:
            with builder.record(where):
                name = names[whole_number(number, range(len(names)), "class id out of range")]
                if (label := builder.wanted(split, name)) is None:
                    continue
                box, record = yolo_format.pixel_box(sides, builder.photo_size(image)), relative.as_posix()
                row = {"split": split, "label": label, "record": record}
                if box:  # the same record in whatever order the lines are
                    row |= {"record": f"{record}#" + ",".join(f"{side:g}" for side in box), "orig_image": record}
                builder.add_image(image, record, box=box, **row)
                view[split, relative.parts[0], image.stem].append(" ".join((str(label), *sides)))
                contents[image.stem][split] = content_id(builder.image_bytes(image))
    yolo_format.add_labels(view, builder)
    if ambiguous := sum(len(set(by_split.values())) > 1 for by_split in contents.values()):
        builder.notes.append(f"{ambiguous} file stems name different images in different splits")
    builder.details = {
        "old_names": names,
        "new_names": list(EMOTIONS),
        "mapping": {name: None if class_id(name) is None else EMOTIONS[class_id(name)] for name in names},
        "label_lines_kept": len(builder.rows),
        # counting reads every label file again
        "label_lines_dropped": None if builder.limit else yolo_format.count_lines(root) - len(builder.rows),
        "ambiguous_stems": ambiguous,
    }


DECLARATIONS = {"affectnet_yolo_format": Source(read)}
