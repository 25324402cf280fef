"""Scenes composed of cut-out personal concepts.

Source: Yeh et al. 2024, "Gen4Gen: Generative Data Pipeline for Generative Multi-Concept Composition", arXiv 2402.15504.
"""

from scenewright.datasets.gen4gen.dataset import Gen4Gen

__all__ = ["Gen4Gen"]
