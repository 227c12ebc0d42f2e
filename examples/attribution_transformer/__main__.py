from examples.attribution_transformer.run import main

if __name__ == "__main__":
    main()
