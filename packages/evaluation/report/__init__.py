"""The report: one HTML file that shows what a set of shards holds, what is missing, and why."""

from scenewright.evaluation.report.page import write_report
from scenewright.evaluation.report.statistics import Statistics

__all__ = ["Statistics", "write_report"]
