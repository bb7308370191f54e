"""What an evaluation costs: FLOPs, parameters, memory and the device."""
