"""Cost of an evaluation: FLOPs, parameters, memory, energy and the device."""
