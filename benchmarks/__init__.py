"""What this product costs beside the floor, both measured in one run. Prints rows; never fails a test for a number.

``python -m benchmarks`` lists the names. Machines are noisy: quote ratios, medians and spreads, never a lone absolute time.
"""
