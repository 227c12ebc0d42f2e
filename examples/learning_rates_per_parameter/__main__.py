"""python -m examples.learning_rates_per_parameter"""

from examples.learning_rates_per_parameter.run import main

main()
