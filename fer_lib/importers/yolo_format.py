"""Datasets in YOLO's format: ``data.yaml`` and ``{train,valid,test}/{images,labels}``, one label file per image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from fer_lib.datasets.manifest import SPLIT_NAMES, SPLITS
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.importers.builder import BadRecord, Box, ImportBuilder
from fer_lib.importers.image_files import entries, exclude_images, files_below, image_folders, images_in
from fer_lib.importers.text_files import lines_of, numbers
from fer_lib.params.strict import parse


def dataset_folder(builder: ImportBuilder) -> Path:
    """The folder that holds ``data.yaml``: the root, or one folder in it."""
    root = builder.root
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
    content = content if isinstance(content, dict) else {}
    names = content.get("names")
    if isinstance(names, dict):
        names = [names.get(i) for i in range(len(names))]
    is_list = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    if not is_list or len(set(names)) < len(names) or content.get("nc", len(names)) != len(names):
        raise DataError(
            f"{path}: names must be a list, or a mapping from 0, 1, ..., of nc different names; it has "
            f"names {str(content.get('names'))[:200]} and nc {content.get('nc')!r}: repair it"
        )
    return names


def labelled_images(root: Path, builder: ImportBuilder) -> Iterator[tuple[str, Path, Path]]:
    """(split, image, label file); an image or a label file without its counterpart is a bad record."""
    tops = image_folders(builder, 1, SPLIT_NAMES, root)
    builder.ignored_files -= 1  # data.yaml
    for top, split in tops:
        folders, files = entries(top)
        if split == "all" or top / "images" not in folders:
            exclude_images(files_below(top), top, "all", builder)
            continue
        others = [folder for folder in folders if folder.name not in ("images", "labels")]
        exclude_images([*files, *(path for folder in others for path in files_below(folder))], top, split, builder)
        files = entries(top / "labels")[1] if top / "labels" in folders else []
        label_files = {path.stem: path for path in files if path.suffix == ".txt" and path.name != "classes.txt"}
        builder.ignored_files += len(files) - len(label_files)
        for image in images_in(top / "images", split, builder):
            with builder.record(str(image)):
                if image.stem not in label_files:
                    text = f"{top / 'labels'} has no {image.stem}.txt, or it is another image's of that stem"
                    raise BadRecord("missing label file", text)
                yield split, image, label_files.pop(image.stem)
        for path in label_files.values():
            builder.add_bad("missing image", f"{path} has no image in {top / 'images'}")


def pixel_box(sides: list[str], size: tuple[int, int]) -> Box | None:
    """The box of centre x, y, width and height, as shares of an image of ``size``; None for the whole image."""
    (x, y, w, h), (height, width) = numbers(sides, "wrong box"), size
    edges = ((y - h / 2) * height, (x - w / 2) * width, (y + h / 2) * height, (x + w / 2) * width)
    box = tuple(round(edge) for edge in edges)
    return None if box == (0, 0, height, width) else box


def count_lines(root: Path) -> int:
    """The lines of all label files that are not blank, also in folders that are not read."""
    files = (path for path in root.glob("*/labels/**/[!.]*.txt") if path.name != "classes.txt")
    return sum(1 for path in files for _ in lines_of(path))


def add_labels(lines: dict[tuple[str, str, str], list[str]], builder: ImportBuilder) -> None:
    """Make the imported images a YOLO dataset of the seven classes; ``lines``: (split, folder, stem) -> label lines."""
    for (_, folder, stem), texts in lines.items():
        builder.add_text(f"{folder}/labels/{stem}.txt", "\n".join(texts) + "\n")
    folders = {split: sorted({f"{folder}/images" for part, folder, _ in lines if part == split}) for split in SPLITS}
    content = {split: paths for split, paths in folders.items() if paths}
    content |= {"nc": NUM_CLASSES, "names": list(EMOTIONS)}
    builder.add_text("data.yaml", yaml.safe_dump(content, sort_keys=False))
