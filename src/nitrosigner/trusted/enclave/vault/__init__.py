"""The keys that seal everything, and the records that they seal."""
