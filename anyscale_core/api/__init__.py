"""The control plane over HTTPS: wire to plane and back, no decisions. May import controlplane and everything below.

``client`` and ``protocol`` load neither the server nor the control plane, so that a command answers at once.
"""
