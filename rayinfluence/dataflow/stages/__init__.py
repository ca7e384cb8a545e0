"""What a run does, in the order of the flow; each stage says what is made from what."""
