"""``kill -9`` at any moment of packing, the same call again, and the pack is that of an unbroken build, to the byte."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from fer_lib.datasets.build import build_manifest
from fer_lib.importers import import_all
from fer_lib.params import ManifestParams, SourceSpec
from fer_lib.synthetic.dataset import write_raw

# Every cache on stdin starts one build in a process of its own, forked from one that has imported everything, so that a
# round costs what packing costs; an empty line asks for its end.  A round writes its process' number, "ready" just
# before the build, the result after it, and "gone" when its end was asked for and came.
SERVER = """
import os, sys
from pathlib import Path
from fer_lib.datasets import facepack, facepack_writer
from fer_lib.datasets.manifest import Manifest
from fer_lib.faces.contract import FaceContract
facepack_writer.CHUNK = 8
manifest, kind = sys.argv[1:3]

def build(cache):
    rows = Manifest.read(manifest)
    print("ready", flush=True)
    pack = facepack.open_or_build(rows, FaceContract(image_size=224, clahe=True), Path(cache), kind=kind)
    print(len(pack.faces), pack.faces[len(rows) - 1].sum(), flush=True)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        build(line.strip())
        os._exit(0)
    print(child, flush=True)
    sys.stdin.readline()
    os.waitpid(child, 0)  # until here the number is no other process'
    print("gone", flush=True)
"""
# A process as any user starts it, which leaves its number once it packs.
ALONE = """
import os, sys
from pathlib import Path
from fer_lib.datasets import facepack, facepack_writer
from fer_lib.datasets.manifest import Manifest
from fer_lib.faces.contract import FaceContract
from fer_lib.storage import progress
facepack_writer.CHUNK = 8
rows, packs = Manifest.read(sys.argv[1]), Path(sys.argv[3]).with_suffix(".packs")

def observe(record):
    if record["done"] > record["first"] and (not packs.exists() or str(os.getpid()) not in packs.read_text().split()):
        with open(packs, "a") as out:
            print(os.getpid(), record["done"], file=out)

progress.INTERVAL = 0.0
with progress.observed_by(observe):
    pack = facepack.open_or_build(
        rows, FaceContract(image_size=224, clahe=True), Path(sys.argv[3]), kind=sys.argv[2]
    )
print(len(pack.faces), pack.faces[len(rows) - 1].sum())
"""
FACES, ROUNDS = 600, 200
FILES = ("faces.u8", "faces.jsonl")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    raw = write_raw(folder / "raw", "tree", faces=FACES, seed=2, size=48)
    import_all([SourceSpec(source="tree", root=str(raw))], folder / "imports")
    build_manifest(ManifestParams(), folder / "imports", folder / "manifest")
    return folder / "manifest" / "manifest.parquet"


class Server:
    def __init__(self, manifest, kind):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(manifest), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, cache):
        """The number of a process that is about to pack into ``cache``."""
        self.say(str(cache))
        lines = [self.line(), self.line()]  # the two write at once, in any order
        assert "ready" in lines
        lines.remove("ready")
        return int(lines[0])

    def end(self):
        """What the build said, blank when it was killed before."""
        self.say("")
        lines = [self.line()]
        while lines[-1] != "gone":
            lines.append(self.line())
        return " ".join(lines[:-1])

    def say(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def line(self):
        found = self.process.stdout.readline().strip()
        assert found, "the process that starts builds has ended"
        return found

    def stop(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


@pytest.fixture
def server(manifest, request):
    server = Server(manifest, request.param)
    server.kind = request.param
    yield server
    server.stop()


def content(cache):
    [folder] = cache.glob("pack-*")
    return {name: (folder / name).read_bytes() for name in FILES}


def noted(cache):
    """How many lines the unfinished pack's index has."""
    files = list(cache.glob("pack-*.partial/faces.jsonl"))
    return files[0].read_bytes().count(b"\n") if files else 0


def finished(cache):
    return any(cache.glob("pack-*/faces.jsonl")) and not any(cache.glob("*.partial"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="builds are forked")
@pytest.mark.parametrize("server", ["faces", "none"], indirect=True)
def test_kills_do_not_show_in_the_pack(server, tmp_path):
    whole, cache, chance = tmp_path / "whole", tmp_path / "cut", random.Random(server.kind)
    server.start(whole)
    began = time.perf_counter()
    said = server.end()
    chunk = (time.perf_counter() - began) / (FACES / 8)
    before, lengths, landed = 0, [], 0
    for number in range(ROUNDS):
        child = server.start(cache)
        while number % 2 and noted(cache) <= before and not finished(cache):  # every other kill: beyond a new chunk
            time.sleep(chunk / 20)
        time.sleep(chance.uniform(0.0, 4 * chunk))  # anywhere in a chunk, or in what comes before the first
        os.kill(child, signal.SIGKILL)
        server.end()
        if finished(cache):
            break
        lengths.append(noted(cache))
        landed += lengths[-1] > before
        before = lengths[-1]
    server.start(cache)
    assert server.end() == said
    print(f"{server.kind}: {chunk * 1000:.1f} ms a chunk, killed at {lengths}")
    assert finished(cache) and lengths == sorted(lengths), f"what was done is kept: {lengths}"
    assert landed >= 5 and len(set(lengths)) >= 5, f"too few kills fell into packing: {lengths}"
    assert content(cache) == content(whole)


def test_processes_that_start_together_survive_the_packers_death(manifest, tmp_path):
    def start(cache):
        words = [sys.executable, "-c", ALONE, str(manifest), "faces", str(cache)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def result(process):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out

    said = result(start(tmp_path / "whole"))
    together, packs = {p.pid: p for p in (start(tmp_path / "cut") for _ in range(3))}, tmp_path / "cut.packs"
    while not packs.exists() or not packs.read_text().endswith("\n"):
        time.sleep(0.002)
    holder = int(packs.read_text().split()[0])  # the one that packs holds the lock, the others wait or still start
    together[holder].kill()
    together.pop(holder).communicate()
    kept = noted(tmp_path / "cut")
    assert kept and not finished(tmp_path / "cut"), "killed while it packed"
    assert [result(p) for p in together.values()] == [said] * 2
    heirs = [tuple(map(int, line.split())) for line in packs.read_text().splitlines()[1:]]
    assert len(heirs) == 1 and heirs[0][0] in together, "one of the others went on, and the last found the pack made"
    assert heirs[0][1] == 8 * (kept + 1), "from where the killed one had come to"
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
