"""The validators' keys, behind the guard that never lets a slashable pair pass."""
