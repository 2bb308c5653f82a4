"""The scoring notebook on a named session: corrections are stored once and scored under another evalset id."""

import json
import shutil
from pathlib import Path

from fer_lib.live.score import score, segments
from fer_lib.live.session_files import read_frames
from fer_lib.live.synthetic_session import write_synthetic_session
from fer_lib.pipeline import folders
from fer_lib.pipeline.papermill import execute


def scored(walked, server, folder: Path, tmp_path: Path, **values):
    """Run the notebook by papermill; its finished phase's folder and the text of the executed notebook."""
    before = {r["folder"] for r in folders.finished_phases(("score",))}
    notebook, output = walked.home / "notebooks" / "10_score_session.ipynb", tmp_path / "out.ipynb"
    parameters = {"session": str(folder), **values}
    execute(notebook, output, parameters, walked.home, {}, server.address)
    [record] = [r for r in folders.finished_phases(("score",)) if r["folder"] not in before]
    return Path(record["folder"]), output.read_text()


def test_a_named_session_is_scored_corrected_and_left_as_it_was_logged(walked, kernel_server, tmp_path):
    session = write_synthetic_session(tmp_path / "session", seed=8)
    frames, plain = read_frames(session), score(session)
    first = segments(frames.manual, frames.time_sec)[0]
    wrong = [first.first, first.last, "Neutral" if first.label == 3 else "Happy"]
    grid = {"ema_alpha": [0.0, 0.7], "hysteresis_delta": [0.08], "vote_window": [15], "vote_min_count": [8]}
    logged = (session / "per_frame.csv").read_bytes()
    options = dict(corrections=[wrong], study=grid, faces_per_segment=3)
    folder, said = scored(walked, kernel_server, session, tmp_path, **options)
    run = walked.of_folder(folder)
    result = json.loads((folder / "score.json").read_text())
    assert result == json.loads(json.dumps(score(session))) and result["corrected"]
    assert result["evalset_id"] != plain["evalset_id"] and (session / "per_frame.csv").read_bytes() == logged
    assert run.data.tags["fer.id.evalset_id"] == result["evalset_id"]
    assert run.data.tags["fer.id.protocol_id"] == result["protocol_id"]
    assert run.data.metrics["n_used"] == result["n_used"] and run.data.metrics["n_expected"] == result["n_expected"]
    assert run.data.metrics["smoothed/accuracy"] == result["smoothed"]["accuracy"]
    assert len((folder / "study.csv").read_text().splitlines()) == 3
    kept = (session / "corrections.csv").read_text()
    assert kept.splitlines()[1:] == [",".join(map(str, wrong))]
    assert "7 manual segments" in said and "corrections.csv was applied" in said

    shutil.rmtree(folder)
    scored(walked, kernel_server, session, tmp_path, **options)
    assert (session / "corrections.csv").read_text() == kept, "run again, it is not added again"


def test_a_session_without_pictures_is_scored_all_the_same(walked, kernel_server, tmp_path):
    session = write_synthetic_session(tmp_path / "session", seed=9, record=False)
    folder, said = scored(walked, kernel_server, session, tmp_path)
    assert "cannot be shown because it has no raw video: record with fer live --record raw" in said
    assert not (folder / "figures" / "faces_1.png").exists() and (folder / "figures" / "study.png").exists()
