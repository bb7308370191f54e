"""Sources become memory-mapped splits; few-shot draws choose among their items."""
