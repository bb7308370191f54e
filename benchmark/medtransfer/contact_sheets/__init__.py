"""Contact sheets of predicted masks: which images to show, and drawing them."""
