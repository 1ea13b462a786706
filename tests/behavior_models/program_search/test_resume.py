"""A search that is killed again and again ends with the bytes of one that is not."""

import os
import signal
import subprocess
import sys
import time

import pytest

NUM_KILLS = 10
PROGRAM = """
import sys
from pathlib import Path
from behavior_models.program_search.domains.idm_law import idm_law_domain
from behavior_models.program_search.evolution import Search, SearchConfig
from behavior_models.program_search.run import run_search

out = Path(sys.argv[1])
config = SearchConfig(budget=900, population=30, tournament=5, num_tries=8, num_children=2, train_interval=20)
result = run_search(out, Search(idm_law_domain(), config), [0, 1], lambda *item: print(*item, flush=True), save_every=1)
archive = result.archive
for name in ("fitness", "identity", "parent", "decision"):
    (out / name).write_bytes(getattr(archive, name).tobytes())
for name in ("operators", "arguments"):
    (out / name).write_bytes(getattr(archive.programs, name).tobytes())
"""
FILES = ("fitness", "identity", "parent", "decision", "operators", "arguments")


@pytest.mark.slow
def test_killed_searches_continue_to_the_same_bytes(tmp_path):
    command = [sys.executable, "-c", PROGRAM]
    # Optax multiplies integers by floats, which strict promotion refuses.
    env = os.environ | {"JAX_NUMPY_DTYPE_PROMOTION": "standard"}
    subprocess.run([*command, str(tmp_path / "whole")], check=True, stdout=subprocess.DEVNULL, env=env)
    kills, folder = 0, str(tmp_path / "killed")
    while kills < NUM_KILLS:
        process = subprocess.Popen([*command, folder], stdout=subprocess.PIPE, text=True, env=env)
        # Killed a moment after its second line, in the middle of a block or of a checkpoint.
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        time.sleep(0.02 * kills)
        if process.poll() is None and all(lines):
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        process.stdout.close()
    subprocess.run([*command, folder], check=True, stdout=subprocess.DEVNULL, env=env)
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
