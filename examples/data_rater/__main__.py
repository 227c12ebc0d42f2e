"""python -m examples.data_rater"""

from examples.data_rater.run import main

main()
