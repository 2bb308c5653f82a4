"""``kill -9`` at any moment of packing, the same call again, and the pack is that of an unbroken build, to the byte."""

import random
import subprocess
import sys
import time

import pytest

from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.sources import import_all
from fer_lib.datasets.synthetic import write_raw
from fer_lib.params import ManifestParams, SourceSpec

SCRIPT = """
import sys
from pathlib import Path
from fer_lib.datasets import facepack
from fer_lib.datasets.manifest import Manifest
from fer_lib.faces.contract import FaceContract
facepack.CHUNK = 8
rows = Manifest.read(sys.argv[1])
pack = facepack.open_or_build(rows, FaceContract(image_size=224, clahe=True), Path(sys.argv[2]), kind=sys.argv[3])
print(len(pack.faces), pack.faces[len(rows) - 1].sum())
"""
FILES = ("faces.u8", "journal.jsonl", "pack.json")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    raw = write_raw(folder / "raw", "tree", faces=600, seed=2, size=48)
    import_all([SourceSpec(source="tree", root=str(raw))], folder / "imports")
    build_manifest(ManifestParams(), folder / "imports", folder / "manifest")
    return folder / "manifest" / "manifest.parquet"


def start(manifest, cache, kind):
    words = [sys.executable, "-c", SCRIPT, str(manifest), str(cache), kind]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def content(cache):
    [folder] = cache.glob("pack-*")
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("kind", ["faces", "native", "none"])
def test_kills_do_not_show_in_the_pack(manifest, tmp_path, kind):
    said = finished(start(manifest, tmp_path / "whole", kind))
    cache, chance, kills, rows = tmp_path / "cut", random.Random(1), 0, []
    for _ in range(40):
        process = start(manifest, cache, kind)
        while process.poll() is None and not list(cache.glob("pack-*")):
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.25))  # somewhere in what a chunk takes
        process.kill()
        process.communicate()
        if not (partial := list(cache.glob("pack-*.partial"))):
            break
        kills += 1
        rows.append((partial[0] / "journal.jsonl").read_bytes().count(b"\n"))
    assert finished(start(manifest, cache, kind)) == said
    assert kills >= 1 and rows == sorted(rows), f"what was done is kept: {rows}"
    assert content(cache) == content(tmp_path / "whole")
    assert not list(cache.glob("*.partial"))


def test_processes_that_start_together_survive_the_packers_death(manifest, tmp_path):
    said = finished(start(manifest, tmp_path / "whole", "faces"))
    together = [start(manifest, tmp_path / "cut", "faces") for _ in range(3)]
    while not list((tmp_path / "cut").glob("pack-*/journal.jsonl")):
        time.sleep(0.02)
    time.sleep(0.5)
    together[0].kill()
    together[0].communicate()
    assert [finished(p) for p in together[1:]] == [said] * 2
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
