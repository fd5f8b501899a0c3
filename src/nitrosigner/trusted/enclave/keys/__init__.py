"""The keys, sealed at rest and open for one signature."""
