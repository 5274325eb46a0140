"""Speed on this machine: `python -m benchmarks.flow` for the whole path, `python -m benchmarks.index` for the item index."""
