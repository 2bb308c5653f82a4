"""Evaluation: models measured on the same rows, and compared.

evaluate.py     every model on one suite, all rows and each source; subjects.py: what is measured
report.py       the scores of one model on one set of rows; table.py: as tables; results.py: what a run logs
prior_correction.py        what correcting the class shares of each source changes
paired_comparison.py       two models on the same rows: differences, intervals, McNemar
stages.py       a child beside the model it started from; gates.py, suites.py: may a candidate replace a model?
checkpoint_sweep.py  the kept epochs of fits, and the best of them
ablation.py     training variants over seeds, against a control; ablation_view.py: table, plot, result
error_sheets.py worst errors, surest right answers, faces on which teachers disagree
stage_views.py, sweep_view.py  figures of two or more models
leaks.py        evaluated rows that a model may remember; annotators.py: models beside the people who voted
"""
