"""``neglconfig.json`` and ``neglrules.md`` of a fit with negative learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_lib.emotions import EMOTIONS
from fer_lib.params import FitParams, NegativeParams
from fer_lib.storage.atomic import fresh_file, write_json
from fer_lib.storage.json_files import read_json

FILES = ("neglconfig.json", "neglrules.md")
_DRAWS = {
    "uniform": "k is drawn with equal chances from the classes that the face is not labelled with.",
    "confusion": "k is drawn as often as the teacher takes train faces of the same label for k. A label without such "
    "errors uses all other classes with equal chances.",
    "lowest": "k is drawn from the {lowest} classes, other than the label, that the model itself holds least probable "
    "at this step.",
    "neg_label": "k is the `neg_label` of the manifest's row. Rows without one, and rows whose `neg_label` is their "
    "label, are left out.",
}


def write_negative_report(p: FitParams, out: Path) -> None:
    """Write the parameters as ``neglconfig.json``, which ``negative.config`` reads, and what they mean and did as
    ``neglrules.md``, with the epochs of ``history.json``."""
    write_json(out / FILES[0], p.negative.model_dump(exclude={"config"}))
    with fresh_file(out / FILES[1]) as work:
        work.write_text(rules(p, read_json(out / "history.json")), encoding="utf-8")


def rules(p: FitParams, history: list[dict[str, Any]]) -> str:
    """The text of ``neglrules.md``: the rules, and one table line per epoch of ``history``."""
    options = p.negative
    lines = [
        "# Negative learning in this fit",
        "",
        "Negative learning teaches that a face does *not* show a class k: its loss is -log(1 - p_k), and a step lowers "
        "p_k (Kim et al. 2019).",
        "",
        *(_selnlpl(p) if options.method == "selnlpl" else _negl(options)),
        f"- {_DRAWS[options.draw].format(lowest=options.lowest)}",
        f"- Classes of a face at each step: {options.draws}. Its loss is their mean.",
        "- All draws depend on seed, epoch and face alone.",
        "",
        "| epoch | share of faces past the gate | share of faces it was applied to | mean loss |",
        "|---|---|---|---|",
    ]
    for row in history:
        train, loss = row["train"], row["train"]["negl_loss"]
        shares = f"{train['negl_gate_share']:.4f} | {train['negl_applied_frac']:.4f}"
        lines.append(f"| {row['epoch'] + 1} | {shares} | {'' if loss is None else f'{loss:.4f}'} |")
    return "\n".join(lines) + "\n"


def _negl(options: NegativeParams) -> list[str]:
    own = {name: options.class_ratios.get(name, options.ratio) for name in EMOTIONS}
    ratios = ", ".join(f"{name} {ratio:g}" for name, ratio in own.items())
    return [
        f"- The loss of the fit is its usual loss plus {options.weight:g} times the mean of this loss over the faces "
        "of a micro-batch that it is applied to; 0 when there is none.",
        f"- Gate: only faces of whose class the model is unsure. The entropy of its prediction, without the margin, is "
        f"at least {options.entropy:g} ln 7.",
        f"- Ratio: of the faces of a class, this share is drawn in each epoch: {ratios}.",
        "- With mixup the label and the ratio are those of the face with the larger weight, and k is not the label of "
        "its partner either.",
    ]


def _selnlpl(p: FitParams) -> list[str]:
    nl, sel_nl, sel_pl = (f"{share:.0%}" for share in p.negative.shares)
    return [
        f"- SelNLPL, {p.epochs} epochs: it replaces the loss of the labels; a distillation term stays as it is.",
        f"- NL, the first {nl} of the epochs: negative learning on all faces, no loss of the labels.",
        f"- SelNL, the next {sel_nl}: negative learning on faces whose p of the label is at least 1/7.",
        f"- SelPL, the last {sel_pl}: the loss of the labels on faces whose p of the label is above 0.5; others, whose "
        "labels are probably wrong, have no loss.",
        "- p of the label is the mean over the augmented views of the 10 epochs before the running one.",
        "- Weight, ratio and entropy have no effect here.",
    ]
