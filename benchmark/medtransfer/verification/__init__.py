"""`bench verify`: recompute the numbers of a submission from its own files and the data.

Anybody can write any number into a submission. These checks make that hard. Records must agree
with the cards, the data, the protocol, their own arrays and each other. The cells of draw 0 are
recomputed from their predictions. Only running cells again, chosen at random, shows that the
predictions come from the encoder.
"""
