"""`bench verify`: recompute what a submission says, from what it holds and from the data.

Who writes a submission may write any number into it. What is checked here makes that hard: the
records must fit the cards, the data, the protocol, their own arrays and each other, and the cells
of draw 0 are computed again from their predictions. What no file can show is whether the
predictions are the encoder's own; running cells again, chosen at random, shows that.
"""
