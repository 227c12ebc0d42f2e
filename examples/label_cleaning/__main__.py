"""python -m examples.label_cleaning"""

from examples.label_cleaning.run import main

main()
