"""What an optimised HLO module says of the program: its products, its copies, its control flow."""
