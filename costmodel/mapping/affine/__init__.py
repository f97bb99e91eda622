"""Affine loop nests: footprints, traffic, fusion, legality, lower bounds; the front door is `costmodel.mapping.polyhedral`."""
