"""The contract: four driver interfaces with the same four verbs, capabilities, and layers around any driver.

May import models, errors and the clock. Plugins implement what is here and import nothing above it.
"""
