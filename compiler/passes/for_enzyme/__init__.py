"""What this version of Enzyme needs before it can differentiate a module: these go with a newer
one.
"""
