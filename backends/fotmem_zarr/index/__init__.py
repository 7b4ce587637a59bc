"""How rows are found: recent rows in memory, segments of clustered keys, and their compaction."""
