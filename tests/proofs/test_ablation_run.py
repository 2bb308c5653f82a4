"""``params/ablation.yaml`` is really run on the real datasets with ``--smoke``, then its notebook alone."""

import json
import tarfile

import pytest
from road import command, make_home, red_boxes

from fer_lib.pipeline.runfile import load_run

SETS = {"fer2013": "fer2013", "affectnet_yolo_train": "YOLO_format", "affectnet_yolo_small": "*/YOLO_format",
        "expw": "expw"}  # fmt: skip


@pytest.fixture(scope="module")
def home(shared_data, tmp_path_factory):
    """A home with the datasets in data/ and the starting weights of faces in its store."""
    folder = tmp_path_factory.mktemp("ablation")
    home = make_home(folder / "home")
    (home / "data").mkdir()
    (home / "mlruns" / "weights").mkdir(parents=True)
    for name, inner in SETS.items():
        with tarfile.open(shared_data / f"{name}.tar.gz") as archive:
            archive.extractall(folder / name, filter="data")
        [root] = (folder / name).glob(inner)
        (home / "data" / name).symlink_to(root)
    (home / "data" / "ferplus").symlink_to(shared_data / "ferplus")
    weights = "faceres_mobilenetv1_100.safetensors"
    (home / "mlruns" / "weights" / weights).symlink_to(shared_data / "backbones" / weights)
    return home


def test_the_ablation_runs_and_its_notebook_alone_re_uses_it(home):
    ended = command("fer_lib.cli.main", "run", "params/ablation.yaml", "--smoke", home=home, cwd=home)
    assert ended.code == 0, ended.out[-4000:] + ended.err[-2000:]
    plan = load_run(home / "params" / "ablation.yaml", smoke=True)
    [folder] = [path.parent for path in home.glob("mlruns/phases/ablation-*/done.json")]
    result = json.loads((folder / "ablation.json").read_text())
    assert result["variants"] == plan.phase("ablation").params.variants and len(result["variants"]) == 6
    [evaluation] = result["evaluations"]
    assert set(evaluation["sources"]) == {"fer2013", "affectnet", "expw"}
    for own in evaluation["sources"].values():
        assert all(len(entry["accuracy"]["values"]) == 3 for entry in own["variants"].values())
    assert (folder / "figures" / "differences.png").stat().st_size > 5000
    before = {file: file.stat().st_mtime_ns for file in home.glob("mlruns/phases/*/done.json")}
    words = ("papermill", "notebooks/14_ablation.ipynb", "out.ipynb", "-p", "smoke", "True", "--no-progress-bar")
    ended = command(*words, home=home, cwd=home)
    assert ended.code == 0, ended.err[-3000:]
    changed = {file.parent for file, time in before.items() if file.stat().st_mtime_ns != time}
    assert changed == {folder} and len(list(home.glob("mlruns/phases/*/done.json"))) == len(before)
    assert red_boxes(json.loads((home / "out.ipynb").read_text())["cells"]) == []
    assert json.loads((folder / "ablation.json").read_text()) == result
