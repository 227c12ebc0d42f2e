"""The demo: real digits, wrong labels found and a learning-rate schedule learned, by metagradients
through whole training runs.

`python -m metagrad demo` runs it (metagrad.demo.job is the sequence of what it does). It needs
scikit-learn, matplotlib and optax, which the extra `metagrad[demo]` brings. Nothing in `import
metagrad` imports this package, and importing this package alone imports none of the three.
"""
