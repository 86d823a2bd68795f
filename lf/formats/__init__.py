"""File formats: cards, protobuf, TFLite, int4."""
