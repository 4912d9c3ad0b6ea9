"""Times files on a device, interleaved, and counts their instructions on emulated cores."""
