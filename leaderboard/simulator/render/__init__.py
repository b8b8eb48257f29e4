"""CPU rasteriser for cameras and Embree ray casting for LiDAR."""
