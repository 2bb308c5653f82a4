"""Training: one loop for teachers, students and adapted models.

teacher.py, student.py  the two objectives; label_objective.py: what they share
negative.py             negative learning and SelNLPL; negative_report.py: the files that explain it
fit.py                  a whole fit: device, data, starting weights, files; loop.py, step.py: its loop and one step
checkpoint.py           a training state on disk; resume_check.py: whether a fit goes on from it
nested.py               when nested blocks are updated; the objective with the prototype loss
validate.py             scores on val and the best bundle; progress.py, plots.py: what is shown
results.py              a finished fit, its scores, and what its run logs
distributed.py          several processes; cross_validation.py: out-of-fold logits
"""
