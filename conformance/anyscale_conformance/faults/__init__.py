"""Faults: one grammar (``plan``), and carriers that let them strike: between suite and driver, or below an SDK."""
