"""Figures of the results pages and of the README, drawn from exported runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fer_lib.calibration import plots
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import FerError
from fer_lib.evaluation.table import source_intervals
from fer_lib.report import facts
from fer_lib.report.markdown import replace_section
from fer_lib.storage.json_files import read_json
from fer_lib.synthetic.dataset import contact_sheet
from fer_lib.training.plots import training_curves

_CAPTIONS = {  # of the README's images, in page order
    "faces": "Drawn faces of the embedded dataset, one row per class.",
    "reliability": "Reliability of the exported student, before and after temperature scaling.",
    "mlflow_runs": "A run and its phases in MLflow.",
    "mlflow_compare": "Two students compared in MLflow.",
}


def draw_figures(results: dict[str, Any], folder: Path) -> dict[str, dict[str, str]]:
    """Replace ``folder`` by a run's figures as PNG.

    Returns {section: {alternative text: path relative to the folder's parent}}; the sections are reliability,
    per_class, confusion, sources (of an evaluation that has several) and curves.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    paths: dict[str, dict[str, str]] = {
        section: {} for section in ("reliability", "per_class", "confusion", "sources", "curves")
    }

    def save(section: str, name: str, figure: Figure) -> None:
        _save(figure, folder / f"{name}.png", dpi=90)
        paths[section][name.replace("_", " ")] = f"{folder.name}/{name}.png"

    student, suite = facts.best_student(results), results["evaluation"]["suite"]
    for name, model in facts.evaluated_models(results).items():
        view = "none" if "none" in model["views"] else next(iter(model["views"]))
        report, title = model["views"][view]["all"], f"{name} on {suite}, {facts.VIEWS[view]}"
        if name == student:
            panels = {
                "before scaling": (report["reliability_raw"], report["ece_raw"]),
                "after scaling": (report["reliability_scaled"], report["ece_scaled"]),
            }
            save("reliability", "reliability", plots.reliability_panels(panels, title))
            save("per_class", "per_class_f1", plots.per_class_bars(report["raw"]["per_class_f1"], f"{title}: F1"))
        save("confusion", f"confusion_{name}", plots.confusion_matrix(report["raw"]["confusion"], title))
    if len(results["evaluation"].get("by_source", ())) > 1:
        intervals = source_intervals({"models": facts.evaluated_models(results)})
        save("sources", "sources", plots.score_intervals(intervals, f"{suite} by source, {facts.VIEWS['none']}"))
    for phase, fit in results["fits"].items():
        title = f"{phase}: {fit['model']['backbone']} at {fit['model']['image_size']} px"
        save("curves", f"curves_{phase}", training_curves(fit["history"], fit["ids"]["epoch"], title))
    return paths


def readme_images(results_json: Path, readme: Path) -> list[Path]:
    """Write ``docs/pictures/{faces,reliability}.png`` beside the README and fill its section with that folder's images.

    Raises:
        FerError: the results have not been rendered yet, or the run imported drawn faces.
    """
    folder = readme.parent / "docs" / "pictures"
    reliability = results_json.with_suffix("") / "reliability.png"
    if not reliability.is_file():
        raise FerError(f"{reliability} is missing: render the results first, with: fer report render {results_json}")
    facts.refuse_drawn_faces(read_json(results_json), results_json)
    folder.mkdir(parents=True, exist_ok=True)
    _draw_face_sheet(folder / "faces.png")
    shutil.copyfile(reliability, folder / "reliability.png")
    images = [folder / f"{name}.png" for name in _CAPTIONS if (folder / f"{name}.png").is_file()]
    items = [f"![{_CAPTIONS[p.stem]}](docs/pictures/{p.name})\n\n{_CAPTIONS[p.stem]}" for p in images]
    text = readme.read_text(encoding="utf-8")
    readme.write_text(replace_section(text, "pictures", "\n\n".join(items)), encoding="utf-8")
    return images


def _draw_face_sheet(path: Path, per_class: int = 6, size: int = 64) -> None:
    """Six drawn faces per class, one row per class, with the class names."""
    sheet, labels = contact_sheet(per_class, size), 90  # pixels left for the names
    height, width = sheet.shape[:2]
    figure = Figure(figsize=((width + labels) / 100, height / 100), dpi=100)
    axes = figure.add_axes((labels / (width + labels), 0, width / (width + labels), 1))
    axes.imshow(sheet)
    axes.set_yticks([4 + size / 2 + row * (size + 4) for row in range(len(EMOTIONS))], EMOTIONS)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _save(figure, path)


def _save(figure: Figure, path: Path, **options: Any) -> None:
    figure.savefig(path, metadata={"Software": None}, **options)  # no version: equal numbers give equal bytes
