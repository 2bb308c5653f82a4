"""Temperature scaling: the NLL of ``logits * b`` is convex in b = 1/T, so a fit never ends in a local minimum."""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator
from scipy.optimize import brentq, minimize

from fer_lib.calibration.metrics import checked_logits, checked_probs, class_names
from fer_lib.errors import DataError, FerError

BOUNDS = (1e-3, 1e3)
USUAL = (0.2, 20.0)  # a temperature outside is possible but worth a look: flagged
View = Literal["none", "flip"]  # test-time augmentation of the logits: none, or the mean with those of the mirror image
_VIEW_NAMES = {"none": "the single view", "flip": "the flip average"}


class Temperature(BaseModel):
    """A frozen temperature: one number (``global``, ``fixed``), one a class (``vector``), or nothing (``none``)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    mode: Literal["none", "global", "vector", "fixed"]
    global_temperature: float | None = None
    temperature_vector: list[float] | None = None
    fitted_on: str = ""
    view: View | None = None  # of the logits it was fitted on; None: not fitted, or not recorded
    n: int = 0  # rows it was fitted on
    note: str = ""
    flagged: bool = False  # some temperature outside USUAL
    argmax_changed: float = 0.0  # share of the fitted rows whose predicted class it changed

    @model_validator(mode="after")
    def _consistent(self):
        if (self.global_temperature is not None) != (self.mode in ("global", "fixed")):
            raise ValueError(f"mode {self.mode!r} with global_temperature {self.global_temperature!r}: they disagree")
        if (self.temperature_vector is not None) != (self.mode == "vector"):
            raise ValueError(f"mode {self.mode!r} with temperature_vector {self.temperature_vector!r}: they disagree")
        if not all(np.isfinite(t) and t > 0 for t in self.values()):
            raise ValueError(f"temperatures must be positive and finite, not {self.values()}")
        return self

    def values(self) -> list[float]:
        """The temperatures: one, one a class, or none."""
        if self.mode == "vector":
            return list(self.temperature_vector)
        return [] if self.global_temperature is None else [self.global_temperature]

    def apply(self, logits, view: View = "none") -> np.ndarray:
        """Scaled logits, float64 [N, K] (a copy), of ``logits`` [N, K] that were computed under ``view``.

        Raises :class:`DataError` when K is not the vector's length, or when it was fitted under another view.
        """
        if self.view not in (None, view):
            raise DataError(
                f"the temperature was fitted on {self.fitted_on} ({self.n} rows) under {_VIEW_NAMES[self.view]} and "
                f"the logits are of {_VIEW_NAMES[view]}: fit a temperature under {_VIEW_NAMES[view]}, or predict "
                f"under {_VIEW_NAMES[self.view]}"
            )
        logits = np.array(logits, dtype=np.float64)
        if self.mode == "none":
            return logits
        values = self.values()
        if self.mode == "vector" and logits.shape[-1] != len(values):
            raise DataError(
                f"{logits.shape[-1]} classes of logits, {len(values)} temperatures: use the ones fitted on this model"
            )
        return logits / np.asarray(values)


def scaled_nll(inverse: np.ndarray, logits: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean NLL of ``logits * inverse`` and its gradient [K] in ``inverse`` [K]; float64 logits [N, K], int y [N]."""
    scaled = logits * inverse
    shifted = scaled - scaled.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=1)
    rows = np.arange(len(y))
    value = (np.log(total) - shifted[rows, y]).mean()
    residual = weights / total[:, None]
    residual[rows, y] -= 1.0
    return float(value), (residual * logits).mean(axis=0)


def _lead(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    return logits - logits[np.arange(len(y)), y][:, None]


def _slope(inverse: float, lead: np.ndarray) -> float:
    """d NLL / d b of ``logits * b``: the mean of E_p[z] - z_y, from ``lead`` [N, K] = z_k - z_y (no cancellation).

    With votes v in place of a label, z_y is the mean of z under v.
    """
    scaled = inverse * lead
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return float(((weights * lead).sum(axis=1) / weights.sum(axis=1)).mean())


def _fit_global(lead, low, high) -> tuple[float, bool]:
    """Inverse temperature within [low, high] and whether it is a bound; ``lead`` as for :func:`_slope`."""
    if _slope(low, lead) >= 0:
        return low, True
    if _slope(high, lead) <= 0:
        return high, True
    # the slope is increasing in b: its root is the minimum.  In log b the bracket's six decades are evenly sized.
    root = brentq(lambda u: _slope(np.exp(u), lead), np.log(low), np.log(high), xtol=1e-13, rtol=1e-13)
    return float(np.exp(root)), False


def _fit_vector(logits, y, low, high) -> tuple[np.ndarray, np.ndarray]:
    """Inverse temperatures [K] and which of them lie on a bound."""
    start, _ = _fit_global(_lead(logits, y), low, high)
    k = logits.shape[1]
    # in units of the global solution every coordinate is near one, whatever the scale of the logits
    unit = logits * start
    result = minimize(
        scaled_nll,
        np.ones(k),
        args=(unit, y),
        jac=True,
        method="L-BFGS-B",
        bounds=[(low / start, high / start)] * k,
        options={"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-9},
    )
    inverse, hits = np.clip(result.x * start, low, high), np.zeros(k, dtype=bool)
    for c in range(k):
        # a slope may fade away long before a bound it never turns at: convexity tells the two apart at the bound itself
        for bound, outwards in ((low, 1.0), (high, -1.0)):
            at_bound = np.where(np.arange(k) == c, bound, inverse)
            if outwards * scaled_nll(at_bound, logits, y)[1][c] >= 0:
                inverse, hits[c] = at_bound, True
                break
    return inverse, hits


def fit(
    logits,
    y,
    mode: Literal["global", "vector"] = "global",
    fitted_on: str = "val/temperature",
    bounds: tuple[float, float] = BOUNDS,
    allow_bound: bool = False,
    view: View = "none",
) -> Temperature:
    """The temperature (Guo 2017) or the per-class temperatures that minimise the NLL of these rows.

    ``logits`` [N, K] under ``view``, ``y`` int [N]; ``bounds`` are temperatures.  Raises
    :class:`FerError` when the minimum lies on a bound unless ``allow_bound``, which writes it in the note.  There
    is none inside the bounds when every row is predicted correctly, or when the logits are no better than chance.
    A per-class fit may change the predicted class: ``argmax_changed`` is the share of rows where it does.
    """
    logits, y = checked_logits(logits, y)
    if not 0 < bounds[0] < bounds[1] < np.inf:
        raise FerError(f"temperature bounds {bounds} are not an interval of positive numbers: pass (low, high)")
    low, high = 1.0 / bounds[1], 1.0 / bounds[0]
    if mode == "global":
        inverse, hit = _fit_global(_lead(logits, y), low, high)
        temperatures, hits = [1.0 / inverse], np.array([hit])
    elif mode == "vector":
        inverse, hits = _fit_vector(logits, y, low, high)
        temperatures = (1.0 / inverse).tolist()
    else:
        raise FerError(f"mode {mode!r} has nothing to fit: use 'global' or 'vector', or Temperature(mode=...) itself")
    note = ""
    if hits.any():
        names = ("the temperature",) if mode == "global" else class_names(logits.shape[1])
        which = ", ".join(f"{name} ({t:g})" for name, t, h in zip(names, temperatures, hits, strict=True) if h)
        note = f"at the bound of {bounds[0]:g}..{bounds[1]:g}: {which}"
        if not allow_bound:
            raise FerError(
                f"temperature fit on {fitted_on} ({len(y)} rows) ends {note}: the NLL has no minimum inside; look at "
                "the model's accuracy on these rows and at classes absent from them, add rows, or pass allow_bound=True"
            )
    values = {"global_temperature": temperatures[0]} if mode == "global" else {"temperature_vector": temperatures}
    changed = (logits.argmax(axis=1) != (logits * inverse).argmax(axis=1)).mean()
    return Temperature(
        mode=mode,
        fitted_on=fitted_on,
        view=view,
        n=len(y),
        note=note,
        flagged=any(not USUAL[0] <= t <= USUAL[1] for t in temperatures),
        argmax_changed=float(changed),
        **values,
    )


def fit_to_votes(logits, votes, fitted_on: str = "val/temperature", view: View = "none") -> Temperature:
    """The temperature that minimises the cross-entropy of these rows under their annotators' votes.

    ``logits`` [N, K] under ``view``; ``votes`` float64 [N, K], shares that sum to one.  It is convex in 1/T as the NLL
    is, and equal to :func:`fit` where all votes of a row agree.  Raises FerError when the minimum lies on a bound.
    """
    logits, _ = checked_logits(logits)
    votes, _ = checked_probs(votes)
    if votes.shape != logits.shape:
        raise DataError(f"votes have shape {votes.shape}, logits {logits.shape}: pass the votes of the same rows")
    lead = logits - (votes * logits).sum(axis=1, keepdims=True)
    inverse, hit = _fit_global(lead, 1.0 / BOUNDS[1], 1.0 / BOUNDS[0])
    if hit:
        raise FerError(
            f"temperature fit to votes on {fitted_on} ({len(votes)} rows) ends at the bound {1.0 / inverse:g}: the "
            "model is no better than chance on these rows, or right on all of them; add rows"
        )
    value = 1.0 / inverse
    return Temperature(
        mode="global", global_temperature=value, fitted_on=fitted_on, view=view, n=len(votes), note="fitted to votes",
        flagged=not USUAL[0] <= value <= USUAL[1],
    )  # fmt: skip
