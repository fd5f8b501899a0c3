"""What runs on an instance: unit files, the installer, and how it is told."""
