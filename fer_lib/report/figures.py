"""The pictures of the results pages and of the README, drawn from exported results alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from fer_lib.calibration import plots
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import FerError
from fer_lib.report import facts
from fer_lib.report.markdown import replace_section
from fer_lib.storage.json_files import read_json
from fer_lib.training.plots import training_curves

_CAPTIONS = {  # of the pictures that the README shows, in their order
    "faces": "Drawn faces of the embedded dataset, a row a class.",
    "reliability": "Reliability of the exported student, before and after temperature scaling.",
    "mlflow_runs": "A run and its phases in MLflow.",
    "mlflow_compare": "Two students compared in MLflow.",
}


def draw_results(results: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    """Draw a run's pictures into ``folder``, replacing those there; {section: paths relative to its parent}."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made: dict[str, list[str]] = {"reliability": [], "per_class": [], "confusion": [], "curves": []}

    def save(section: str, name: str, figure) -> None:
        figure.savefig(folder / name, dpi=90, metadata={"Software": None})  # the same picture from the same numbers
        made[section].append(f"{folder.name}/{name}")

    chosen, suite = facts.chosen_student(results), results["evaluation"]["suite"]
    for name, model in facts.measured(results).items():
        view = "none" if "none" in model["views"] else next(iter(model["views"]))
        report, shown = model["views"][view]["all"], facts.VIEWS[view]
        if name == chosen:
            panels = {
                "before scaling": (report["reliability_raw"], report["ece_raw"]),
                "after scaling": (report["reliability_scaled"], report["ece_scaled"]),
            }
            save("reliability", "reliability.png", plots.reliability_panels(panels, f"{name} on {suite}, {shown}"))
            bars = plots.per_class_bars(report["raw"]["per_class_f1"], f"{name} on {suite}, {shown}: F1")
            save("per_class", "per_class_f1.png", bars)
        matrix = plots.confusion_matrix(report["raw"]["confusion"], f"{name} on {suite}, {shown}")
        save("confusion", f"confusion_{name}.png", matrix)
    for phase, fit in results["fits"].items():
        title = f"{phase}: {fit['model']['backbone']} at {fit['model']['image_size']} px"
        save("curves", f"curves_{phase}.png", training_curves(fit["history"], fit["ids"]["epoch"], title))
    return made


def faces_sheet(path: Path, per_class: int = 6) -> Path:
    """Some drawn faces of each class, with the classes' names, as a PNG."""
    from matplotlib.figure import Figure

    from fer_lib.synthetic.dataset import contact_sheet

    size = 64
    sheet = contact_sheet(per_class, size)
    height, width = sheet.shape[:2]
    figure = Figure(figsize=((width + 90) / 100, height / 100), dpi=100)
    axes = figure.add_axes((90 / (width + 90), 0, width / (width + 90), 1))
    axes.imshow(sheet)
    axes.set_yticks([4 + size / 2 + row * (size + 4) for row in range(len(EMOTIONS))], EMOTIONS)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return path


def readme_pictures(results_json: Path, readme: Path) -> list[Path]:
    """Write ``docs/pictures/{faces,reliability}.png`` beside the README and show what lies there in its section.

    Raises FerError when the results have not been rendered yet, or the run imported drawn faces.
    """
    folder = readme.parent / "docs" / "pictures"
    drawn = results_json.with_suffix("") / "reliability.png"
    if not drawn.is_file():
        raise FerError(f"{drawn} is missing: render the results first, with: fer report render {results_json}")
    facts.refuse_drawn(read_json(results_json), results_json)
    faces_sheet(folder / "faces.png")
    shutil.copyfile(drawn, folder / "reliability.png")
    shown = [folder / f"{name}.png" for name in _CAPTIONS if (folder / f"{name}.png").is_file()]
    items = [f"![{_CAPTIONS[p.stem]}](docs/pictures/{p.name})\n\n{_CAPTIONS[p.stem]}" for p in shown]
    text = readme.read_text(encoding="utf-8")
    readme.write_text(replace_section(text, "pictures", "\n\n".join(items)), encoding="utf-8")
    return shown
