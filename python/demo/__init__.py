"""The demo: metagradients through whole training runs, on handwritten digits.

It finds wrong labels and learns a learning-rate schedule. `python -m metagrad demo` runs it;
metagrad.demo.job has the sequence of what it does. It needs scikit-learn, matplotlib and optax,
which the extra `metagrad[demo]` brings. Nothing in `import metagrad` imports this package, and
importing this package alone imports none of the three.
"""
