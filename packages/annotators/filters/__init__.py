"""One file per filter: what is not worth keeping, and why."""
