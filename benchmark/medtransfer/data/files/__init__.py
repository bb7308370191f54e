"""Published files: download, checksums, archives and the cache."""
