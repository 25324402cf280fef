"""Samples in and out of WebDataset tars.

A shard is a tar and a manifest that is written last; docs/data.md describes both.
"""

from scenewright.datasets.shards.ledger import Fault, Manifest, manifests, recorded_run, stats, verify
from scenewright.datasets.shards.reader import Shards
from scenewright.datasets.shards.work import Counts, shard_numbers, write_shards
from scenewright.datasets.shards.writer import ShardWriter

__all__ = [
    "Counts",
    "Fault",
    "Manifest",
    "ShardWriter",
    "Shards",
    "manifests",
    "recorded_run",
    "shard_numbers",
    "stats",
    "verify",
    "write_shards",
]
