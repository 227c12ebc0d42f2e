"""Where the slots of a streamed run are kept: on the device, in host memory, on disk."""
