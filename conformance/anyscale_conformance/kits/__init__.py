"""Kits that this distribution brings: the reference provider's. All others come by entry point."""
