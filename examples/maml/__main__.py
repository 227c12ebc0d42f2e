"""python -m examples.maml"""

from examples.maml.run import main

main()
