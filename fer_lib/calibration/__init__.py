"""Scores and calibration: pure float64 functions of logits or probabilities and labels.

metrics.py      accuracy, F1, NLL, Brier, ECE and its relatives; votes.py: against annotators' votes
temperature.py  temperature scaling; bias.py: logit bias and abstention; prior_shift.py: another class prior
intervals.py    confidence intervals; conformal.py: prediction sets, and a confidence chosen for a risk
plots.py        reliability diagram, confusion matrix; plot_style.py: the theme of every figure
"""
