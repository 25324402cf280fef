import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "least"), [("changes", 60), ("moments", 15)])
def test_a_run_that_was_killed_and_continued_ends_with_the_same_bytes(mode, least, tmp_path):
    program = Path(__file__).with_name("killing.py")
    done = subprocess.run([sys.executable, program, tmp_path, mode], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["shards"] == 3 and found["kills"] >= least, found
