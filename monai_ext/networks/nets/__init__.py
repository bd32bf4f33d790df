"""Placeholder, filled by the maintainer."""
