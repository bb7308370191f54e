"""The encoders that ship with the benchmark; one more is one more entry in a file here."""
