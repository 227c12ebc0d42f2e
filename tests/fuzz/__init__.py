"""A fuzzer: random training steps, their metagradients against JAX's. docs/fuzzing.md says how to
run it and what it has found.

    generate.py      (seed, number) -> program, a tree of dicts and lists
    templates.py     what programs are made of: operations (elementwise.py, arrays.py),
                     operations with functions in them (control.py), steps and optimisers
                     (training.py)
    source.py        program -> Python source, the same that runs and that is printed
    compare.py       source -> metagradient and JAX's gradient of the unrolled run -> verdict
    worker.py        the process in which programs are compared: a crash or a hang there is a
                     finding, not the end
    shrink.py        a failing program -> a small one
    __main__.py      the command line

Why not Hypothesis, which the other tests use: program K of seed S must be reproducible without
running the K - 1 before it; each trial compiles for a second in another process, so that shrinking
must take large steps that know the structure (drop a layer and let its input through; drop a
transformation of the optimiser; one step instead of twelve), where Hypothesis deletes and lowers
single choices by the hundred; and the verdict has more than two values.
"""
