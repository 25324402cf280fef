"""Retrieved images with text features extrapolated from a small captioned dataset.

Source: Ye and Liu 2024, "Data Extrapolation for Text-to-image Generation on Small Datasets", arXiv 2410.01638.
"""

from scenewright.datasets.extrapolated.dataset import Extrapolated

__all__ = ["Extrapolated"]
