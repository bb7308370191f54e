"""Contact sheets of predicted masks: choose the images, and draw them."""
