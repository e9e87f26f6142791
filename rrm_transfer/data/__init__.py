"""Any labelled image data set as batches of pixels in [0, 1]."""
