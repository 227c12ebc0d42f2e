from examples.poisoning.run import main

main()
