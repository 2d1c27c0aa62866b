"""Devices: the mesh, the shardings of a state and a batch, replicas, and many seeds in one program."""
