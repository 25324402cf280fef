"""Planners: where each thing goes on its canvas."""
