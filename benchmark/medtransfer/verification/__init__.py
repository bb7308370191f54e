"""`bench verify`: recompute what a submission says, from what it holds and from the data.

Anybody can write any number into a submission. These checks make that hard: the records must fit
the cards, the data, the protocol, their own arrays and each other, and the cells of draw 0 are
computed again from their predictions. No file shows that the predictions come from the encoder;
running cells again, chosen at random, does.
"""
