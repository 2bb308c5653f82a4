"""How fast a live session is, from the file to the written row, beside the chain that such demos usually are.

    python benchmarks/live.py [--yunet FILE] [--seconds 20] [--turns 5] [--minutes 30] [--write]

A drawn person on a video of 640 x 360 pixels is worked through as fast as it goes by the same engine as ``fer live
--headless``: detection in every frame at full size, and detection at half size in every third frame with tracking
between, which are the defaults.  *Plain*: YuNet at full size as OpenCV runs it, PIL and torchvision's transforms,
PyTorch with a batch of one, the same smoothing, rows written with ``csv``, one after another.  They take turns; a ratio
is of neighbours, the median of the turns.  The long session looks at memory: its resident size after a warm-up against
that at the end.
"""

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch
from _common import RESULTS, goal, publish
from PIL import Image

import fer_lib  # noqa: F401  (lets torchvision load beside a CPU build of torch)
from fer_lib.calibration.metrics import softmax
from fer_lib.deploy.onnx_file import export_onnx
from fer_lib.deploy.packaged import FOLDER
from fer_lib.devices import describe_device
from fer_lib.emotions import NUM_CLASSES
from fer_lib.faces import yunet as yunet_net
from fer_lib.faces.contract import FaceContract
from fer_lib.live.session import Session, wait_until_end
from fer_lib.live.session_files import read_frames
from fer_lib.live.smoothing import Smoother
from fer_lib.live.synthetic_session import FPS as DRAWN_FPS
from fer_lib.live.synthetic_session import make_script, render_frames
from fer_lib.models.bundle import ONNX, derive_bundle, read_bundle, write_bundle
from fer_lib.models.classifier import build_classifier
from fer_lib.params import LiveParams, SmoothingParams

SIZE, FPS = (640, 360), 25.0
MOBILENET = dict(backbone="mobilenetv3_large_100", image_size=224, embed_dim=512, dropout=0.2, head="cosine", s=30.0)
WAYS = {"full size, every frame": (1.0, 1), "half size, every third": (0.5, 3)}  # detect_scale, detect_every
DEFAULT = "half size, every third"
WANTED = {"full size, every frame": 60, "half size, every third": 100}  # frames a second
P95, RATIO, FIRST, DRIFT = 20.0, 3.0, 1.0, 0.01  # ms, times, seconds, share
WARM = 0.2  # of the long session, before memory is looked at


def clip(file: Path, seconds: float) -> Path:
    """A drawn person, moving, on 640 x 360 pixels."""
    images = render_frames(1337, make_script(1337))[0]
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE)
    for i in range(round(seconds * FPS)):
        face = images[int(i * DRAWN_FPS / FPS) % len(images)]
        height = SIZE[1]
        width = round(face.shape[1] * height / face.shape[0])
        face = cv2.resize(face, (width, height), interpolation=cv2.INTER_CUBIC)
        left = (SIZE[0] - width) // 2
        whole = cv2.copyMakeBorder(face, 0, 0, left, SIZE[0] - width - left, cv2.BORDER_REPLICATE)
        video.write(whole[..., ::-1])
    video.release()
    return file


def mobilenet(folder: Path):
    """mobilenetv3_large at 224 pixels with drawn weights: what it says means nothing, what it costs does."""
    model = drawn(MOBILENET)
    shared = dict(name="mobilenetv3_large", kind="student", model_config=MOBILENET, temperature=None, metrics={},
                  contract=FaceContract(image_size=224), training_prior=[1 / NUM_CLASSES] * NUM_CLASSES,
                  ids={"manifest_sha256": "", "evalset_id": "", "protocol_id": ""})  # fmt: skip
    bundle = write_bundle(folder / "torch", state_dict=model.state_dict(), **shared)
    return derive_bundle(bundle, folder / "onnx", extra_files={ONNX: export_onnx(bundle, folder / "model.onnx")})


def drawn(config: dict):
    """A network of random weights whose batch norms have seen something: numbers that fade away would slow it down."""
    torch.manual_seed(0)
    model = build_classifier(config).train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(8, 3, config["image_size"], config["image_size"]))
    return model.eval()


def session(video: Path, model: Path, way: str, folder: Path, yunet: str) -> dict:
    """One session; its summary."""
    scale, every = WAYS[way]
    p = LiveParams(source=str(video), model=str(model), detector="yunet", detector_model=yunet, detect_scale=scale,
                   detect_every=every)  # fmt: skip
    live = Session(p, read_bundle(model), folder)
    live.start()
    found = wait_until_end(live)
    rows = len(read_frames(folder).frame_index)
    if rows != found["frames"]:
        raise SystemExit(f"{found['frames']} frames were judged and {rows} logged")
    return found | {"faces": float(np.mean(~np.isnan(read_frames(folder).probs).any(axis=1)))}


def plain(video: Path, model, folder: Path, yunet: str) -> float:
    """Frames a second of the usual chain."""
    from torchvision import transforms

    side = model.image_size
    chain = transforms.Compose([
        transforms.Resize((side, side)), transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    file = np.frombuffer(Path(yunet).read_bytes(), np.uint8)
    detector = cv2.FaceDetectorYN.create("onnx", file, np.empty(0, np.uint8), SIZE, 0.6)
    smoother = Smoother(SmoothingParams())
    capture = cv2.VideoCapture(str(video))
    began, frames = time.perf_counter(), 0
    with open(folder / "plain.csv", "w", newline="") as stream, torch.inference_mode():
        writer = csv.writer(stream)
        while (read := capture.read())[0]:
            image = cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
            found, probs = detector.detect(read[1])[1], None
            if found is not None:
                left, top, width, height = max(found[:, :4].tolist(), key=lambda box: box[2] * box[3])
                face = chain(Image.fromarray(image).crop((left, top, left + width, top + height)))
                probs = softmax(model.net(face[None]).numpy().astype(np.float64))[0]
            label = smoother.step(probs).label
            writer.writerow([frames, label, *(probs if probs is not None else [])])
            stream.flush()
            frames += 1
    return frames / (time.perf_counter() - began)


class Net:
    """A torch network of the same cost as the session's model."""

    def __init__(self, config: dict):
        self.net, self.image_size = drawn(config), config["image_size"]


def measure(name: str, bundle, video: Path, work: Path, a: argparse.Namespace) -> list[dict]:
    """A row a way of detecting, and the plain chain in turn with them."""
    net = Net(dict(bundle.meta["model"]))
    turns: list[dict] = []
    for turn in range(a.turns + 1):
        found = {}
        for i, way in enumerate(WAYS):
            found[way] = session(video, bundle.path, way, work / f"{name}-{turn}-{i}", a.yunet)
        found["plain"] = plain(video, net, work, a.yunet)
        turns += [found] if turn else []  # the first warms everything up
        print(name, turn, {k: round(v if k == "plain" else v["fps"], 1) for k, v in found.items()}, flush=True)
    rows = []
    for way in WAYS:
        rows.append({
            "model": name, "pixels": bundle.contract.image_size, "way": way,
            "fps": statistics.median(t[way]["fps"] for t in turns), "fps_min": min(t[way]["fps"] for t in turns),
            **{k: statistics.median(t[way]["latency_ms"][k] for t in turns) for k in ("p50", "p95", "p99")},
            "first_frame": max(t[way]["first_frame_sec"] for t in turns), "faces": turns[0][way]["faces"],
            "plain": statistics.median(t["plain"] for t in turns),
            "ratio": statistics.median(t[way]["fps"] / t["plain"] for t in turns),
        })  # fmt: skip
    return rows


def memory(video: Path, work: Path, a: argparse.Namespace) -> dict:
    """The resident size of this process over a long session."""
    p = LiveParams(source=str(video), model=str(FOLDER), detector="yunet", detector_model=a.yunet)
    live, own, seen = Session(p, read_bundle(FOLDER), work / "long"), psutil.Process(), []
    live.start()
    while live.wait(0.5) is None:
        seen.append((live.latency.frames, own.memory_info().rss))
    found, total = live.wait(), round(a.minutes * 60 * FPS)
    logged = len(read_frames(work / "long").frame_index)
    early = [rss for frames, rss in seen if WARM * total <= frames < 2 * WARM * total]
    late = [rss for frames, rss in seen if frames >= (1 - WARM) * total]
    first, last = statistics.median(early), statistics.median(late)
    return {"minutes": a.minutes, "frames": found["frames"], "expected": total, "logged": logged, "fps": found["fps"],
            "mib_early": first / 2**20, "mib_late": last / 2**20, "drift": last / first - 1,
            "mib_peak": max(rss for _, rss in seen) / 2**20}  # fmt: skip


def goals(rows: list[dict], long: dict) -> list[dict]:
    found = []
    for r in rows:
        found.append(goal(f"{r['model']}, {r['way']}, frames/s", r["fps"], WANTED[r["way"]], ".1f"))
        found.append(goal(f"{r['model']}, {r['way']}, p95 in ms", r["p95"], P95, ".1f", at_most=True))
        if r["way"] == DEFAULT:  # the session as it comes, beside the chain as it comes
            found.append(goal(f"{r['model']}, {r['way']}, times the plain chain", r["ratio"], RATIO, ".2f"))
    found.append(goal("first frame in s", max(r["first_frame"] for r in rows), FIRST, ".2f", at_most=True))
    found.append(goal(f"memory's drift over {long['minutes']:g} minutes of video", long["drift"], DRIFT, ".2%", True))
    found.append(goal("rows logged of each frame", long["logged"] / long["expected"], 1.0, ".4f"))
    return found


def page(result: dict) -> str:
    """The page."""
    long = result["long"]
    lines = [
        "# Speed of a live session",
        "",
        "`python benchmarks/live.py --write` measures this table and writes this page from [live.json](live.json). "
        f"Measured on {result['device']}, {result['cores']} cores.",
        "",
        *[f"- {g['text']}" for g in result["goals"]],
        "",
        f"A drawn person on {SIZE[0]} x {SIZE[1]} pixels, {result['seconds']:g} s at {FPS:g} frames/s, worked through "
        "as fast as it goes: decode, YuNet and the model by ONNX Runtime on one thread each, crop, smoothing, rows on "
        "the disk. Latency is from the decoded picture to its label. *Plain*: YuNet at full size in every frame, as "
        "OpenCV runs it with a thread a core, PIL and torchvision's "
        f"transforms, PyTorch with a batch of one, one step after another. They take turns, {result['turns']} of each "
        "that count; frames/s, quantiles and ratios are medians over turns, the first frame is the slowest.",
        "",
        "| model | pixels | detection | frames/s | slowest turn | p50 | p95 | p99 | first frame | plain | "
        "**times plain** |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in result["rows"]:
        lines.append(
            f"| {r['model']} | {r['pixels']} | {r['way']} | **{r['fps']:.1f}** | {r['fps_min']:.1f} | "
            f"{r['p50']:.1f} ms | {r['p95']:.1f} ms | {r['p99']:.1f} ms | {r['first_frame']:.2f} s | "
            f"{r['plain']:.1f} | **{r['ratio']:.2f}** |"
        )
    lines += [
        "",
        f"The long session: {long['frames']:,} frames ({long['minutes']:g} minutes of video), worked through at "
        f"{long['fps']:.0f} frames/s, {long['logged']:,} rows logged. Resident memory, medians: "
        f"{long['mib_early']:.1f} MiB after the first {WARM:.0%}, {long['mib_late']:.1f} MiB in the last {WARM:.0%}, "
        f"at most {long['mib_peak']:.1f} MiB.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    packaged = str(Path(yunet_net.__file__).with_name(yunet_net.YUNET_FILE))
    parser.add_argument("--yunet", default=packaged, help="YuNet's file; by default the package's")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the video that the turns look at")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=30.0, help="of the video of the long session")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}/live.json and its page")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="live-") as folder:
        work = Path(folder)
        video = clip(work / "short.mp4", a.seconds)
        rows = measure("packaged", read_bundle(FOLDER), video, work, a)
        rows += measure("mobilenetv3_large", mobilenet(work), video, work, a)
        long = memory(clip(work / "long.mp4", a.minutes * 60), work, a)
    device = describe_device("cpu")["name"]
    result = {"device": device, "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
              else os.cpu_count(), "seconds": a.seconds, "turns": a.turns, "rows": rows, "long": long,
              "goals": goals(rows, long)}  # fmt: skip
    print(page(result))
    if a.write:
        publish("live", json.loads(json.dumps(result)), page(result))


if __name__ == "__main__":
    main()
