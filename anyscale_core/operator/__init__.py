"""Pull mode: a process in the customer's network that asks for orders and performs them with its own drivers.

It connects outward and nowhere else but to the control plane and the cloud. It imports no server, no store and no Ray.
"""
