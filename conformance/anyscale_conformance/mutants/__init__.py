"""Deliberately broken providers, each with the checks that must catch it."""
