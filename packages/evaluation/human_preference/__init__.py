"""What people prefer: a page to judge on, their votes, and how well every metric agrees with them."""

from scenewright.evaluation.human_preference.metric import HumanPreference

__all__ = ["HumanPreference"]
