"""Serialized forms: protobuf messages, TFRecord and ArrayRecord framing, JSON fields, pickles."""
