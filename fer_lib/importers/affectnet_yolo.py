"""AffectNet as exported for YOLO: ``data.yaml`` and ``{train,valid,test}/{images,labels}``, one box per line.

Lines whose class is none of the seven emotions are dropped and counted.  Boxes are rounded to whole pixels.  A row
whose box covers the whole image is stored without a box, as a face that is cropped already.  The folder ``images/``
that the import writes is itself a YOLO dataset: ``data.yaml`` and label files, renumbered to the seven classes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import yaml

from fer_lib.datasets.manifest import SPLITS, content_id
from fer_lib.emotions import EMOTIONS, NUM_CLASSES, class_id
from fer_lib.errors import DataError
from fer_lib.importers.builder import BadRecord, ImportBuilder, Source
from fer_lib.importers.image_files import entries, exclude_below, exclude_images, files_below, images_in, require_folder
from fer_lib.importers.text_files import lines_of, numbers, whole_number, word_lines
from fer_lib.importers.tree import SPLIT_NAMES
from fer_lib.params.strict import parse


def read(builder: ImportBuilder) -> None:
    home = dataset_folder(builder)
    names = class_names(home / "data.yaml")
    labels = [class_id(name) for name in names]
    contents, view = defaultdict(dict), defaultdict(list)
    for split, image, label_file in labelled_images(home, builder):
        relative, lines = image.relative_to(home), list(word_lines(label_file, 5, builder))
        if not lines:
            builder.exclude(split, "no label line")
        for where, (number, *sides) in lines:
            with builder.record(where):
                index = whole_number(number, range(len(names)), "class id out of range")
                if labels[index] is None:
                    builder.exclude(split, names[index])
                    continue
                if builder.skip(split, labels[index]):
                    continue
                add_face(image, relative.as_posix(), split, labels[index], sides, builder)
                view[split, relative.parts[0], image.stem].append(" ".join((str(labels[index]), *sides)))
                contents[image.stem][split] = content_id(builder.image_bytes(image))
    write_view(view, builder)
    ambiguous = sum(len(set(by_split.values())) > 1 for by_split in contents.values())
    if ambiguous:
        builder.notes.append(f"{ambiguous} file stems name different images in different splits")
    builder.details = {
        "old_names": names,
        "new_names": list(EMOTIONS),
        "mapping": {name: None if i is None else EMOTIONS[i] for name, i in zip(names, labels, strict=True)},
        "label_lines_kept": len(builder.rows),
        # counting reads every label file again
        "label_lines_dropped": None if builder.limit else count_lines(home) - len(builder.rows),
        "ambiguous_stems": ambiguous,
    }


def write_view(view: dict[tuple[str, str, str], list[str]], builder: ImportBuilder) -> None:
    """Make the imported images a YOLO dataset of the seven classes; ``view``: (split, folder, stem) -> label lines."""
    for (_, folder, stem), lines in view.items():
        builder.add_text(f"{folder}/labels/{stem}.txt", "\n".join(lines) + "\n")
    folders = {split: sorted({f"{folder}/images" for part, folder, _ in view if part == split}) for split in SPLITS}
    content = {split: paths for split, paths in folders.items() if paths}
    content |= {"nc": NUM_CLASSES, "names": list(EMOTIONS)}
    builder.add_text("data.yaml", yaml.safe_dump(content, sort_keys=False))


def dataset_folder(builder: ImportBuilder) -> Path:
    """The folder that holds ``data.yaml``: the root, or one folder in it."""
    root = builder.root
    require_folder(builder, "data.yaml")
    folders = [folder for folder in (root, *entries(root)[0]) if (folder / "data.yaml").is_file()]
    if not folders or (len(folders) > 1 and folders[0] != root):
        raise DataError(f"{builder.name}: {len(folders)} data.yaml in {root} and its folders: name the right folder")
    return folders[0]


def class_names(path: Path) -> list[str]:
    """Class names by id; ``names`` in ``data.yaml`` is a list or a mapping {id: name}."""
    try:
        content = parse(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no readable YAML ({error}): repair it") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: names must be a list, or a mapping from 0, 1, ... to names, got {str(names)[:200]}")
    if content.get("nc", len(names)) != len(names):
        raise DataError(f"{path}: nc is {content['nc']!r} but there are {len(names)} names; repair one of them")
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise DataError(f"{path}: names has {twice[0]!r} twice; repair it")
    return names


def labelled_images(home: Path, builder: ImportBuilder) -> Iterator[tuple[str, Path, Path]]:
    """(split, image, label file); an image or a label file without its counterpart is a bad record."""
    tops, files = entries(home)
    exclude_images([path for path in files if path.name != "data.yaml"], "all", f"loose in {home.name}", builder)
    for top in tops:
        split = SPLIT_NAMES.get(top.name.lower())
        if split is None or not (top / "images").is_dir():
            exclude_below(top, "all", builder, "no split with an images folder")
            continue
        folders, files = entries(top)
        for folder in folders:
            if folder.name not in ("images", "labels"):
                exclude_below(folder, split, builder, "neither images nor labels")
        exclude_images(files, split, "beside images/", builder)
        files = entries(top / "labels")[1] if (top / "labels").is_dir() else []
        label_files = {path.stem: path for path in files if is_label_file(path)}
        builder.ignored_files += len(files) - len(label_files)
        stems = set()
        for image in images_in(top / "images", split, builder):
            with builder.record(str(image)):
                if image.stem in stems:
                    raise BadRecord("two pictures of one stem", f"{image.stem}.txt could be about either image")
                stems.add(image.stem)
                if image.stem not in label_files:
                    raise BadRecord("missing label file", f"{top / 'labels'} has no {image.stem}.txt")
                yield split, image, label_files[image.stem]
        for stem in sorted(set(label_files) - stems):
            builder.add_bad("missing image", f"{label_files[stem]} has no image in {top / 'images'}")


def is_label_file(path: Path) -> bool:
    return path.suffix == ".txt" and path.name != "classes.txt"


def count_lines(home: Path) -> int:
    """The lines of all label files that are not blank, also in folders that are not read."""
    folders = (top / "labels" for top in entries(home)[0] if (top / "labels").is_dir())
    return sum(1 for folder in folders for path in files_below(folder) if is_label_file(path) for _ in lines_of(path))


def add_face(image: Path, relative: str, split: str, label: int, sides: list[str], builder: ImportBuilder) -> None:
    """Add a row; ``sides``: centre x, y, width and height of its box as shares of the image."""
    (x, y, w, h), (height, width) = numbers(sides, "wrong box"), builder.photo_size(image)
    edges = ((y - h / 2) * height, (x - w / 2) * width, (y + h / 2) * height, (x + w / 2) * width)
    box = tuple(round(edge) for edge in edges)
    if box == (0, 0, height, width):
        builder.add_file(image, relative, record=relative, split=split, label=label)
    else:
        record = f"{relative}#" + ",".join(f"{side:g}" for side in box)  # the same in whatever order the lines are
        builder.add_file(image, relative, box=box, record=record, split=split, label=label, orig_image=relative)


DECLARATIONS = {"affectnet_yolo_format": Source(read)}
