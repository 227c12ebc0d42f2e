from examples.attribution_digits.run import main

if __name__ == "__main__":
    main()
