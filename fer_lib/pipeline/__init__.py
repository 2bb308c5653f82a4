"""Run files: each phase is a notebook in its own kernel, and all phases of a run share one parent MLflow run.

runfile.py, includes.py  read a run file into a plan of validated phases; smoke.py: as a plan of seconds
run.py                   one run file: ``fer run``
sweep.py                 one run file with every combination of parameter values: ``fer sweep``
grid.py                  the combinations of a sweep; sweep_table.py compares their results
schedule.py              the order in which phases start, for both
execution.py             execution of a plan: inputs, cache keys, folders and the result of each phase
folders.py               the folders of phases, and the records of finished ones
reuse.py                 whether a phase re-uses a finished folder; cache_key.py: the key that decides it
phase_task.py            one phase: its MLflow run from start to end
workers.py               threads that execute notebooks, each kernel with its own devices
papermill.py             execution of one notebook
kernels.py               its kernel; kernel_server.py: the process from which kernels are forked
progress.py              what the terminal shows meanwhile, also of other long commands
standalone.py            a phase that a notebook runs without a pipeline
"""
