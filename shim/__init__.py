"""What a framework runs: the `neuronx-cc` that is first on PATH.

Importing this package imports nothing else: the hit path loads only the modules it needs.
"""
