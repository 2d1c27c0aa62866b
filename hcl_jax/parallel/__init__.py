"""Devices: the mesh, shardings, and the similarity engines. The only package that knows them."""
