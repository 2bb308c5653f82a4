"""A run file's phases, each a notebook in a kernel of its own, all below one MLflow run.

runfile.py, includes.py  a run file becomes a plan of validated phases
run.py                   one run file: ``fer run``
sweep.py                 one run file under every combination of some values: ``fer sweep``
grid.py                  what a sweep runs; comparison.py and curves.py show what came out
schedule.py              which phase begins when, for both
execution.py             a plan being executed: inputs, keys, folders, what became of each phase
task.py                  one phase: its MLflow run, from its beginning to its end
workers.py               where notebooks run: in this process, or several at once with a device each
papermill.py             one notebook, executed
cache_key.py             when a finished phase is used again; folders.py: where phases lie
standalone.py            a phase that is run by itself, from its notebook
"""
