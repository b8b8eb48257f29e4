"""Dresses a road network up as a town: meshes with semantic labels, and solid boxes for physics."""
