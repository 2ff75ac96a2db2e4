"""Compute Engine, a file per family of resources. Importing a file registers who answers its methods."""
