"""Painters of what is around pasted things."""
