"""Plugins that are broken before they are asked for anything."""
