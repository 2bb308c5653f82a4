"""A run file's phases, each a notebook in a kernel of its own, all below one MLflow run.

run.py           one run file: ``fer run``
sweep.py         one run file under every combination of some values: ``fer sweep``
combinations.py  what a sweep runs; comparison.py and curves.py show what came out
schedule.py      which phase begins when, for both
execution.py     a plan being executed: inputs, keys, folders, what became of each phase
task.py          one phase: its MLflow run, from its beginning to its end
workers.py       where notebooks run: in this process, or several at once with a device each
alone.py         a phase that is run by itself
"""

from fer_lib.pipeline.alone import prepare_alone, prepared, upstream
from fer_lib.pipeline.run import choose, run_file

__all__ = ["choose", "prepare_alone", "prepared", "run_file", "upstream"]
