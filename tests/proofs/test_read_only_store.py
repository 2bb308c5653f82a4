"""``fer models``, ``fer runs`` and ``fer predict`` on a store that cannot be written."""

import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from road import command

from fer_lib.synthetic.dataset import draw_face

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


def allowed() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not allowed(), reason="no mount namespaces here (unshare --map-root-user --mount)")
def test_what_only_reads_works(road, tmp_path):
    home = shutil.copytree(road.home, tmp_path / "home", symlinks=True)
    assert command("fer_lib.cli.main", "models", home=home, cwd=tmp_path).code == 0  # re-bases the moved store
    Image.fromarray(draw_face(seed=5, index=3, size=240).image).save(tmp_path / "face.png")
    before = {file: file.stat().st_mtime_ns for file in home.rglob("*")}
    env = os.environ | {"FER_HOME": str(home)}
    for words in (["models"], ["runs"], ["predict", "--whole", str(tmp_path / "face.png")]):
        fer = [sys.executable, "-m", "fer_lib.cli.main", *words]
        done = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "bash", "-c", READ_ONLY, str(home), *fer],
            env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert {file: file.stat().st_mtime_ns for file in home.rglob("*")} == before
