"""The step of a run as pure functions: towers, objectives, memory, gradients, optimizer. Arrays in, arrays out."""
