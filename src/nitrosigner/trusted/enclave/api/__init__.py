"""The routes, one file for each group. Each ends with the table of its routes."""
