"""python -m examples.learning_rate_schedule"""

from examples.learning_rate_schedule.run import main

main()
