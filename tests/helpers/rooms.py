"""The rooms of the package, floor by floor."""

from __future__ import annotations

# Floors of the house: a package may import those on floors below its own, and nothing beside it.
FLOORS = [
    {"core"},
    {"specs"},
    {"protocols", "phantoms", "corruptions", "metrics", "ranking"},
    {"data", "acceleration"},
    {"encoders"},
    {"cost"},
    {"adaptation"},
    {"evaluation"},
    {"pretraining", "transferability"},
    {"verification", "contact_sheets"},
    {"cli"},
]
