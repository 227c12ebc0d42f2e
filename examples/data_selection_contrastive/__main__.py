from examples.data_selection_contrastive.run import main

main()
