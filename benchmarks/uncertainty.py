"""Does a model notice faces that people disagree on, and images that are unlike its training?

    python benchmarks/uncertainty.py --fer2013 FOLDER --ferplus FOLDER --expw FOLDER [--n 400] [--model URI] [--write]

Two uncertainties of one model, without training again.  Of the data: Spearman's rank correlation of the entropy of the
calibrated probabilities and the entropy of the FERPlus votes.  Of the model: the AUROC of each score between FER2013
faces and other images of the same size and without colour.  All FER2013 faces are of PublicTest, the validation part:
no test row is read.  One half of them gives class means, covariance and the limit of the energy, the other half is
measured.  ``--write`` writes docs/results/uncertainty.{json,md}.
"""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np
from _common import publish
from scipy.special import entr, logsumexp
from scipy.stats import rankdata, spearmanr

from fer_lib import load
from fer_lib.calibration.metrics import softmax
from fer_lib.calibration.uncertainty import fit_energy_limit
from fer_lib.faces.decode import decode
from fer_lib.models.bundle import ONNX
from fer_lib.models.bundle_format import INPUT, OUTPUT
from fer_lib.onnx_session import open_session
from fer_lib.synthetic.dataset import draw_faces

SIDE = 48  # pixels of a FER2013 face
VOTES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")  # FERPlus' columns, by class id
KINDS = {
    "corrupted faces": ("blur", "noise", "dark", "jpeg", "half hidden", "upside down"),
    "drawn faces": ("drawn",),
    "no faces": ("photo background", "texture"),
}
SCORES = {
    "energy": "energy -log sum exp z of the logits (Liu 2020)",
    "scaled energy": "the same of the logits over the temperature",
    "confidence": "1 - the largest calibrated probability",
    "entropy": "entropy of the calibrated probabilities",
    "centre distance": "distance to the nearest class mean of the embedding",
    "centre angle": "1 - cosine with the nearest class mean",
    "Mahalanobis": "Mahalanobis distance to the nearest class mean, one covariance (Lee 2018)",
}


def grey(image: np.ndarray) -> np.ndarray:
    """A FER2013-like face: uint8 RGB [48, 48, 3] without colour."""
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_GRAY2RGB)


def public_faces(fer2013: Path, ferplus: Path, n: int, rng) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Up to ``n`` faces of PublicTest that have votes for the seven classes: images, votes as shares, labels."""
    with open(ferplus / "fer2013_ferplus_map.csv", newline="", encoding="utf-8") as stream:
        jpegs = {row["row"]: row["fer2013_jpg"] for row in csv.DictReader(stream) if row["Usage"] == "PublicTest"}
    with open(ferplus / "fer2013new.csv", newline="", encoding="utf-8") as stream:
        rows = [(str(i), row) for i, row in enumerate(csv.DictReader(stream)) if str(i) in jpegs]
    counts = np.array([[float(row[name]) for name in VOTES] for _, row in rows])
    usable = np.flatnonzero(counts.sum(axis=1) > 0)
    chosen = np.sort(rng.choice(usable, min(n, len(usable)), replace=False))
    images = [decode(fer2013 / jpegs[rows[i][0]]) for i in chosen]
    votes = counts[chosen] / counts[chosen].sum(axis=1, keepdims=True)
    return images, votes, votes.argmax(axis=1)


def corruptions(rng) -> dict:
    """Name -> function of a uint8 RGB face."""

    def noise(face):
        return np.clip(face + rng.normal(0, 60, (SIDE, SIDE, 1)), 0, 255).astype(np.uint8)

    def hide_half(face):
        out = face.copy()
        out[:, rng.integers(2) * SIDE // 2 :][:, : SIDE // 2] = 0
        return out

    return {
        "blur": lambda face: cv2.GaussianBlur(face, (0, 0), 3),
        "noise": noise,
        "dark": lambda face: (255 * (face / 255) ** 4).astype(np.uint8),
        "jpeg": lambda face: cv2.imdecode(cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, 3])[1], 1),
        "half hidden": hide_half,
        "upside down": lambda face: face[::-1].copy(),
    }


def backgrounds(expw: Path, n: int, rng) -> list[np.ndarray]:
    """Squares of ExpW photos that touch no face box."""
    boxes: dict[str, list] = {}  # top, left, right, bottom
    for line in (expw / "label.lst").read_text().splitlines():
        name, _, *box = line.split()[:6]
        boxes.setdefault(name, []).append([float(v) for v in box])
    crops, names = [], sorted(boxes)
    while len(crops) < n:
        name = names[rng.integers(len(names))]
        photo = decode(expw / "origin" / name)
        height, width = photo.shape[:2]
        side = int(rng.uniform(0.15, 0.4) * min(height, width))
        top, left = rng.integers(height - side), rng.integers(width - side)
        apart = all(b <= top or t >= top + side or r <= left or x >= left + side for t, x, r, b in boxes[name])
        if side >= SIDE // 2 and apart:
            crops.append(grey(photo[top : top + side, left : left + side]))
    return crops


def textures(n: int, rng) -> list[np.ndarray]:
    """Noise of one scale, gratings and checks."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    images = []
    for i in range(n):
        if i % 3 == 0:
            values = cv2.resize(rng.random((2 ** rng.integers(2, 6),) * 2), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        else:
            angle, frequency = rng.uniform(0, np.pi), rng.uniform(2, 12)
            wave = np.sin(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)))
            other = np.sin(2 * np.pi * frequency * (y * np.cos(angle) - x * np.sin(angle)))
            values = wave if i % 3 == 1 else np.sign(wave * other)
        low, high = np.sort(rng.uniform(0, 255, 2))
        values = low + (high - low) * (values - values.min()) / np.ptp(values)
        images.append(np.repeat(np.clip(values, 0, 255).astype(np.uint8)[..., None], 3, axis=2))
    return images


class Model:
    """Logits and embeddings of a bundle's ONNX file."""

    def __init__(self, predictor):
        import onnx

        self.bundle = predictor.bundle
        proto = onnx.load(self.bundle.path / ONNX)
        last = next(node for node in proto.graph.node if OUTPUT in node.output)
        self.embedding = last.input[0]
        proto.graph.output.append(onnx.helper.make_tensor_value_info(self.embedding, onnx.TensorProto.FLOAT, None))
        self.session = open_session(proto.SerializeToString(), threads=1)

    def __call__(self, images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Logits [N, 7] and embeddings [N, D], float64."""
        parts = []
        for start in range(0, len(images), 64):
            faces = self.bundle.contract.batch([(image, None, None) for image in images[start : start + 64]])
            parts.append(self.session.run([OUTPUT, self.embedding], {INPUT: faces}))
        logits, embeddings = (np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True))
        return logits, embeddings


class Scores:
    """Scores that are larger for an unfamiliar image, fitted on familiar ones."""

    def __init__(self, temperature, embeddings: np.ndarray, labels: np.ndarray):
        self.temperature = temperature
        self.means = np.stack([embeddings[labels == k].mean(axis=0) for k in np.unique(labels)])
        centred = embeddings - self.means[np.searchsorted(np.unique(labels), labels)]
        covariance = centred.T @ centred / len(centred)
        shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        self.root = np.linalg.cholesky(np.linalg.inv(shrunk))

    def __call__(self, logits: np.ndarray, embeddings: np.ndarray) -> dict[str, np.ndarray]:
        scaled = self.temperature.apply(logits)
        probs = softmax(scaled)

        def nearest(points, means):
            return np.linalg.norm(points[:, None] - means, axis=2).min(axis=1)

        def unit(points):
            return points / np.linalg.norm(points, axis=1, keepdims=True)

        values = (
            -logsumexp(logits, axis=1), -logsumexp(scaled, axis=1), 1 - probs.max(axis=1), entr(probs).sum(axis=1),
            nearest(embeddings, self.means), 1 - (unit(embeddings) @ unit(self.means).T).max(axis=1),
            nearest(embeddings @ self.root, self.means @ self.root),
        )  # fmt: skip
        return dict(zip(SCORES, values, strict=True))


def auroc(familiar: np.ndarray, other: np.ndarray) -> float:
    """The probability that an unfamiliar image has the larger score; ties count half."""
    ranks = rankdata(np.concatenate([familiar, other]))
    return float((ranks[len(familiar) :].sum() - len(other) * (len(other) + 1) / 2) / (len(familiar) * len(other)))


def measure(a: argparse.Namespace) -> dict:
    rng, predictor = np.random.default_rng(a.seed), load(a.model)
    model = Model(predictor)
    images, votes, labels = public_faces(a.fer2013, a.ferplus, 2 * a.n, rng)
    logits, embeddings = model(images)
    first = np.arange(len(images)) % 2 == 0
    scores = Scores(predictor.bundle.temperature, embeddings[first], labels[first])
    familiar = scores(logits[~first], embeddings[~first])
    rule = predictor.bundle.energy_limit or fit_energy_limit(predictor.bundle.temperature.apply(logits[first]), a.share)
    faces = [image for image, own in zip(images, first, strict=True) if not own]
    others = {name: [corrupt(face) for face in faces] for name, corrupt in corruptions(rng).items()}
    others["drawn"] = [grey(image) for image in draw_faces(a.n, a.seed, SIDE)[0]]
    others["photo background"] = backgrounds(a.expw, a.n, rng)
    others["texture"] = textures(a.n, rng)
    rows = []
    for name, group in others.items():
        found = scores(*model(group))
        rows.append({
            "images": name, "n": len(group), "auroc": {key: auroc(familiar[key], found[key]) for key in SCORES},
            "above_limit": float((found["scaled energy"] > rule.value).mean()),
        })  # fmt: skip
    probs = softmax(predictor.bundle.temperature.apply(logits))
    entropies = [np.round(entr(values).sum(axis=1), 12) for values in (probs, votes)]
    return {
        "model": predictor.describe(), "weights_sha256": predictor.bundle.weights_sha256, "seed": a.seed,
        "n": len(images), "familiar": len(faces), "limit": rule.model_dump(),
        "familiar_above_limit": float((familiar["scaled energy"] > rule.value).mean()),
        "spearman": float(spearmanr(*entropies)[0]), "vote_entropy": float(entropies[1].mean()),
        "entropy": float(entropies[0].mean()), "rows": rows,
    }  # fmt: skip


def page(result: dict) -> str:
    """``uncertainty.md`` from ``uncertainty.json``."""
    rows, keys = result["rows"], list(SCORES)
    mean = {key: float(np.mean([row["auroc"][key] for row in rows])) for key in keys}
    best, limit = max(mean, key=mean.__getitem__), result["limit"]
    kind = {name: kind for kind, names in KINDS.items() for name in names}
    table = [["images", "", "n", *keys, "above the limit"], ["---"] * (len(keys) + 4)]
    for row in rows:
        shares = [f"{row['auroc'][key]:.3f}" for key in keys]
        table.append([row["images"], kind[row["images"]], f"{row['n']}", *shares, f"{row['above_limit']:.1%}"])
    table.append(["mean", "", "", *(f"{mean[key]:.3f}" for key in keys), ""])
    table.append(
        ["FER2013 faces", "", f"{result['familiar']}", *[""] * len(keys), f"{result['familiar_above_limit']:.1%}"]
    )
    blocks = [
        "# Two uncertainties of one model",
        "`python benchmarks/uncertainty.py --write` measures this and writes the page from "
        "[uncertainty.json](uncertainty.json).",
        f"Model: {result['model']}. Faces: {result['n']:,} of FER2013 PublicTest that have FERPlus votes, drawn with "
        f"seed {result['seed']}. No test row is read.",
        "## Of the data",
        "Spearman's rank correlation of the entropy of the calibrated probabilities and the entropy of the votes: "
        f"**{result['spearman']:.3f}**; 0.66 is published for a large ensemble. The mean entropies are "
        f"{result['entropy']:.2f} and {result['vote_entropy']:.2f} nats.",
        "## Of the model",
        "AUROC between one half of the faces and other images of the same size without colour; 0.5 is chance, 0.70 is "
        f"published. The other half gives the class means. The score with the best mean is the {best}. Above the "
        f"limit: scaled energy above {limit['value']:.3f}, fitted on {limit['n']} rows ({limit['fitted_on']}), which a "
        f"new face like these exceeds with a probability of at most {limit['share']:.0%}.",
        "\n".join(f"| {' | '.join(cells)} |" for cells in table),
        "\n".join(f"- {key}: {text}" for key, text in SCORES.items()),
    ]
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fer2013", type=Path, required=True, help="the unpacked FER2013 image tree")
    parser.add_argument("--ferplus", type=Path, required=True, help="FERPlus with fer2013_ferplus_map.csv")
    parser.add_argument("--expw", type=Path, required=True, help="ExpW in its native layout")
    parser.add_argument("--model", default="packaged", help="any model with an ONNX file")
    parser.add_argument("--n", type=int, default=400, help="images of each kind")
    parser.add_argument(
        "--share", type=float, default=0.01, help="familiar faces above the limit, for a model without one"
    )
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--write", action="store_true", help="write docs/results/uncertainty.{json,md}")
    a = parser.parse_args()
    result = measure(a)
    print(page(result))
    if a.write:
        publish("uncertainty", result, page(result))


if __name__ == "__main__":
    main()
