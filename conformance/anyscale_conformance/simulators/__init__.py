"""Clouds on this machine, over real HTTP, for what no emulator serves. A plugin's kit and tests use them; no plugin does."""
