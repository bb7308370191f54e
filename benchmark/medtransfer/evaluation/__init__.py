"""Evaluations: the plan of cells, their execution, and the ledger of records."""
