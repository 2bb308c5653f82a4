"""The chain of PIL, CLAHE and torchvision's v1 transforms that projects of this kind usually have, to compare with."""

import cv2
import numpy as np
from PIL import Image

import fer_lib  # noqa: F401  (lets torchvision load beside a CPU build of torch)
from fer_lib.datasets.manifest import BOX, Manifest
from fer_lib.faces.contract import FaceContract
from fer_lib.params import AugmentParams


def usual_chain(manifest: Manifest, size: int, clahe: bool, p: AugmentParams, seed: int):
    """Endless faces float32 [3, size, size], shuffled anew each time round, as such projects make them."""
    from torchvision import transforms

    side = FaceContract(image_size=size).resize
    chain = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=p.scale, ratio=p.ratio),
            transforms.RandomHorizontalFlip(p.flip),
            transforms.ColorJitter(*p.jitter),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    equaliser = cv2.createCLAHE(2.0, (8, 8))
    rows = manifest.frame.to_dict("records")
    rng = np.random.default_rng(seed)
    while True:
        for i in rng.permutation(len(rows)):
            with Image.open(manifest.resolve(rows[i]["image_path"])) as file:
                image = file.convert("RGB")
            top, left, bottom, right = (rows[i].get(side, np.nan) for side in BOX)
            if not np.isnan(top):
                image = image.crop((left, top, right, bottom))
            image = image.resize((side, side), Image.Resampling.BICUBIC)
            if clahe:
                lab = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2LAB)
                lab[..., 0] = equaliser.apply(np.ascontiguousarray(lab[..., 0]))
                image = Image.fromarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))
            yield chain(image)[None]
