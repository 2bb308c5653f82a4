"""Evaluation: models measured on the same rows, and compared.

evaluate.py     every model on one suite; report.py: the scores of one; table.py: as tables; results.py: what a run logs
paired.py       two models on the same rows: differences, intervals, McNemar
stages.py       a child beside the model it started from; gates.py, suites.py: may a candidate replace a model?
checkpoints.py  the kept epochs of fits, and the best of them
error_sheets.py worst errors, surest right answers, faces on which teachers disagree
gate_view.py    figures of two or more models, with stage_views.py and sweep_view.py
leaks.py        evaluated rows that a model may remember; annotators.py: models beside the people who voted
"""
