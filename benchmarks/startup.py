"""How long ``annotate.py --help`` takes, against a Python that does nothing."""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ANNOTATE = Path(__file__).parents[1] / "entrypoints" / "annotate.py"


def seconds(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="once, to see that it runs")
    repeats = 1 if parser.parse_args().smoke else 7
    rounds = [(seconds(str(ANNOTATE), "--help"), seconds("-c", "pass")) for _ in range(repeats)]
    ours, bare = (median(column) for column in zip(*rounds, strict=True))
    print(f"annotate.py --help  {ours:.2f} s (fastest {min(rounds)[0]:.2f}; goal 2.5)")
    print(f"python -c pass      {bare:.2f} s")
    print(f"  annotate.py --help / python -c pass: {ours / bare:.1f}")


if __name__ == "__main__":
    main()
