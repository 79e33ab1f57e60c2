"""The flow itself: the only room, beside the command line, that knows all stages."""
