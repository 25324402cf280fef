"""The leaderboard: many evaluation runs in one table, and no numbers side by side that cannot be compared."""

from scenewright.evaluation.leaderboard.page import write_leaderboard
from scenewright.evaluation.leaderboard.runs import Run, find_runs, read_runs

__all__ = ["Run", "find_runs", "read_runs", "write_leaderboard"]
