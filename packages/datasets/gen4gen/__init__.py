"""Scenes composed of cut-out personal concepts.

Source: Yeh et al. 2024, "Gen4Gen: Generative Data Pipeline for Generative Multi-Concept Composition", arXiv 2402.15504.
"""
