"""The internet side of lightweight 4over6, RFC 7596: the lwAFTR."""
