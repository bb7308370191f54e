"""Bootstrap, rank statistics, uncertainty and contamination."""
