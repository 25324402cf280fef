"""A layout model small enough to train on a CPU."""
