"""Vectors and profiles to ordered lists."""
