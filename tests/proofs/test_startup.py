"""The command answers in the time that is promised."""

import os
import statistics
import subprocess
import sys


def processor_seconds(*words: str) -> float:
    """User and system seconds of one process, so that whatever else runs here does not count."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_answers_in_under_three_tenths_of_a_second():
    call = ("-c", "from fer_lib.cli.main import main; main(['--help'])")
    took = [processor_seconds(*call) for _ in range(11)]
    empty = [processor_seconds("-c", "pass") for _ in range(11)]
    print(f"fer --help: median {statistics.median(took):.3f} s; python alone {statistics.median(empty):.3f} s")
    assert statistics.median(took) < 0.3
