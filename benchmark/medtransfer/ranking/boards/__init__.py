"""Boards: layout, columns, comparisons and summaries."""
