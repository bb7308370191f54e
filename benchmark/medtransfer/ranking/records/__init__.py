"""Submissions read from disk, as data frames."""
