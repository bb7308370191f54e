"""What an evaluation costs: FLOPs, parameters, memory, energy and the device."""
