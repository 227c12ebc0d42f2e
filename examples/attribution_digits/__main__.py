from examples.attribution_digits.run import main

main()
