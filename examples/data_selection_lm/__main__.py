from examples.data_selection_lm.run import main

if __name__ == "__main__":
    main()
