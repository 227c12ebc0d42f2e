from examples.metasmoothness.run import main

main()
