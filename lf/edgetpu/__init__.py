"""The Edge TPU: predict what its compiler maps, repair files, compile them."""
